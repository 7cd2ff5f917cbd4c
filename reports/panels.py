"""Plots that take an Axes and return it; the look of every solver, the same in all figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from reports import statistics, text
from reports.view import View, outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Bands = dict[str, statistics.Floats]  # solver: (low, median, high) along a grid of samples

# Okabe and Ito 2008, told apart with every common colour blindness; without their yellow, too pale for lines.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)), (0, (9, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
QUIET = "#8a8a8a"
OUTCOME_MARKS: dict[str, dict[str, Any]] = {
    "completed": {"marker": "o"},
    "did not fit": {"marker": "o", "facecolors": "none", "edgecolors": QUIET},
    "diverged": {"marker": "v", "facecolors": "none", "edgecolors": "black"},
    "failed": {"marker": "x", "color": "black"},
}


@dataclass(frozen=True)
class Look:
    """Colour, line and marker of one solver."""

    colour: str
    line: str | tuple[int, tuple[float, ...]]
    marker: str


def look(view: View, solver: str) -> Look:
    """By the solver's place in the study; the cycles differ in length, so 168 solvers look different."""
    place = view.solvers.index(solver)
    return Look(_COLOURS[place % len(_COLOURS)], _LINES[place % len(_LINES)], _MARKERS[place % len(_MARKERS)])


def note(axes: Axes, words: str) -> Axes:
    """Say in an empty panel why it is empty."""
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=QUIET)
    return axes


def log_axis(axes: Axes) -> Axes:
    """A log x axis labelled at powers of ten, also at 2 and 5 where those are few; linear without data."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if not np.isfinite(axes.dataLim.minposx):
        return axes
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 200 * low else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text.tick(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    return axes


def curve(axes: Axes, view: View, solver: str, metric: str, bands: Bands, grid: statistics.Floats) -> Axes:
    """Median and 20-80 % band over the trials of `solver`, its best trial, and the other solvers' medians."""
    for other, (_, middle, _) in bands.items():
        if other != solver:
            axes.plot(grid, middle, color="#c8c8c8", linewidth=0.7, zorder=1)
    low, middle, high = bands[solver]
    style = look(view, solver)
    if np.isfinite(middle).any():
        axes.fill_between(grid, low, high, color=style.colour, alpha=0.22, linewidth=0, zorder=2)
        axes.plot(grid, middle, color=style.colour, zorder=3)
    else:
        note(axes, "no curve recorded")
    points = view.curves_of(solver)
    points = points[points["upper_iteration"] > 0].sort_values("ledger.total")
    for number in statistics.top(view.of_solver(solver), 1)["number"]:
        best = points[points["number"] == number]
        across, height = best["ledger.total"], best[f"metric.{metric}"]
        axes.plot(across, height, color="black", linewidth=0.8, marker=style.marker, markersize=2, zorder=4)
    axes.set_title(text.mathtext(view.label(solver)))
    return log_axis(axes)


def sensitivity(axes: Axes, view: View, solver: str, name: str) -> Axes:
    """Objective against one searched parameter: every trial by its outcome, and a running median."""
    trials = view.of_solver(solver)
    trials = trials[trials[f"param.{name}"].notna()]
    if trials.empty:
        return note(axes, "no trial")
    across = trials[f"param.{name}"].to_numpy(dtype=float)
    objective = trials["objective"].to_numpy(dtype=float)
    scored = np.isfinite(objective)
    kinds = outcome(trials).where(scored, "failed")
    colour = look(view, solver).colour
    for kind, mark in OUTCOME_MARKS.items():
        rows = np.asarray(kinds == kind)
        style = (
            {"color": colour, "alpha": 0.65, "linewidths": 0} if kind == "completed" else {"linewidths": 0.7}
        )
        if kind == "failed":
            top = np.full(rows.sum(), 0.96)
            axes.scatter(across[rows], top, s=12, transform=axes.get_xaxis_transform(), **mark, **style)
        else:
            axes.scatter(across[rows], objective[rows], s=10, zorder=3, **mark, **style)
    if scored.any():
        filled = statistics.fill_failures(objective, view.worst)
        middle = statistics.running_median(across, filled, max(7, len(trials) // 6))
        axes.plot(*middle, color=colour, zorder=4)
    return log_axis(axes) if view.drawn_on_log(solver, name) else axes


def spread(axes: Axes, view: View) -> Axes:
    """Box and points of the objective per solver; failed trials on the upper edge."""
    thin = {"linewidth": 0.8}
    for place, solver in enumerate(view.solvers):
        trials, style = view.of_solver(solver), look(view, solver)
        objective = trials["objective"].to_numpy(dtype=float)
        golden = (trials["number"].to_numpy(dtype=float) * 0.618034) % 1  # even jitter without a random draw
        across = place + 0.5 * (golden - 0.5)
        there = np.isfinite(objective)
        if there.any():
            axes.boxplot(
                objective[there],
                positions=[place],
                widths=0.66,
                showfliers=False,
                boxprops=thin,
                whiskerprops=thin,
                capprops=thin,
                medianprops={"color": style.colour, "linewidth": 1.6},
            )
        dots: dict[str, Any] = {"marker": style.marker, "color": style.colour, "alpha": 0.6, "linewidths": 0}
        axes.scatter(across[there], objective[there], s=8, **dots)
        cross: dict[str, Any] = {"marker": "x", "color": "black", "linewidths": 0.7}
        top = np.full((~there).sum(), 0.98)
        axes.scatter(across[~there], top, s=10, transform=axes.get_xaxis_transform(), **cross)
    axes.set_xticks(range(len(view.solvers)), [text.mathtext(view.label(s)) for s in view.solvers])
    axes.tick_params(axis="x", rotation=25)
    for label in axes.get_xticklabels():
        label.set(ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, len(view.solvers) - 0.4)
    axes.set_ylabel(text.mathtext(view.metric_label(view.objective)))
    return axes


def shares(axes: Axes, view: View) -> Axes:
    """Share of all trials of a solver (failed ones included) at or below an objective, objective upwards."""
    for solver in view.solvers:
        reached, share = statistics.share_at_or_below(view.of_solver(solver)["objective"])
        style = look(view, solver)
        if reached.size:
            label = text.mathtext(view.label(solver))
            heights = [reached[0], *reached]
            axes.step([0, *share], heights, color=style.colour, linestyle=style.line, label=label)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of trials at or below")
    return axes


def search_effort(axes: Axes, view: View, rng: np.random.Generator, in_samples: bool) -> Axes:
    """Expected best objective against the number of trials, or the samples they cost, with a 95 % band."""
    for solver in view.solvers:
        trials, style = view.of_solver(solver), look(view, solver)
        if trials.empty or not np.isfinite(view.worst):
            continue
        values = statistics.fill_failures(trials["objective"], view.worst)
        cost = float(trials["ledger.total"].mean()) if in_samples else 1.0
        effort = np.asarray(cost * np.arange(1, values.size + 1), dtype=np.float64)
        low, high = statistics.expected_best_band(values, rng)
        axes.fill_between(effort, low, high, color=style.colour, alpha=0.10, linewidth=0)
        _line(axes, view, solver, effort, statistics.expected_best(values))
    axes.set_xlabel("samples, tuning included (trials × mean samples of a trial)" if in_samples else "trials")
    axes.set_ylabel(f"expected best {text.mathtext(view.metric_label(view.objective))}")
    return log_axis(axes)


def chosen_at_budget(axes: Axes, view: View, grid: statistics.Floats) -> Axes:
    """Headline of the completed trial with the best objective at every budget, per solver."""
    for solver in view.solvers:
        trials, curves = view.of_solver(solver), view.curves_of(solver)
        completed = curves["number"].isin(trials.loc[trials["state"] == "completed", "number"])
        columns = f"metric.{view.objective}", f"metric.{view.headline}"
        chosen = statistics.best_at_budget(curves[completed], *columns, grid)
        if chosen["headline"].notna().any():
            _line(axes, view, solver, chosen["samples"], chosen["headline"], drawstyle="steps-post")
    axes.set_xlabel("budget, samples per trial")
    axes.set_ylabel(f"{text.mathtext(view.metric_label(view.headline))}, during the trial")
    return log_axis(axes)


def _line(
    axes: Axes,
    view: View,
    solver: str,
    across: statistics.Floats | pd.Series[float],
    height: statistics.Floats | pd.Series[float],
    **style: Any,
) -> None:
    """A solver's line in a figure that compares solvers, with a marker at every sixth of the axis."""
    its, label = look(view, solver), text.mathtext(view.label(solver))
    axes.plot(
        across,
        height,
        color=its.colour,
        linestyle=its.line,
        marker=its.marker,
        markersize=3.5,
        markevery=0.15 if np.isfinite(across * height).any() else None,  # where no point is, it fails
        label=label,
        **style,
    )
