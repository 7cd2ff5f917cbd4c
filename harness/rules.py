"""What every trial of a study has in common, whatever its solver and configuration."""

from collections.abc import Mapping
from dataclasses import dataclass

from harness.budget import KINDS, Accountant
from harness.errors import HarnessError
from harness.options import at_most, not_negative, one_of, positive, valid_seed

MOST_POINTS = 10_000
"""Of a curve: more than a figure or a table can show."""


@dataclass(frozen=True)
class Rules:
    """What every trial of a study has in common; raises HarnessError where a value is out of range.

    budget: priced samples per trial. prices: by kind, 1 where a kind has none. seed: mini-batches and
    initial point. divergence: where a diverged trial is scored: "x0", at its "last" finite iterate, or
    "worst" (ranked last). system_failure: a system solve that is not finite gives its "start" vector, as the
    published code has it, or makes the trial "diverge". curves: at how many points of the budget, spread
    evenly on a log scale from the first upper iteration on, cheap metrics are recorded, and at the start and
    the end; 0: none. evaluate_at: shares of the budget at which x is judged by the final evaluation as well,
    as if the budget had been that share; x0 too where there is any.
    """

    budget: float
    prices: Mapping[str, float]
    seed: int
    divergence: str = "x0"
    system_failure: str = "start"
    curves: int = 20
    evaluate_at: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        positive("--budget", self.budget)
        for kind, price in self.prices.items():
            positive(f"--price {one_of('--price', kind, KINDS)}", price)
        valid_seed("--seed", self.seed)
        one_of("--divergence", self.divergence, ("x0", "last", "worst"))
        one_of("--system-failure", self.system_failure, ("start", "diverge"))
        if not_negative("--curves", self.curves):
            at_most("--curves", self.curves, MOST_POINTS)
        Accountant(1, self.budget, self.prices)  # raises where it cannot count them
        for share in self.evaluate_at:
            if not 0 < share <= 1:
                raise HarnessError(
                    f"--evaluate-at: shares of the budget lie above 0 and up to 1, but got {share:g}"
                )
        object.__setattr__(self, "evaluate_at", tuple(sorted(set(self.evaluate_at))))
        object.__setattr__(self, "prices", {kind: self.prices.get(kind, 1.0) for kind in KINDS})
