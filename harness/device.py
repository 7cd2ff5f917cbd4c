"""What is particular to the device that computes."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from torch import Tensor

from harness.errors import HarnessError

DRIVER = Path("/proc/driver/nvidia/version")
ALLOCATOR = "PYTORCH_CUDA_ALLOC_CONF"


def onto(device: torch.device, values: Tensor) -> Tensor:
    """A tensor of the CPU on the device: to a GPU by way of pinned memory, so that nobody waits for it."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def check_device(device: str, elsewhere: bool = False) -> str:
    """cpu or cuda for auto. elsewhere: other machines may work, so that this one needs no GPU.

    Raises HarnessError where a GPU is asked for and there is none."""
    present = torch.cuda.device_count() > 0  # told by the driver's library: no GPU is opened for it
    if device == "auto":
        return "cuda" if present else "cpu"
    if device == "cuda" and not (present or elsewhere):
        raise HarnessError("--device cuda: PyTorch sees no CUDA device here; use --device cpu or auto")
    return device


def prepare(device: torch.device, share: float) -> None:
    """Make a GPU compute as a CPU does, and take no more than `share` of its memory.

    Products keep all digits of float32 (no TF32). Segments of the allocator grow, as packs of unequal sizes
    leave holes otherwise; whoever has set the allocator's variable keeps that."""
    if device.type != "cuda":
        return
    os.environ.setdefault(ALLOCATOR, "expandable_segments:True")  # read when the GPU is first used
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if share < 1:
        torch.cuda.set_per_process_memory_fraction(share, 0)


def described(device: torch.device) -> str:
    """What the numbers of a trial may depend on: "cpu", or a GPU's name, CUDA, driver, and TF32."""
    if device.type != "cuda":
        return device.type
    driver = re.search(r"Kernel Module.*?(\d+\.[\d.]+)", DRIVER.read_text()) if DRIVER.exists() else None
    tf32 = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
    words = [
        torch.cuda.get_device_name(0),
        f"CUDA {torch.version.cuda or '?'}",
        f"driver {driver[1] if driver else '?'}",
        f"TF32 {'on' if tf32 else 'off'}",
    ]
    return ", ".join(words)
