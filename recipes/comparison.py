"""What several recipes read off a comparison of methods: the best trial of each, and its curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from harness.record import Record
from recipes.recipe import Claim, markdown
from reports.figures import WIDTH, Picture
from reports.looks import look


def trials_of(records: Sequence[Record]) -> pd.DataFrame:
    """All trials, with the place of their record."""
    found = [record.trials.assign(place=place) for place, record in enumerate(records)]
    return pd.concat(found, ignore_index=True)


def best(trials: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The trial of the least objective of each solver, by its name, in their order; a solver without a finite
    one is left out. `value` is the metric."""
    finite = trials[np.isfinite(trials["objective"])]
    chosen = finite.loc[finite.groupby("solver", sort=False)["objective"].idxmin()]
    found: pd.DataFrame = chosen.assign(value=chosen[f"metric.{metric}"]).set_index("solver", drop=False)
    return found


def curve_of(records: Sequence[Record], trial: pd.Series) -> pd.DataFrame:
    curves = records[int(trial["place"])].curves
    found: pd.DataFrame = curves[curves["trial"] == trial["trial"]]
    return found


def first_claim(
    text: str, values: pd.Series, solver: str, sign: int, among: Sequence[str] | None = None
) -> Claim:
    """That a solver's value is the highest (sign 1) or the lowest (-1)."""
    judged = values if among is None else values[values.index.isin(among)]
    holds = solver in judged.index and bool(sign * judged[solver] >= (sign * judged).max())
    ordered = judged.sort_values(ascending=sign < 0)
    return Claim(text, holds, ", ".join(f"{name} {value:.4g}" for name, value in ordered.items()))


def table(trials: pd.DataFrame, metrics: Mapping[str, str], parameters: Sequence[str]) -> str:
    """Of the best trials, in the order of the objective: metrics by name with their form, and what they were
    drawn with."""
    chosen = best(trials, next(iter(metrics))).sort_values("objective")
    known = [name for name in parameters if f"param.{name}" in chosen]
    rows = [
        [
            str(name),
            f"{row['upper_iterations']:,.0f}",
            *(f"{row[f'metric.{metric}']:{form}}" for metric, form in metrics.items()),
            *("" if pd.isna(row[f"param.{word}"]) else f"{row[f'param.{word}']:g}" for word in known),
        ]
        for name, row in chosen.iterrows()
    ]
    return markdown(["method", "upper iterations", *metrics, *known], rows)


def curves_picture(
    name: str,
    caption: str,
    records: Sequence[Record],
    metrics: Mapping[str, str],
    axes: Mapping[str, str],
    chosen: pd.DataFrame,
) -> Picture:
    """The curves of chosen trials, in the looks that reports give to their names: a column for each metric, a
    row for each axis (columns of a curve)."""
    import seaborn
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(WIDTH, 0.7 + 1.9 * len(axes)), layout="constrained")
    panels = drawing.subplots(len(axes), len(metrics), squeeze=False, sharex="row", sharey="col")
    shown = [str(one) for one in chosen.index]
    labels = {key: solver["label"] for record in records for key, solver in record.spec["solvers"].items()}
    for row, (axis, axis_title) in zip(panels, axes.items(), strict=True):
        for panel, (metric, title) in zip(row, metrics.items(), strict=True):
            for one, (_, trial) in zip(shown, chosen.iterrows(), strict=True):
                curve, drawn = curve_of(records, trial), look(one, shown)
                style: Any = {"color": drawn.colour, "linestyle": drawn.line, "label": labels.get(one, one)}
                panel.plot(curve[axis], curve[f"metric.{metric}"], **style)
            panel.set(xlabel=axis_title, ylabel=title)
    drawing.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    seaborn.despine(drawing)
    return Picture(name, name, caption, drawing)
