"""The public bilevel benchmark, benchopt/benchmark_bilevel, beside its published results.

It publishes what each method reached at some upper iterations with the best of a grid of configurations:
public_benchmark.toml has the numbers, the search spaces have the configurations. Here these run for as many
upper iterations, a study for each method and seed of the mini-batches.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.place import first_place
from harness.plugins import Plugins
from harness.problem import Problem
from harness.record import Record
from harness.space import complete, find_space
from recipes.recipe import Claim, Findings, Part, Recipe, SetUp, markdown
from reports import panels
from reports.figures import WIDTH, Picture

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Shown:
    """The metric of a problem, how it is written, and how far from the published range still counts as
    reproduced: so much, or this share of the published median."""

    metric: str
    title: str
    form: str
    absolute: float = 0.0
    relative: float = 0.0


SHOWN = {
    "data_cleaning": Shown("test_error", "test error (%)", ".2f", absolute=0.5),
    "regularisation": Shown("value_function", "L(x)", ".6f", relative=0.02),
    "stochastic_quadratic": Shown("gradient_norm_squared", "squared norm of the gradient of L", ".2g"),
}
CONVERGED = 1e-20  # SABA and SRBA on the quadratic


@dataclass(frozen=True)
class Scale:
    """problems: with the most upper iterations of a method on each. entries: of a problem at most. seeds: of
    methods with mini-batches."""

    problems: Mapping[str, float]
    seeds: int
    points: int = 150
    entries: int = 100


@dataclass(frozen=True)
class Entry:
    """Of the file. published: upper iterations, then the median, or the median, least and largest."""

    problem: str
    solver: str
    published: Sequence[Sequence[float]]
    parameters: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Every parameter of the solver."""
        plugin = Plugins().solver(self.solver)
        space = find_space(self.problem, None).space(self.solver, plugin)
        return complete(space, plugin, space.published | dict(self.parameters), self.solver)

    @property
    def deterministic(self) -> bool:
        return "batch_size" in self.parameters

    @property
    def name(self) -> str:
        return f"{Plugins().solver(self.solver).label}{', full batch' if self.deterministic else ''}"

    def within(self, iterations: float) -> list[Sequence[float]]:
        return [row for row in self.published if row[0] <= iterations]


class PublicBenchmark(Recipe):
    title = "The public bilevel benchmark beside its published results"
    scales = {
        "smoke": Scale({"stochastic_quadratic": 100}, 1, points=20, entries=3),
        "small": Scale({"data_cleaning": 200, "regularisation": 512, "stochastic_quadratic": 2000}, 3),
        "paper": Scale(dict.fromkeys(SHOWN, np.inf), 10),
    }

    def parts(self, scale: Scale, setup: SetUp) -> Iterator[Part]:
        """One by one: to count what a study costs takes seconds."""
        for problem, most in scale.problems.items():
            ready = setup(problem)
            for number, entry in _entries(problem, most, scale.entries):
                for seed in range(1, 2 if entry.deterministic else 1 + scale.seeds):
                    yield Part(
                        f"{problem}-{number}-{entry.solver}-{seed}",
                        problem,
                        [entry.solver],
                        budget(ready, entry, int(entry.within(most)[-1][0]), seed),
                        spaces={entry.solver: entry.config},
                        seed=seed,
                        curves=scale.points,
                    )

    def findings(self, records: Mapping[str, Record], scale: Scale, setup: SetUp) -> Findings:
        claims, tables, pictures = [], {}, []
        for problem, most in scale.problems.items():
            by_entry = []
            for number, entry in _entries(problem, most, scale.entries):
                name = f"{problem}-{number}-{entry.solver}-"
                by_entry.append((entry, [one for key, one in records.items() if key.startswith(name)]))
            claims += [claim(entry, runs, most) for entry, runs in by_entry]
            rows = [row for entry, runs in by_entry for row in lines(entry, runs, most)]
            heads = ["method", "step size of y and z, of x", "upper iterations", "ours", "published"]
            tables[f"`{problem}`: {SHOWN[problem].title}"] = markdown(heads, rows)
            pictures.append(figure(problem, by_entry, most))
        return Findings(claims, tables, pictures, _note(scale))


RECIPE = PublicBenchmark()


def _note(scale: Scale) -> str:
    points, percent = SHOWN["data_cleaning"].absolute, SHOWN["regularisation"].relative
    return f"""Configurations, numbers of upper iterations and results are the benchmark's
(`recipes/public_benchmark.toml` and `[solver.published]` of the search spaces). Methods with mini-batches ran
with {scale.seeds} seeds of these. Ours: median (least to largest) of the seeds that did not diverge, at the
logged upper iteration next to the published one, of {scale.points} points on a log scale; in the verdicts a
diverged one is worse than any other. Reproduced is a median within the published range or nearer to it than
{points:g} points (data cleaning) or {percent:.0%} (ijcnn1); what is published as one
run may lie within, or as near to, the range of ours. The stochastic quadratic itself is drawn anew, so that
shapes and not digits compare: a method that converges there must reach
{CONVERGED:g}, another must stall within a factor of ten of where it does."""


def _entries(problem: str, most: float, number: int) -> list[tuple[int, Entry]]:
    text = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    every = [Entry(**entry) for entry in tomllib.loads(text)["run"]]
    own = [(n, e) for n, e in enumerate(every) if e.problem == problem and any(e.within(most))]
    return own[:number]


def budget(problem: Problem, entry: Entry, iterations: int, seed: int) -> float:
    """What exactly so many upper iterations cost; of none 1, in which none fits."""
    packed = Plugins().solver(entry.solver).pack([entry.config], CPU, problem.dtype)
    place = first_place(problem, seed, packed.size_of("lower"))
    costs = (packed.cost(place.at(s)).table(1) for s in range(iterations))
    return max(1, sum(int(table.sum()) for table in costs))


def reached(run: Record, metric: str, iterations: float) -> float:
    """The metric at the logged upper iteration next to a number of them; infinite where the trial had
    diverged, or failed, by then."""
    logged = run.curves["upper_iteration"].to_numpy() if len(run.curves) else np.zeros(1)
    if run.trials["state"].iloc[0] != "completed" and iterations > logged[-1]:
        return math.inf
    return float(run.curves[f"metric.{metric}"].iloc[np.abs(logged - iterations).argmin()])


def ours(entry: Entry, runs: Sequence[Record], iterations: float) -> np.ndarray:
    """By seed."""
    return np.array([reached(run, SHOWN[entry.problem].metric, iterations) for run in runs])


def written(values: Sequence[float], form: str) -> str:
    """Median (least to largest), or the median alone."""
    middle = f"{values[0]:{form}}"
    return middle if len(values) == 1 else f"{middle} ({values[1]:{form}} to {values[2]:{form}})"


def found(values: np.ndarray, form: str) -> str:
    """Of the seeds that did not diverge, `written`; and how many did."""
    left = values[np.isfinite(values)]
    lost = len(values) - len(left)
    said = [f"{lost} of {len(values)} diverged"] if lost else []
    if len(left):
        spread = [np.median(left), left.min(), left.max()]
        said.insert(0, written(spread if len(left) > 1 else spread[:1], form))
    return "; ".join(said)


def lines(entry: Entry, runs: Sequence[Record], most: float) -> list[list[str]]:
    """A row for each published number."""
    form = SHOWN[entry.problem].form
    steps = f"{entry.config['lower_step_size']:.4g}, {entry.config['upper_step_size']:.4g}"
    rows = []
    for iterations, *published in entry.within(most):
        mine = found(ours(entry, runs, iterations), form)
        rows.append([entry.name, steps, f"{iterations:,.0f}", mine, written(published, form)])
    return rows


def claim(entry: Entry, runs: Sequence[Record], most: float) -> Claim:
    shown, told, holds = SHOWN[entry.problem], [], True
    for iterations, median, *spread in entry.within(most):
        values = ours(entry, runs, iterations)
        middle = float(np.median(values))
        low, high = spread or (median, median)
        if entry.problem == "stochastic_quadratic":
            converges = high <= CONVERGED
            holds &= middle <= CONVERGED if converges else low / 10 <= middle <= 10 * high
        else:
            slack = shown.absolute + shown.relative * abs(median)
            holds &= low - slack <= middle <= high + slack or (
                low == high and values.min() - slack <= median <= values.max() + slack
            )
        told.append(f"{iterations:,.0f}: {found(values, shown.form)}, {median:{shown.form}}")
    numbers = "upper iterations: ours, published: " + "; ".join(told)
    return Claim(f"`{entry.problem}`, {entry.name}: reproduced at each listed iteration", holds, numbers)


def figure(problem: str, by_entry: Sequence[tuple[Entry, Sequence[Record]]], most: float) -> Picture:
    """A panel for each method: our seeds as lines, which end where a trial diverges, the published medians
    and ranges as marks."""
    import seaborn
    from matplotlib.figure import Figure

    columns, shown = min(4, len(by_entry)), SHOWN[problem]
    rows = -(-len(by_entry) // columns)
    drawing = Figure(figsize=(WIDTH, 0.5 + 1.6 * rows), layout="constrained")
    grid = drawing.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    panels.show_ticks(grid, np.arange(grid.size).reshape(grid.shape) < len(by_entry))
    mine, theirs = seaborn.color_palette("colorblind")[:2]
    for panel, (entry, runs) in zip(grid.flat, by_entry, strict=False):
        for run in runs:
            if len(run.curves):
                along = run.curves["upper_iteration"]
                panel.plot(along, run.curves[f"metric.{shown.metric}"], color=mine, linewidth=0.8)
        for iterations, median, *spread in entry.within(most):
            low, high = spread or (median, median)
            panel.errorbar(
                iterations, median, [[median - low], [high - median]], fmt="D", color=theirs, markersize=4
            )
        panel.set(title=entry.name, xscale="symlog")
        if problem == "stochastic_quadratic":
            panel.set_yscale("log")
    grid[0, 0].set_xlim(left=0)  # of all: set before the last line it would cut that off
    drawing.supxlabel("upper iterations")
    drawing.supylabel(shown.title)
    seaborn.despine(drawing)
    return Picture(
        problem,
        problem,
        "Lines: ours, by seed, to where it diverged. Marks: published, with their range.",
        drawing,
    )
