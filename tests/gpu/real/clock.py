"""What the phases of a method take on the GPU that is here, in microseconds of one of each.

    python -m tests.gpu.real.clock [PROBLEM] [--solvers NAME,...|all] [--trials 1,16,48,200]

prints a line for each solver and number of trials, as JSON; PROBLEM as in `counts.py`, whose model it is to
be held against. host: until the host has gone on, launches and waits. device: on the time line of the GPU,
whether it computes or waits for a launch; the host, which marks it there, is slower for it.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from harness.device import prepare
from tests.gpu.phases import main, run_by_phases
from tests.gpu.real.matrix import DEVICE


class Clock:
    """Time by phase, to the innermost that is entered: by the host's clock, or by marks on the GPU's line."""

    def __init__(self, marks: bool) -> None:
        self.marks = marks
        self._switches: list[tuple[str, Any]] = []
        self._phases = ["other"]

    def _switch(self) -> None:
        now: Any = time.perf_counter()
        if self.marks:
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        self._switches.append((self._phases[-1], now))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._switch()
        self._phases.append(name)
        try:
            yield
        finally:
            self._switch()
            self._phases.pop()

    def seconds(self) -> Counter[str]:
        """By phase, in all."""
        torch.cuda.synchronize()
        found: Counter[str] = Counter()
        for (_, start), (phase, end) in zip(self._switches, self._switches[1:], strict=False):
            found[phase] += start.elapsed_time(end) / 1e3 if self.marks else end - start
        return found


def measured(name: str, solver: str, trials: int) -> dict[str, Any]:
    found = {}
    run_by_phases(Clock(marks=True), DEVICE, nullcontext, name, solver, trials)  # loads kernels, takes memory
    for what, marks in (("host", False), ("device", True)):
        clock = Clock(marks)
        times = run_by_phases(clock, DEVICE, nullcontext, name, solver, trials)
        seconds = clock.seconds()
        found[what] = {phase: round(1e6 * seconds[phase] / number, 1) for phase, number in times.items()}
    return found | {"peak": torch.cuda.max_memory_allocated(DEVICE)}


if __name__ == "__main__":
    prepare(DEVICE, 1.0)
    main(measured, "1,16,48,200")
