"""What the engine itself costs: an upper iteration of a single-loop method, apart from its derivatives.

The derivatives of a pack are timed on the very arguments that the search passes to the problem; the rest of the
search's time is the engine's (mini-batches, charging, state checks, curves) and the update rule's.
"""

import time
from typing import Any

import torch

from benchmarks import common
from benchmarks.common import microseconds
from harness.plugins import Plugins
from harness.problem import Problem
from harness.rules import Rules
from harness.runner import run_pack
from problems.quadratic import Quadratic

DERIVATIVES = ("lower_gradient", "hessian_vector", "cross", "upper_gradient")
PACKS = (1, 8, 64, 256)
CPU = torch.device("cpu")


def small_problem() -> Quadratic:
    """The stochastic quadratic at the size of the public benchmark's."""
    problem = Quadratic(upper_dim=10, lower_dim=100, lower_condition=10, samples=4096, noise=0.1)
    problem.setup(None, 0, CPU, torch.float64)
    return problem


class Stopwatch:
    """Seconds inside a problem's derivatives."""

    def __init__(self, problem: Problem) -> None:
        self.seconds = 0.0
        for name in DERIVATIVES:
            setattr(problem, name, self.timed(getattr(problem, name)))

    def timed(self, method: Any) -> Any:
        def call(*args: Any) -> Any:
            begun = time.perf_counter()
            found = method(*args)
            self.seconds += time.perf_counter() - begun
            return found

        return call


def measure(solver: str, pack: int, iterations: int, curves: int) -> tuple[float, float]:
    """Seconds of an upper iteration of a pack in derivatives, and in all else."""
    problem, plugin = small_problem(), Plugins().solver(solver)
    config = {"upper_step_size": 0.01, "lower_step_size": 0.1, "batch_size": 64, "upper_batch_size": 64}
    config |= {"upper_decay": 0.0, "lower_decay": 0.0}
    configs = [config | {"upper_step_size": 0.01 / (n + 1)} for n in range(pack)]
    watch = Stopwatch(problem)
    rules = Rules(budget=4.0 * 64 * iterations, prices={}, seed=1, curves=curves)
    found = run_pack(problem, plugin, configs, rules, CPU, problem.dtype)
    done = found[0].upper_iterations
    search = sum(result.seconds for result in found)
    return watch.seconds / done, (search - watch.seconds) / done


def whole(solver: str, pack: int, iterations: int) -> float:
    """Seconds of an upper iteration of a pack, all that the search does around the steps included."""
    problem, plugin = small_problem(), Plugins().solver(solver)
    config = {"lower_step_size": 0.1, "batch_size": 64, "upper_batch_size": 64, "upper_decay": 0.0, "lower_decay": 0.0}
    configs = [config | {"upper_step_size": 0.01 / (n + 1)} for n in range(pack)]
    rules = Rules(budget=4.0 * 64 * iterations, prices={}, seed=1, curves=20)
    begun = time.perf_counter()
    found = run_pack(problem, plugin, configs, rules, CPU, problem.dtype)
    return (time.perf_counter() - begun) / found[0].upper_iterations


def main() -> None:
    pass


if __name__ == "__main__":
    main()
