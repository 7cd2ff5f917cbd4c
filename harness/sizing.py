"""How many trials go into a pack: what fits in the memory of a worker."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from harness.problem import Problem

MOST = {"cpu": 8, "cuda": 64}
SHARE = 0.7
"""The share of the free memory that packs may take."""


def free_memory(device: str) -> int:
    """Bytes free now on this machine, or on its first GPU."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def workers_per_device(device: str, workers: int) -> int:
    """Workers that share the memory of one machine, or of one GPU."""
    return -(-workers // max(torch.cuda.device_count(), 1)) if device == "cuda" else workers


def auto_pack(problem: Problem, device: str, workers: int, trials: int) -> int:
    """The largest pack that fits in memory, is of use on the device, and leaves work for every worker."""
    room = SHARE * free_memory(device) / workers_per_device(device, workers)
    most = max(1, min(MOST[device], -(-trials // workers)))
    fitting = [size for size in range(1, most + 1) if problem.memory(size) <= room]
    return max(fitting, default=1)
