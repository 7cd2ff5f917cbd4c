"""Packs of MNIST's size that are too large for what the GPU that is here may give: how their trials end.

    python -m tests.gpu.real.memory

prints a line for each capacity, as JSON: room is memory in arrays of x (28 MB) beyond what the problem and
PyTorch hold.
"""

import json
import sys

import torch

from tests.gpu.capped import capped
from tests.gpu.compare import quicken
from tests.gpu.real.matrix import DEVICE

ROOMS = (3, 20, 80)


def cap(more: int) -> None:
    held = torch.cuda.memory_reserved(DEVICE)
    whole = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.set_per_process_memory_fraction((held + more) / whole, DEVICE)


def main() -> None:
    quicken()
    for room in ROOMS:
        torch.cuda.set_per_process_memory_fraction(1.0, DEVICE)
        line = capped({}, room, cap, lambda: torch.cuda.memory_allocated(DEVICE))
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
