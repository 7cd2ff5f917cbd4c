"""What tuning gains: every method at its published configuration, and at the best of those drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from reports import statistics, text
from reports.across import ranks
from reports.table import Column, Table
from reports.view import View


def tunability_tables(view: View) -> list[Table]:
    """Nothing where no published configuration ran."""
    data = tuned_and_published(view)
    return [tunability(view, data)] if data["ran"].any() else []


def tuned_and_published(view: View) -> pd.DataFrame:
    """A row for each solver. published, tuned: objective of the published configuration, and the best of the
    n that were drawn; +inf: failed, or none. gain: published less tuned. better: how many of the n beat the
    published one. published rank, tuned rank: among the solvers that have one. ahead: how many others'
    published configurations the tuned one beats."""
    rows: list[dict[str, Any]] = []
    for solver in view.solvers:
        trials, drawn = view.of_solver(solver), view.draws(solver)
        first = trials[~trials["number"].isin(drawn["number"])]
        values = statistics.failures_last(drawn["objective"])
        published = float(statistics.failures_last(first["objective"]).min(initial=np.inf))
        tuned = float(values.min(initial=np.inf))
        rows.append(
            {
                "solver": solver,
                "ran": len(first) > 0,
                "published": published,
                "tuned": tuned,
                "gain": published - tuned if np.isfinite([published, tuned]).all() else np.nan,
                "n": values.size,
                "better": int((values < published).sum()) if len(first) else 0,
            }
        )
    data = pd.DataFrame(rows)
    for kind, there in (("published", data["ran"]), ("tuned", data["n"] > 0)):
        data[f"{kind} rank"] = np.nan
        if there.any():
            data.loc[there, f"{kind} rank"] = ranks(data.loc[there, kind].to_numpy(dtype=float)[None])[0]
    others = [data[data["ran"] & (data["solver"] != solver)]["published"] for solver in data["solver"]]
    data["ahead"] = [int((tuned < rest).sum()) for tuned, rest in zip(data["tuned"], others, strict=True)]
    data["others"] = list(map(len, others))
    return data.sort_values("tuned", kind="stable", ignore_index=True)


def tunability(view: View, data: pd.DataFrame) -> Table:
    """Published and tuned side by side, solvers by the tuned one."""
    digits = text.decimals(data[["published", "tuned"]].to_numpy(dtype=float).ravel())
    shown = [Column("Solver", [view.label(s) for s in data["solver"]], list(data["solver"]))]
    for kind in ("published", "tuned"):
        ranked = zip(data[kind], data[f"{kind} rank"], strict=True)
        cells = [text.MISSING if np.isnan(rank) else _ranked(value, rank, digits) for value, rank in ranked]
        best = list(np.isfinite(data[kind]) & (data[kind] == data[kind].min()))
        shown.append(Column(f"{view.short(view.objective)}, {kind}", cells, list(data[kind]), best))
    gains = [text.score(float(gain), digits).replace("-", "−") for gain in data["gain"]]
    shown.append(Column("Tuning gains", gains, list(data["gain"])))
    for heading, part, whole, asked in (
        ("Drawn ones that beat it", "better", "n", data["ran"]),
        ("Tuned one beats published", "ahead", "others", data["n"] > 0),
    ):
        counts = zip(data[part], data[whole], asked & (data[whole] > 0), strict=True)
        cells = [f"{k} of {n}" if there else text.MISSING for k, n, there in counts]
        shown.append(Column(heading, cells, list(data[part])))
    caption = (
        f"{_verdict(view, data, digits)} {view.metric_label(view.objective)}, lower is better, of the "
        "published configuration of a solver (trial 0, not drawn) and of the best of the n that were drawn; "
        "in brackets the rank among the solvers that have one. Tuning gains: published less tuned, below 0 "
        "where n draws did not reach what was published. Drawn ones that beat it: of the n. Tuned one beats "
        "published: of the other solvers' published configurations. The tuned value is the least of n and "
        "was selected by itself, so that the gain is too good; `harness confirm` measures both on fresh "
        "seeds. A published configuration was tuned too, perhaps for another data set or budget. "
        f"{view.conditions}"
    )
    return Table("tunability", "What tuning gains", caption, shown, data.drop(columns="ran"))


def _ranked(value: float, rank: float, digits: int) -> str:
    return f"{text.score(value, digits) if np.isfinite(value) else 'failed'} ({rank:g})"


def _verdict(view: View, data: pd.DataFrame, digits: int) -> str:
    """The best tuned one against all at their published configurations, and the reverse."""
    tuned, ran = data.iloc[0], data[data["ran"]]
    if not tuned["n"] or not np.isfinite(tuned["tuned"]):
        return "No drawn configuration has a score."
    first = ran.sort_values("published", kind="stable").iloc[0]
    said = (
        f"{view.label(tuned['solver'])} is best of the tuned ones ({text.score(tuned['tuned'], digits)}), "
        f"{view.label(first['solver'])} at the published configurations "
        f"({_ranked(first['published'], 1, digits).removesuffix(' (1)')})."
    )
    gains = data["gain"].dropna()
    if gains.empty:
        return said
    middle = text.score(float(gains.median()), digits).replace("-", "−")
    return f"{said} Tuning gains {middle} in the median of {len(gains)} solvers."
