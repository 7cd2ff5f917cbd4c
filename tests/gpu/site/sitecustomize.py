"""Python imports this at its start where the folder is on its path (`tests/gpu/everywhere.py`).

Processes of the harness and of Ray's workers get the pretend device, which must be there before torch."""

import sys

OURS = ("/bin/harness", "harness.cli", "harness.watched", "default_worker.py")
if any(word in part for part in sys.orig_argv for word in OURS):
    from tests.gpu import pretend  # isort: skip

    from tests.gpu.matrix import on

    device = on(pretend.Gpu())  # kept, or it would be left at once
    device.__enter__()
