"""Launches, waits and copies of methods on problems, by what they belong to, on the pretend device.

    python -m tests.gpu.counts [PROBLEM] [--solvers NAME,...|all] [--trials 1,8]

prints a line for each solver and number of trials, as JSON. PROBLEM: a set-up of `compare.py`, data_poisoning
unless given, whose retraining then has as many blocks as MNIST's; or mnist, for data poisoning of its size.
"device": microseconds that an H100 would take, by the model of `pretend.py`.
"""

from tests.gpu import pretend  # isort: skip - before torch

from collections import Counter
from typing import Any

from tests.gpu.matrix import on
from tests.gpu.phases import main, run_by_phases

KINDS = ("launch", "wait", "copy")


def counted(name: str, solver: str, trials: int) -> dict[str, Any]:
    """Of one of each phase; lines: what waits or copies where, in all."""
    gpu = pretend.Gpu()
    times = run_by_phases(gpu, pretend.DEVICE, lambda: on(gpu), name, solver, trials)
    table = {
        phase: {kind: round(gpu.counts[phase, kind] / number, 2) for kind in KINDS}
        for phase, number in times.items()
    }
    found = Counter({" ".join(what): number for what, number in gpu.waits.items() if what[0] != "other"})
    device = {phase: round(1e6 * gpu.seconds[phase] / number, 1) for phase, number in times.items()}
    return {"device": device, "table": table, "lines": dict(found.most_common())}


if __name__ == "__main__":
    main(counted, "1,8")
