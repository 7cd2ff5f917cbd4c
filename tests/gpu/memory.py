"""Packs that are too large for the pretend device: how their trials end, at several capacities.

    python -m tests.gpu.memory

prints a line for each capacity, as JSON: room is memory in arrays of x beyond the problem's own.
"""

from tests.gpu import pretend  # isort: skip - before torch

import json
import sys

from tests.gpu.capped import capped
from tests.gpu.compare import DIGITS, quicken
from tests.gpu.matrix import on

ROOMS = (4, 12, 40)


def main() -> None:
    quicken()
    for room in ROOMS:
        gpu = pretend.Gpu()

        def cap(more: int, gpu: pretend.Gpu = gpu) -> None:
            gpu.capacity = gpu.bytes + more

        with on(gpu):
            line = capped(DIGITS, room, cap, lambda gpu=gpu: gpu.bytes)
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
