"""A command in which every process of the harness has the pretend device, as one GPU that Ray shares out.

    python -m tests.gpu.everywhere python -m upkeep.kills --device cuda --rounds 4

Each process has the device's memory for itself, less what `set_per_process_memory_fraction` leaves to others.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.gpu.build import LIBRARY, SOURCE, build

SITE, ROOT = SOURCE.parent / "site", SOURCE.parents[2]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = filter(None, [str(SITE), str(ROOT), os.environ.get("PYTHONPATH", "")])
        around = {
            LIBRARY: os.environ.get(LIBRARY) or str(build(Path(folder))),
            "PYTHONPATH": os.pathsep.join(paths),
            "RAY_OVERRIDE_RESOURCES": '{"GPU": 1}',
        }
        raise SystemExit(subprocess.run(sys.argv[1:], env=os.environ | around).returncode)


if __name__ == "__main__":
    main()
