"""What is particular to the device that computes."""

from __future__ import annotations

import torch
from torch import Tensor


def onto(device: torch.device, values: Tensor) -> Tensor:
    """A tensor of the CPU on the device: to a GPU by way of pinned memory, so that nobody waits for it."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
