"""Packs that are too large for the pretend device: how their trials end, at several capacities.

    python -m tests.gpu.memory

prints a line for each capacity, as JSON: room is memory in arrays of x beyond the problem's own.
"""

from tests.gpu import pretend  # isort: skip - before torch

import json
import sys

from harness.rules import Rules
from harness.worker import Context, Pack, Worker
from tests.gpu.matrix import DIGITS, configs_of, on, quicken

TRIALS = 8
ROOMS = (4, 12, 40)


def main() -> None:
    quicken()
    context = Context("data_poisoning", DIGITS, None, 0, "cuda", [], Rules(400.0, {}, 0, curves=0))
    for room in ROOMS:
        gpu = pretend.Gpu()
        with on(gpu):
            worker = Worker(context)
            gpu.capacity = gpu.bytes + room * 4 * worker.problem.dim_x
            configs = configs_of(worker.plugins.solver("bsgm"), "data_poisoning", wild=0)[:1] * TRIALS
            results = worker.run(Pack("bsgm", tuple(range(TRIALS)), tuple(configs)))
        states, packs = ([getattr(result, name) for result in results] for name in ("state", "pack"))
        objectives = [result.objective for result in results]
        line = {"room": room, "states": states, "packs": packs, "objectives": objectives, "left": gpu.bytes}
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
