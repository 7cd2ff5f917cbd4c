"""An upper iteration of single methods, ours and by the public bilevel benchmark's JAX code, on its problems.

Same data, methods, batches of 64 examples of each level, float32, one thread on one CPU; theirs a jitted
scan, ours alone and in packs. Both draw their mini-batches; ours also charges every derivative. Needs a
checkout of benchopt/benchmark_bilevel, and JAX, jaxopt and benchopt.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import common, public_jax
from benchmarks.common import microseconds, times
from harness.plugins import Plugins
from harness.problem import Problem
from harness.rules import Rules
from harness.runner import Run, first_cost
from harness.sizing import pack_bytes
from harness.space import complete, find_space

CPU = torch.device("cpu")
PACKS = (1, 16, 64, 256)
GOALS = {1: 0.5, 64: 3.0}  # times their throughput


@dataclass(frozen=True)
class Case:
    """One method, ours and theirs. ours: its name. theirs: their file and parameters."""

    ours: str
    theirs: str
    parameters: tuple[tuple[str, int], ...] = ()


DATA = {"mnist": "data_cleaning", "ijcnn1": "regularisation", "covtype": "regularisation"}
CASES = (
    Case("amigo", "amigo", (("n_inner_steps", 10),)),
    Case("soba", "soba"),
    Case("stocbio_neumann", "stocbio", (("n_inner_steps", 10), ("n_shia_steps", 10))),
    Case("saba", "saba"),
)


def config(name: str, case: Case) -> dict[str, Any]:
    """The published configuration of a method on a problem."""
    plugin = Plugins().solver(case.ours)
    space = find_space(name, None).space(case.ours, plugin)
    return complete(space, plugin, space.published, case.ours)


def ours(
    problem: Problem, case: Case, base: dict[str, Any], trials: int, iterations: int
) -> Callable[[], float]:
    """Seconds per upper iteration and configuration of a pack."""
    plugin = Plugins().solver(case.ours)
    configs = [base | {"upper_step_size": base["upper_step_size"] / (n + 1)} for n in range(trials)]
    budget = iterations * float(first_cost(problem, plugin, configs[:1], 1)[0])

    def once() -> float:
        run = Run(problem, plugin, configs, Rules(budget, {}, 1, curves=0), CPU, torch.float32)
        seconds = common.timed(run.search, 1)()
        return seconds / int(run.iterations.max()) / trials

    return once


def theirs(
    options: argparse.Namespace, case: Case, given: dict[str, Any], iterations: int
) -> Callable[[], float]:
    """Seconds per upper iteration, once it is compiled."""
    parameters = {**dict(case.parameters), "step_size": 0.01, "batch_size": 64, "random_state": 1}

    def once() -> float:
        _, timed = public_jax.run(options.checkout, case.theirs, parameters, given, iterations, 2)
        return timed.seconds / iterations

    return once


def rows(options: argparse.Namespace, dataset: str) -> list[Sequence[object]]:
    given = public_jax.objective(options.checkout, dataset, options.data_dir)
    made = {"dataset": dataset} if dataset != "mnist" else {}
    problem = Plugins().problem(DATA[dataset])(**made)
    problem.setup(options.data_dir, 1, CPU, torch.float32)
    found: list[Sequence[object]] = []
    for case in CASES:
        base, n = config(DATA[dataset], case), options.iterations
        sides = {"theirs": theirs(options, case, given, n)}
        sides |= {str(size): ours(problem, case, base, size, max(20, n // size)) for size in PACKS}
        seconds = common.medians(sides, options.repeats)
        cells = [microseconds(seconds["theirs"])]
        for size in PACKS:
            cells.append(
                f"{microseconds(seconds[str(size)])}, {times(seconds['theirs'] / seconds[str(size)])}"
            )
        plugin = Plugins().solver(case.ours)
        memory = (pack_bytes(problem, plugin, [base] * 64) - pack_bytes(problem, plugin, [base])) / 63
        found.append([dataset, plugin.label, *cells, f"{memory / 1e6:.2f} MB"])
    return found


def main() -> None:
    parser = common.arguments(__doc__ or "")
    parser.add_argument("--checkout", type=Path, required=True, help="of benchopt/benchmark_bilevel")
    parser.add_argument("--iterations", type=int, default=500, help="upper iterations per timing")
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=list(DATA))
    options = parser.parse_args()
    common.one_thread()
    body = [row for dataset in options.data for row in rows(options, dataset)]
    heads = ["data", "method", "theirs"]
    for size in PACKS:
        goal = f" (goal {times(GOALS[size])})" if size in GOALS else ""
        heads.append(f"ours, {'alone' if size == 1 else f'pack of {size}'}{goal}")
    note = (
        "Per upper iteration and configuration, and how many times faster. Memory: what a trial adds to a "
        "pack, by the model that `--pack auto` goes by."
    )
    common.report("public_speed", [common.table([*heads, "memory of a trial"], body), note], options.out)


if __name__ == "__main__":
    main()
