"""Few-shot meta-learning (Grazzi, Pontil and Salzo 2023, Section 7.2, Figure 2): BSGM with and without warm
start, mini-batches of 8, 16 and 32 tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

from harness.plugins import Plugins
from harness.record import Record
from harness.space import find_space
from recipes.comparison import curves_picture, trials_of
from recipes.recipe import Claim, Findings, Part, Recipe, SetUp, markdown

SOLVERS = {"bsgm": "BSGM", "bsgm_ws": "BSGM+WS"}
METRICS = {"train_accuracy": "meta-training accuracy (%)", "test_accuracy": "meta-test accuracy (%)"}
STEPS = 10  # t = k
LEVEL = 1.0  # points of accuracy that overlap


@dataclass(frozen=True)
class Scale:
    """met: tasks that a trial meets."""

    dataset: str
    met: int
    batches: Sequence[int]
    seeds: int
    options: Mapping[str, Any] = field(default_factory=dict)


class GrazziMetaLearning(Recipe):
    title = "Few-shot meta-learning: Figure 2 of Grazzi, Pontil and Salzo (2023)"
    scales = {
        "smoke": Scale(
            "digits", 48, (4, 8), 1, {"channels": 4, "tasks": 24, "evaluation_tasks": 4, "curve_tasks": 2}
        ),
        "small": Scale("tiny_imagenet_stand_in", 400, (8, 16), 3, {"tasks": 200, "evaluation_tasks": 200}),
        "paper": Scale("mini_imagenet", 50_000, (8, 16, 32), 5, {"tasks": 50_000, "evaluation_tasks": 1000}),
    }

    def parts(self, scale: Scale, setup: SetUp) -> list[Part]:
        options = {"dataset": scale.dataset, **scale.options}
        problem = setup("meta_learning", **options)
        lower, upper = problem.lower_worth, problem.upper_worth
        samples = scale.met * (2 * STEPS * lower + lower + upper)
        return [
            Part(
                f"batch-{size}-seed-{seed}",
                "meta_learning",
                list(SOLVERS),
                samples,
                options=options,
                spaces={name: _space(name, size) for name in SOLVERS},
                seed=seed,
                curves=12,
                alone=True,
            )
            for size in scale.batches
            for seed in range(scale.seeds)
        ]

    def findings(self, records: Mapping[str, Record], scale: Scale, setup: SetUp) -> Findings:
        every = list(records.values())
        trials = trials_of(every)
        trials = trials.assign(
            what=[
                f"{SOLVERS[solver]}, {size} tasks"
                for solver, size in zip(trials["solver"], trials["param.batch_size"], strict=True)
            ]
        )
        shown = trials.drop_duplicates("what").set_index("what")
        caption = f"On {scale.dataset}, first seed."
        axes = {"ledger.total": "samples", "seconds": "seconds"}
        picture = curves_picture("figure2", caption, every, METRICS, axes, shown)
        tables = {"At the end: mean over the seeds (minimum to maximum)": _table(trials)}
        return Findings(list(claims(trials, scale.batches, scale.seeds)), tables, [picture], _note(scale))


RECIPE = GrazziMetaLearning()


def _space(name: str, size: int) -> dict[str, Any]:
    shipped = find_space("meta_learning", None).space(name, Plugins().solver(name))
    values = {key: entry["value"] for key, entry in shipped.entries.items() if "value" in entry}
    return values | {"batch_size": size}


def _note(scale: Scale) -> str:
    stand_in = "" if scale.dataset == "mini_imagenet" else f" **Not mini-ImageNet but {scale.dataset}.**"
    return f"""5-way 5-shot tasks, t = k = {STEPS} steps of size 0.05, upper step size 0.2,
{scale.seeds} seeds, {scale.met:,} tasks met (the paper: 50 000).{stand_in} Batch normalisation has
statistics of each task (`statistics=task`)."""


def _table(trials: pd.DataFrame) -> str:
    rows = []
    for what, own in trials.groupby("what", sort=False):
        cells = [str(what), f"{own['upper_iterations'].iloc[0]:,}", f"{own['seconds'].mean():.3g}"]
        for metric in METRICS:
            low, mid, high = own[f"metric.{metric}"].agg(["min", "mean", "max"])
            cells.append(f"{mid:.2f} ({low:.2f} to {high:.2f})")
        rows.append(cells)
    return markdown(["method", "upper iterations", "seconds", *METRICS.values()], rows)


def claims(trials: pd.DataFrame, batches: Sequence[int], seeds: int) -> Iterator[Claim]:
    """Of trials seed by seed, by 95 % intervals; of one seed nothing can be told."""
    seed = trials["place"] % seeds  # the innermost of the parts
    found = trials.assign(seed=seed).pivot(index="seed", columns="what", values="metric.test_accuracy")
    for label in SOLVERS.values():
        names = [f"{label}, {size} tasks" for size in batches]
        gaps = {
            f"{small} ahead of {large}": _interval(found[one] - found[two])
            for (small, large), (one, two) in zip(pairwise(batches), pairwise(names), strict=True)
        }
        holds = True if all(low > 0 for _, low, _ in gaps.values()) else None
        if any(high < 0 for _, _, high in gaps.values()):
            holds = False
        claim = f"{label}: smaller mini-batches are better for the same number of tasks (meta-test accuracy)"
        yield Claim(claim, holds, "; ".join(f"{words} by {_said(gap)}" for words, gap in gaps.items()))
    size = batches[0]
    cold, warm = (found[f"{label}, {size} tasks"] for label in SOLVERS.values())
    gap = _interval(warm - cold)
    _, low, high = gap
    apart = low > LEVEL or high < -LEVEL
    holds = False if apart else True if max(-low, high) <= LEVEL else None
    claim = f"{size} tasks: with and without warm start overlap, within {LEVEL:g} point"
    yield Claim(claim, holds, f"with it ahead by {_said(gap)}")


def _interval(differences: pd.Series) -> tuple[float, float, float]:
    """The mean over the seeds and its 95 % interval (Student's), which one seed leaves open."""
    mean, count = float(differences.mean()), len(differences)
    if count == 1:
        return mean, -np.inf, np.inf
    wide = float(t.ppf(0.975, count - 1) * differences.std() / np.sqrt(count))
    return mean, mean - wide, mean + wide


def _said(gap: tuple[float, float, float]) -> str:
    mean, low, high = gap
    return f"{mean:.2f} points ({low:.2f} to {high:.2f})"
