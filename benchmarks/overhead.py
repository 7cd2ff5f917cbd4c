"""What the engine costs in an upper iteration of a single-loop method (SOBA), apart from its derivatives.

Three parts of the time of one upper iteration of a pack: the problem's derivatives, timed inside them; the
step's own arithmetic, which is the step on an oracle that answers at once and charges nothing; and the
engine, which is the rest: mini-batches, charging, state checks, curves.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import common
from benchmarks.common import microseconds
from harness.place import first_place
from harness.plugins import Plugins
from harness.problem import Problem
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


class Stopwatch:
    """Seconds inside a problem's derivatives."""

    def __init__(self, watched: Problem) -> None:
        self.seconds = 0.0
        for name in DERIVATIVES:
            setattr(watched, name, self._timed(getattr(watched, name)))

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            begun = time.perf_counter()
            found = method(*args)
            self.seconds += time.perf_counter() - begun
            return found

        return call


class Ready:
    """An oracle that has its answers ready: what is left of a step is its own arithmetic."""

    def __init__(self, place: Any, x: Tensor, y: Tensor) -> None:
        self.place, self.x, self.y = place, x, y

    def __getattr__(self, name: str) -> Callable[..., Any]:
        answers = {"upper_gradient": (self.x, self.y), "cross": self.x}
        answer = answers.get(name, self.y)
        return lambda *args, **kwargs: answer

    def projected_step(self, x: Tensor, direction: Tensor, step_size: Tensor) -> Tensor:
        return torch.addcmul(x, direction, step_size, value=-1)


def arithmetic(solver: type[Solver[Any]], trials: int, place: Any) -> Callable[[], float]:
    quadratic = problem()
    packed = solver.pack(configs(trials), CPU, torch.float64)
    x = torch.zeros(trials, quadratic.dim_x, dtype=torch.float64)
    y = torch.zeros(trials, quadratic.dim_y, dtype=torch.float64)
    oracle: Any = Ready(place, x, y)
    oracle.x0, oracle.y0 = x, y
    state = packed.init(oracle)
    return common.timed(lambda: [packed.step(oracle, state) for _ in range(200)], 200)


def search(solver: type[Solver[Any]], trials: int, iterations: int) -> tuple[float, float]:
    """Seconds of an upper iteration of a pack, set-up and evaluation apart, and of these in derivatives."""
    quadratic, rules = problem(), Rules(budget=4 * BATCH * iterations, prices={}, seed=1)
    watch = Stopwatch(quadratic)
    begun = time.perf_counter()
    (first, *_) = run_pack(quadratic, solver, configs(trials), rules, CPU, quadratic.dtype)
    seconds = time.perf_counter() - begun
    return seconds / first.upper_iterations, watch.seconds / first.upper_iterations


def main() -> None:
    parser = common.arguments(__doc__ or "")
    parser.add_argument("--iterations", type=int, default=2000, help="upper iterations per timing")
    options = parser.parse_args()
    common.one_thread()
    solver, rows = Plugins().solver("soba"), []
    for trials in PACKS:
        found = [search(solver, trials, options.iterations) for _ in range(options.repeats)]
        whole, derivatives = min(found)
        own = min(
            arithmetic(solver, trials, first_place(problem(), 1, None).at(9))()
            for _ in range(options.repeats)
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
