"""Few-shot meta-learning (Grazzi, Pontil and Salzo 2023, Section 7.2, Figure 2): BSGM with and without warm
start, mini-batches of 8, 16 and 32 tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

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
        "small": Scale("tiny_imagenet_stand_in", 400, (8, 16), 1, {"tasks": 200, "evaluation_tasks": 50}),
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
        return Findings(list(_claims(trials, scale)), tables, [picture], _note(scale))


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


def _claims(trials: pd.DataFrame, scale: Scale) -> Iterator[Claim]:
    means = trials.groupby("what", sort=False)["metric.test_accuracy"].mean()
    for label in SOLVERS.values():
        found = np.array([means[f"{label}, {size} tasks"] for size in scale.batches])
        numbers = ", ".join(
            f"{size}: {value:.2f} %" for size, value in zip(scale.batches, found, strict=True)
        )
        claim = f"{label}: smaller mini-batches are better for the same number of tasks (meta-test accuracy)"
        yield Claim(claim, bool((np.diff(found) < 0).all()), numbers)
    size = scale.batches[0]
    cold, warm = (means[f"{label}, {size} tasks"] for label in SOLVERS.values())
    claim = f"{size} tasks: with and without warm start overlap, within {LEVEL:g} point"
    yield Claim(claim, bool(abs(warm - cold) <= LEVEL), f"without {cold:.2f} %, with {warm:.2f} %")
