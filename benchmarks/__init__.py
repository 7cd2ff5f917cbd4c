"""Speed of the harness against the published way of doing the same: `python -m benchmarks.NAME --help`."""
