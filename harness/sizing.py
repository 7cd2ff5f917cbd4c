"""How many trials go into a pack: what fits in the memory of a worker."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from harness.place import first_place
from harness.problem import Problem
from harness.solver import Solver

MOST_ON_CPU = 8
"""Trials in a pack: more are no faster there."""
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


def pack_bytes(problem: Problem, solver: type[Solver[Any]], configs: Sequence[Mapping[str, Any]]) -> float:
    """Bytes a worker needs for a pack: the problem's, what the trials hold, and by example the rows that the
    engine remembers of every field that the method warm-starts."""
    packed = solver.pack(configs, torch.device("cpu"), torch.float64)
    size = packed.size_of("lower")
    place = first_place(problem, 0, size)
    numbers = [
        float(torch.as_tensor(vectors).expand(len(configs)).double().sum()) * width
        for vectors, width in zip(
            packed.held(place), (problem.dim_x, problem.dim_y * (place.mini_batch or 1)), strict=True
        )
    ]
    if problem.by_example:
        numbers.append(len(configs) * len(solver.warm_starts) * problem.upper_examples * problem.dim_y)
    return problem.memory(len(configs), size) + problem.dtype.itemsize * sum(numbers)


def devices(device: str) -> int:
    """GPUs of this machine, or one CPU."""
    return max(torch.cuda.device_count(), 1) if device == "cuda" else 1


@dataclass(frozen=True)
class Packing:
    """At most so many trials in a pack, and so many bytes in a worker, which keeps x and y of every trial at
    so many stops (`Rules.evaluate_at`). room None: not known before a machine that works is asked."""

    most: int
    room: float | None = math.inf
    stops: int = 0

    def on(self, free: int, share: float) -> Packing:
        """The same in a worker that has a share of a device with so many bytes free."""
        return replace(self, room=SHARE * share * free) if self.room is None else self

    def cut(
        self, problem: Problem, solver: type[Solver[Any]], configs: Sequence[Mapping[str, Any]]
    ) -> Iterator[slice]:
        """The trials in packs, in their order; a trial that does not fit alone goes alone."""
        kept = self.stops * problem.dtype.itemsize * (problem.dim_x + problem.dim_y)
        room = math.inf if self.room is None else self.room
        first = 0
        while first < len(configs):
            size = min(self.most, len(configs) - first)
            while (
                size > 1 and pack_bytes(problem, solver, configs[first : first + size]) + kept * size > room
            ):
                size -= 1
            yield slice(first, first + size)
            first += size


def auto_packing(device: str, workers: int, trials: int, stops: int = 0) -> Packing:
    """Packs that are of use on the device, fit in memory, and leave work for every worker. A GPU is filled;
    how much it holds is asked of the machine that has it."""
    most = -(-trials // workers)
    if device == "cuda":
        return Packing(most, None, stops)
    return Packing(min(MOST_ON_CPU, most), SHARE * free_memory(device) / workers, stops)
