"""Solvers on problems, on the GPU that is here and on the CPU: how far their numbers are apart.

    python -m tests.gpu.real.matrix [PROBLEM ...] [--solvers NAME,NAME]

prints a line for each solver on each problem, as JSON: `largest` is the largest relative difference of a
number, `sensitive` are trials whose numbers a nudge of their steps moves on the CPU itself, `differs` is what
differs otherwise.
"""

from contextlib import nullcontext

import torch

from harness.device import prepare
from tests.gpu.compare import main

DEVICE = torch.device("cuda", 0)

if __name__ == "__main__":
    prepare(DEVICE, 1.0)
    main(DEVICE, nullcontext)
