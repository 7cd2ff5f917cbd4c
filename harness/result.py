"""What a trial gave, what its numbers are called, and how far a solver has come. No torch here: whoever
reads a study needs none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

DIED = "the worker died (killed, or out of memory)"


@dataclass(frozen=True)
class Metric:
    """How a metric is called in tables, in full and in a column head, and whether lower is better or higher.
    Of the objective lower is better, always."""

    label: str
    short: str
    better: Literal["lower", "higher"] = "lower"


@dataclass
class Result:
    """One trial. state: "completed", "diverged" or "failed" (then `reason` says why). device: that computed,
    in words (`harness.device.described`)."""

    config: dict[str, Any]
    state: str = "completed"
    reason: str = ""
    objective: float = float("nan")
    metrics: dict[str, float] = field(default_factory=dict)
    ledger: dict[str, float] = field(default_factory=dict)
    upper_iterations: int = 0
    system_fallbacks: int = 0
    evaluation_samples: int = 0
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    pack: int = 1
    device: str = ""
    curve: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)


def failed(config: Mapping[str, Any], reason: str) -> Result:
    """The result of a trial that raised, was killed or ran too long."""
    return Result(config=dict(config), state="failed", reason=reason)


@dataclass
class Tally:
    """How far one solver has come. in_flight: samples that packs which run now have used."""

    trials: int
    states: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("completed", "diverged", "failed"), 0)
    )
    best: float = float("inf")
    in_flight: float = 0.0

    @property
    def told(self) -> int:
        return sum(self.states.values())

    def add(self, result: Result) -> None:
        self.states[result.state] += 1
        if result.state != "failed":
            self.best = min(self.best, result.objective)
