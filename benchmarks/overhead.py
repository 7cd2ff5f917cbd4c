"""What the engine costs in an upper iteration of a single-loop method (SOBA), apart from its derivatives.

Three parts of the time of one upper iteration of a pack: the problem's derivatives, timed inside them; the
step's own arithmetic, which is the step but for its calls of the oracle; and the engine, which is the rest:
mini-batches, charging, state checks, curves, and the dozen clocks of this benchmark.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple
from unittest.mock import patch

import torch

from benchmarks import common
from benchmarks.common import microseconds
from harness.oracle import Oracle
from harness.plugins import Plugins
from harness.rules import Rules
from harness.runner import run_pack
from harness.solver import Solver
from problems.quadratic import Quadratic

DERIVATIVES = ("lower_gradient", "hessian_vector", "cross", "upper_gradient")
PACKS = (1, 8, 64, 256)
CPU = torch.device("cpu")
BATCH = 64


def problem() -> Quadratic:
    """A stochastic quadratic of the public benchmark's sizes."""
    found = Quadratic(upper_dim=10, lower_dim=100, lower_condition=10, samples=4096, noise=0.1)
    found.setup(None, 0, CPU, torch.float64)
    return found


def configs(trials: int) -> list[dict[str, Any]]:
    fixed = {"lower_step_size": 0.1, "batch_size": BATCH, "upper_batch_size": BATCH}
    fixed |= {"upper_decay": 0.0, "lower_decay": 0.0}
    return [fixed | {"upper_step_size": 0.01 / (n + 1)} for n in range(trials)]


class Seconds:
    """Of all calls of some functions together."""

    def __init__(self) -> None:
        self.spent = 0.0

    def of(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            begun = time.perf_counter()
            found = function(*args)
            self.spent += time.perf_counter() - begun
            return found

        return call


class Parts(NamedTuple):
    """Seconds of an upper iteration of a pack, set-up and evaluation apart: all of it, the problem's
    derivatives, and the step outside the oracle."""

    whole: float
    derivatives: float
    arithmetic: float


def search(solver: type[Solver[Any]], trials: int, iterations: int) -> Parts:
    quadratic, rules = problem(), Rules(budget=4 * BATCH * iterations, prices={}, seed=1)
    derivatives, oracle, step = Seconds(), Seconds(), Seconds()
    watched = [
        *((quadratic, name, derivatives) for name in DERIVATIVES),
        *((Oracle, name, oracle) for name in (*DERIVATIVES, "lower_batch", "upper_batch", "or_start")),
        (solver, "step", step),
    ]
    with ExitStack() as patches:
        for owner, name, seconds in watched:
            patches.enter_context(patch.object(owner, name, seconds.of(getattr(owner, name))))
        begun = time.perf_counter()
        (first, *_) = run_pack(quadratic, solver, configs(trials), rules, CPU, quadratic.dtype)
        whole = time.perf_counter() - begun
    parts = Parts(whole, derivatives.spent, step.spent - oracle.spent)
    return Parts(*(seconds / first.upper_iterations for seconds in parts))


def main() -> None:
    parser = common.arguments(__doc__ or "")
    parser.add_argument("--iterations", type=int, default=2000, help="upper iterations per timing")
    options = parser.parse_args()
    common.one_thread()
    solver, rows = Plugins().solver("soba"), []
    for trials in PACKS:
        whole, derivatives, own = min(
            search(solver, trials, options.iterations) for _ in range(options.repeats)
        )
        engine = whole - derivatives - own
        share = f"{derivatives / whole:.0%}"
        cells = [microseconds(s) for s in (whole, derivatives, own, engine)]
        rows.append([trials, *cells, microseconds(60e-6 + trials * 1e-6), share])
    heads = [
        "pack",
        "upper iteration",
        "derivatives",
        "the step's arithmetic",
        "engine",
        "goal",
        "derivatives, share",
    ]
    note = f"The least of {options.repeats} runs of {options.iterations} upper iterations."
    common.report("overhead", [common.table(heads, rows), note], options.out)


if __name__ == "__main__":
    main()
