"""`harness compare`: several studies side by side, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from harness.errors import HarnessError
from reports import across, figures, page, panels, statistics, text
from reports.figures import Picture
from reports.formats import write_table
from reports.table import Column, Table
from reports.view import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from harness.record import Record


def write_comparison(studies: Sequence[tuple[str, Record]], out: Path) -> Path:
    """Write `tables/`, `figures/` and `index.html` under `out`; return the path of the page.

    studies: a name and a record each. Raises HarnessError: fewer than two studies, or than two solvers with
    trials in all of them."""
    views = {name: View.of(record) for name, record in studies}
    if len(views) < 2:
        raise HarnessError("harness compare needs two studies at least, in folders of different names")
    solvers = [
        s for s in next(iter(views.values())).solvers if all(len(v.of_solver(s)) for v in views.values())
    ]
    if len(solvers) < 2:
        raise HarnessError(
            f"{', '.join(views)} have fewer than two solvers in common with trials in each study"
        )
    folders = {name: out / name for name in ("tables", "figures")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    written = [ranking(views, solvers), middles(views, solvers)]
    for table in written:
        write_table(table, folders["tables"])
    with figures.house_style():
        drawn = [profile(views, solvers)]
        for picture in drawn:
            figures.write_figure(picture, folders["figures"])
    html = out / "index.html"
    html.write_text(
        page.render_comparison(_facts(views, solvers), written, drawn, folders["figures"]), "utf-8"
    )
    return html


def ranking(views: dict[str, View], solvers: list[str]) -> Table:
    """Best objective of every solver on every problem, its rank there, and its mean rank."""
    best = np.array(
        [[v.of_solver(s)["objective"].min() for s in solvers] for v in views.values()], dtype=float
    )
    best = statistics.failures_last(best)
    ranked = across.ranks(best)
    mean = ranked.mean(axis=0)
    order = np.argsort(mean, kind="stable")
    labels = _labels(views, solvers)
    shown = [
        Column("Solver", [labels[i] for i in order], [labels[i] for i in order]),
        Column(
            "Mean rank", [f"{mean[i]:.2f}" for i in order], list(mean[order]), list(mean[order] == mean.min())
        ),
    ]
    for name, row, places in zip(views, best, ranked, strict=True):
        digits = text.decimals(row)
        cells = [f"{text.score(row[i], digits)} ({places[i]:g})" for i in order]
        shown.append(Column(name, cells, list(row[order]), list(places[order] == 1)))
    data = pd.DataFrame({"solver": [solvers[i] for i in order], "mean_rank": mean[order]})
    for name, row, places in zip(views, best, ranked, strict=True):
        data[f"{name} best"], data[f"{name} rank"] = row[order], places[order]
    p, gap = across.friedman(ranked), across.critical_difference(*ranked.shape)
    test = f"Friedman's test of equal ranks: p = {p:.2g}. " if np.isfinite(p) else ""
    critical = (
        f"Mean ranks differ at the 5 % level where they are {gap:.2f} apart (Nemenyi)."
        if np.isfinite(gap)
        else f"No critical difference is given below {across.ENOUGH} problems."
    )
    caption = (
        "Best objective of the trials of each solver in each study, lower is better, with its rank there in "
        f"brackets; mean rank over n = {len(views)} studies; {_trials(views, solvers)}. The best of more "
        f"trials is better by chance alone. {test}{critical} Bold: first."
    )
    return Table("ranks", "Ranks of the best trials", caption, shown, data)


def middles(views: dict[str, View], solvers: list[str]) -> Table:
    """How good a configuration drawn at random is, across problems."""
    scores = [
        across.standing([v.of_solver(s)["objective"].to_numpy(float) for s in solvers])
        for v in views.values()
    ]
    rows = []
    for place, solver in enumerate(solvers):
        own = [problem[place] for problem in scores]
        mean, low, high = across.stratified(own, np.random.default_rng(0))
        each = {name: across.interquartile_mean(part) for name, part in zip(views, own, strict=True)}
        rows.append({"solver": solver, "mean": mean, "low": low, "high": high, **each})
    data = pd.DataFrame(rows).sort_values("mean", ascending=False, kind="stable", ignore_index=True)
    labels = dict(zip(solvers, _labels(views, solvers), strict=True))
    spans = zip(data["mean"], data["low"], data["high"], strict=True)
    shown = [
        Column("Solver", [labels[s] for s in data["solver"]], list(data["solver"])),
        Column(
            "All studies",
            [f"{mean:.2f} [{low:.2f}, {high:.2f}]" for mean, low, high in spans],
            list(data["mean"]),
            list(data["mean"] == data["mean"].max()),
        ),
        *(
            Column(
                name, [f"{v:.2f}" for v in data[name]], list(data[name]), list(data[name] == data[name].max())
            )
            for name in views
        ),
    ]
    caption = (
        "Interquartile mean over the trials of a solver of their standing, the share of all trials of the "
        "study that a trial beats (ties half; failed trials worst; 1 is best); first column: mean over the "
        "studies, with a 95 % bootstrap interval by resampling trials within each study (1000 resamples; "
        f"the studies are taken as given). It says how good a configuration drawn at random is, not the "
        f"tuned best; {_trials(views, solvers)}. Bold: best of a column."
    )
    return Table("standing", "Configurations drawn at random", caption, shown, data)


def samples_needed(views: dict[str, View], solvers: list[str]) -> statistics.Floats:
    """`(tasks, solvers)`: expected running time to every target of every study; inf: not reached."""
    tasks = []
    for view in views.values():
        points = {s: view.judged[s] for s in solvers}
        for goal in view.targets:
            found = [
                statistics.samples_to_target(points[s], f"metric.{view.objective}", goal) for s in solvers
            ]
            tasks.append([statistics.expected_running_time(*pair) for pair in found])
    return np.array(tasks, dtype=float).reshape(-1, len(solvers))


def profiles(
    axes: Axes, views: dict[str, View], solvers: list[str], needed: statistics.Floats | None = None
) -> Axes:
    """Share of tasks that a solver does within a factor of the samples of the best one. needed:
    `samples_needed(views, solvers)`, where it is at hand."""
    needed = samples_needed(views, solvers) if needed is None else needed
    reached, first = needed[np.isfinite(needed).any(axis=1)], next(iter(views.values()))
    ratios = (reached / reached.min(axis=1, keepdims=True))[np.isfinite(reached)]
    factors = np.geomspace(1, max(2.0, 1.1 * float(ratios.max(initial=1.0))), 200)
    for solver, share in zip(solvers, across.performance_profile(needed, factors), strict=True):
        panels.drawn(axes, first, solver, factors, share, drawstyle="steps-post")
    panels.log_axis(axes).set_ylim(-0.02, 1.02)
    axes.set_xlabel("times the samples of the best solver")
    axes.set_ylabel("share of tasks")
    return axes


def profile(views: dict[str, View], solvers: list[str]) -> Picture:
    """Performance profiles, captioned."""
    needed, figure = samples_needed(views, solvers), figures.blank(3.2, min(5.0, figures.full_width()))
    axes = profiles(figure.subplots(), views, solvers, needed)
    tasks = int(np.isfinite(needed).any(axis=1).sum())
    figures.legend(figure, axes)
    caption = (
        f"Performance profiles over {tasks} tasks (three targets of the objective in each of "
        f"{len(views)} studies: quantiles 0.5, 0.25 and 0.1 of all its trials, below the score of x0; those "
        "that some solver reaches): share of them for which a solver's expected running time is at most so "
        f"many times the least of any solver. At 1: share of tasks it does best; the right end: share it "
        f"does at all; {_trials(views, solvers)}."
    )
    return Picture("profile", "Performance profiles", caption, figures.finish(figure))


def _labels(views: dict[str, View], solvers: list[str]) -> list[str]:
    return [next(iter(views.values())).label(solver) for solver in solvers]


def _trials(views: dict[str, View], solvers: list[str]) -> str:
    counts = [len(v.of_solver(s)) for v, s in product(views.values(), solvers)]
    low, high = min(counts), max(counts)
    return f"{low if low == high else f'{low} to {high}'} trials of each solver in a study, one run each"


def _facts(views: dict[str, View], solvers: list[str]) -> dict[str, str]:
    told = {name: f"{view.metric_label(view.objective)}. {view.conditions}" for name, view in views.items()}
    left = sorted({s for view in views.values() for s in view.solvers} - set(solvers))
    return told | {
        "solvers": ", ".join(_labels(views, solvers)),
        "left out (not in all studies)": ", ".join(left) or "none",
    }
