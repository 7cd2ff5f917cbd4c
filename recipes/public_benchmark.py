"""Our methods on the public bilevel benchmark's problems, beside its published results.

    python -m recipes.public_benchmark --data-dir DIR --out FILE.md [--only PROBLEM] [--solver NAME]

benchopt/benchmark_bilevel publishes what each method reached at some upper iterations with the best of a
grid of configurations: public_benchmark.toml has the numbers, the search spaces have the configurations.
Here these run for the same numbers of upper iterations, once for each seed of the mini-batches, and the
tables are written.
"""

import argparse
import dataclasses
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from harness.place import first_place
from harness.plugins import Plugins
from harness.problem import Problem
from harness.rules import Rules
from harness.runner import run_pack
from harness.space import complete, find_space

CPU = torch.device("cpu")
SHOWN = {
    "data_cleaning": ("test_error", ".2f"),
    "regularisation": ("value", ".6f"),
    "stochastic_quadratic": ("gradient_norm_squared", ".2g"),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """An entry of the file."""

    problem: str
    solver: str
    published: Sequence[Sequence[float]]
    parameters: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Every parameter of the solver."""
        plugin = Plugins().solver(self.solver)
        space = find_space(self.problem, None).space(self.solver, plugin)
        return complete(space, plugin, space.published | dict(self.parameters), self.solver)

    @property
    def name(self) -> str:
        return f"{self.solver}{', full batch' if self.deterministic else ''}"

    @property
    def deterministic(self) -> bool:
        return "batch_size" in self.parameters


def read() -> list[Run]:
    text = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    return [Run(**entry) for entry in tomllib.loads(text)["run"]]


def budget(problem: Problem, run: Run, iterations: int, seed: int) -> float:
    """What exactly so many upper iterations cost; of none 1, in which none fits."""
    packed = Plugins().solver(run.solver).pack([run.config], CPU, problem.dtype)
    place = first_place(problem, seed, packed.size_of("lower"))
    costs = (packed.cost(place.at(s)).table(1) for s in range(iterations))
    return max(1, sum(int(table.sum()) for table in costs))


def reached(problem: Problem, run: Run, iterations: int, seed: int) -> str:
    """The metric after so many upper iterations."""
    metric, form = SHOWN[run.problem]
    rules, begun = Rules(budget(problem, run, iterations, seed), {}, seed, curves=0), time.perf_counter()
    solver = Plugins().solver(run.solver)
    (result,) = run_pack(problem, solver, [run.config], rules, CPU, problem.dtype)
    sys.stderr.write(f"{run.solver}, {iterations}, seed {seed}: {time.perf_counter() - begun:.0f} s\n")
    return f"{result.metrics[metric]:{form}}" if result.upper_iterations == iterations else result.state


def lines(problem: Problem, run: Run, seeds: int) -> Iterator[str]:
    """A line of the table for each published number; full batches know no seed."""
    form = SHOWN[run.problem][1]
    for iterations, median, *spread in run.published:
        drawn = range(1, 2 if run.deterministic else 1 + seeds)
        found = [reached(problem, run, int(iterations), seed) for seed in drawn]
        there = f"{median:{form}}"
        if spread:
            there += " ({} to {})".format(*(f"{value:{form}}" for value in spread))
        steps = f"{run.config['lower_step_size']:.4g}, {run.config['upper_step_size']:.4g}"
        yield f"| {run.name} | {steps} | {int(iterations)} | {', '.join(found)} | {there} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", choices=list(SHOWN))
    parser.add_argument("--solver", help="the lines of one solver")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    text: list[str] = []
    for name in [options.only] if options.only else list(SHOWN):
        problem = Plugins().problem(name)()
        problem.setup(options.data_dir, 0, CPU, problem.dtype)
        text += [
            f"## `{name}`: {problem.metric_names[SHOWN[name][0]].label}",
            "",
            "| solver | step size of y and z, of x | upper iterations | ours, by seed | published |",
            "|---|---|--:|---|---|",
        ]
        for run in read():
            if run.problem == name and options.solver in (None, run.solver):
                text += lines(problem, run, options.seeds)
        text.append("")
    options.out.write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
