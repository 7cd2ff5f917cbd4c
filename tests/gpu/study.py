"""A study, a replay and a trial by the command line on the pretend device; prints what they leave, as JSON.

python -m tests.gpu.study FOLDER
"""

from tests.gpu import pretend  # isort: skip - before torch

import contextlib
import io
import json
import sys
from pathlib import Path

from harness.cli import main as command
from harness.record import load_record
from tests.gpu.matrix import on

SIZES = ["--set", "upper_dim=6", "--set", "lower_dim=5", "--budget", "60"]


def said(*words: str) -> tuple[int, str]:
    """Exit code and stdout of `harness WORDS`."""
    sys.argv = ["harness", *words]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            command()
        except SystemExit as end:
            return int(end.code or 0), out.getvalue()
    return 0, out.getvalue()


def main() -> None:
    folder = sys.argv[1]
    study = ["run", "quadratic", *SIZES, "--solvers", "bsgm,soba", "--trials", "3", "--out", folder]
    with on(pretend.Gpu()):
        run, _ = said(*study, "--executor", "inline")
        replay, compared = said("replay", folder, "bsgm/1")
        values = ["upper_step_size=0.1", "lower_step_size=0.1", "lower_steps=1", "system_steps=1"]
        trial, found = said("trial", "quadratic", "bsgm", *values, *SIZES, "--json")
    trials = load_record(Path(folder)).trials
    line = {"codes": [run, replay, trial], "devices": sorted(set(trials["device"])), "compared": compared}
    line |= {"packs": sorted(trials["pack"].tolist()), "trial": json.loads(found)["device"]}
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
