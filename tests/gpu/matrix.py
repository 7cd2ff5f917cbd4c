"""Solvers on problems, on the pretend device and on the CPU: the same numbers, and no mixed devices.

    python -m tests.gpu.matrix [PROBLEM ...] [--solvers NAME,NAME]

prints a line for each solver on each problem, as JSON.
"""

from tests.gpu import pretend  # isort: skip - before torch

from collections.abc import Iterator
from contextlib import contextmanager

import torch

import harness.meter
from tests.gpu.compare import main


@contextmanager
def on(gpu: pretend.Gpu) -> Iterator[None]:
    """On the device, whose tensors the meter, which asks for their type, takes for plain ones."""
    vars(harness.meter)["type"] = lambda value: (
        torch.Tensor if isinstance(value, pretend.Device) else type(value)
    )
    try:
        with gpu:
            yield
    finally:
        del vars(harness.meter)["type"]


if __name__ == "__main__":
    gpu = pretend.Gpu()
    main(pretend.DEVICE, lambda: on(gpu))
