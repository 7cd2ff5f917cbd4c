"""Plots that take an Axes and return it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reports import bands, looks, statistics, text
from reports.looks import Look
from reports.view import View, outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

Spreads = dict[str, statistics.Floats]  # solver: (low, median, high) along a grid of samples

QUIET = "#8a8a8a"
MANY = 2000
"""More points than that are drawn as pixels, also in PDF and SVG, which no viewer opens with every one."""
CROWD = 200
"""More points than that in a panel are drawn smaller."""
LONGEST_LINE = 30
"""Letters of the label of an upright axis."""
OUTCOME_MARKS: dict[str, dict[str, Any]] = {
    "completed": {"marker": "o"},
    "did not fit": {"marker": "o", "facecolors": "none", "edgecolors": QUIET},
    "diverged": {"marker": "v", "facecolors": "none", "edgecolors": "black"},
    "failed": {"marker": "x", "color": "black"},
}


def look(view: View, solver: str) -> Look:
    return looks.look(solver, view.solvers)


def note(axes: Axes, words: str) -> Axes:
    """Say in an empty panel why it is empty."""
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=QUIET)
    return axes


def two_lines(label: str) -> str:
    """A label for a narrow place: what stands in brackets goes below."""
    return "\n".join(map(one_line, _parted(label)))


def _parted(label: str) -> list[str]:
    return label.replace(" (", "\n(", 1).split("\n")


def one_line(label: str) -> str:
    """A label above a panel, as long as one panel is wide."""
    return text.mathtext(text.plain(label, 26))


def dot(size: float, points: int) -> float:
    """The area of a marker, in square points, 2 at least: many must leave to be seen what is behind them."""
    return max(2.0, size * min(1.0, CROWD / max(points, 1)))


def axis_label(view: View, metric: str) -> str:
    """Of an upright axis; what stands in brackets goes below where a panel may be too low for one line."""
    label = view.axis(metric)
    lines = [label] if len(label) <= LONGEST_LINE else _parted(label)
    return "\n".join(map(text.mathtext, lines))


def log_axis(axes: Axes) -> Axes:
    """A log x axis; linear without data."""
    if np.isfinite(axes.dataLim.minposx):
        axes.set_xscale("log")
        _ticks(axes.xaxis)
    return axes


def scale(axes: Axes, kind: str) -> Axes:
    """The y axis, "log" or "linear", of `axes` and those that share it; before anything is drawn."""
    axes.set_yscale(kind)
    if kind == "log":
        _ticks(axes.yaxis)
    return axes


def _ticks(axis: Axis) -> None:
    """Ticks of a log axis at powers of ten, also at 3, or at 2 and 5, where those are few, labelled in one
    style."""
    from matplotlib.ticker import Formatter, LogLocator, NullLocator

    class Few(LogLocator):
        def tick_values(self, vmin: float, vmax: float) -> Any:
            few = (1.0, 2.0, 5.0) if vmax < 20 * vmin else (1.0, 3.0)
            self.set_params(subs=few if vmax < 200 * vmin else (1.0,))
            return super().tick_values(vmin, vmax)

    class InOneStyle(Formatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return self.format_ticks([x])[0]

        def format_ticks(self, values: Any) -> list[str]:
            low, high = sorted(axis.get_view_interval())
            seen = [value for value in values if low <= value <= high]
            return [text.ticks([value, *seen])[0] for value in values]

    axis.set_major_locator(Few())
    axis.set_major_formatter(InOneStyle())
    axis.set_minor_locator(NullLocator())


def one_height(drawn: NDArray[Any], view: View) -> None:
    """Give panels of the objective one y axis, that of all trials; shared axes would cost the square of their
    number at every point drawn."""
    from matplotlib.figure import Figure

    values = [view.on_axis(view.objective, view.of_solver(s)["objective"]) for s in view.solvers]
    every = np.concatenate(values)
    scratch = scale(Figure().subplots(), view.scale(view.objective))
    scratch.plot(every[np.isfinite(every)], every[np.isfinite(every)])
    for axes in drawn:
        axes.set_ylim(scratch.get_ylim())


def show_ticks(grid: NDArray[Any], drawn: NDArray[np.bool_]) -> None:
    """Of panels that share their axes, label the lowest and the leftmost one that is drawn; hide the others'
    frames. drawn: as `grid`, (rows, columns)."""
    for place, axes in np.ndenumerate(grid):
        if not drawn[place]:
            axes.set_axis_off()
            continue
        row, column = place
        axes.tick_params(labelbottom=not drawn[row + 1 :, column].any())
        axes.tick_params(labelleft=not drawn[row, :column].any())


def spreads(view: View, metric: str) -> Spreads:
    """Of every solver: 20, 50 and 80 % of its trials on `view.grid`."""
    found = {}
    for solver in view.solvers:
        values = statistics.on_grid(view.judged[solver], f"metric.{metric}", view.grid)
        found[solver] = statistics.quantiles(values, (0.2, 0.5, 0.8))
    return found


def curve(axes: Axes, view: View, solver: str, metric: str, known: Spreads | None = None) -> Axes:
    """Median and 20-80 % band over the trials of `solver`, its best trial, and the other solvers' medians.
    known: `spreads(view, metric)`, where it serves several panels."""
    grid, known = view.grid, spreads(view, metric) if known is None else known
    axes.set_title(one_line(view.label(solver)))
    low, middle, high = view.on_axis(metric, known[solver])
    if not np.isfinite(middle).any():
        return note(axes, "no curve recorded")
    for other, (_, median, _) in known.items():
        if other != solver:
            axes.plot(grid, view.on_axis(metric, median), color="#c8c8c8", linewidth=0.7, zorder=1)
    style = look(view, solver)
    axes.fill_between(grid, low, high, color=style.colour, alpha=0.22, linewidth=0, zorder=2)
    axes.plot(grid, middle, color=style.colour, zorder=3)
    points = view.judged[solver]
    points = points[points["ledger.total"] > 0]
    for number in statistics.top(view.of_solver(solver), 1)["number"]:
        best = points[points["number"] == number].sort_values("ledger.total", kind="stable")
        across, height = best["ledger.total"], view.on_axis(metric, best[f"metric.{metric}"])
        axes.plot(across, height, color="black", linewidth=0.8, marker=style.marker, markersize=2, zorder=4)
    return log_axis(axes)


def sensitivity(axes: Axes, view: View, solver: str, name: str) -> Axes:
    """Objective against one searched parameter: every trial by its outcome, and a running median."""
    trials = view.of_solver(solver)
    trials = trials[trials[f"param.{name}"].notna()]
    if trials.empty:
        return note(axes, "no trial")
    across = trials[f"param.{name}"].to_numpy(dtype=float)
    objective = view.on_axis(view.objective, trials["objective"])
    scored = np.isfinite(objective)
    kinds = outcome(trials).where(scored, "failed")
    colour, many = look(view, solver).colour, len(trials) > MANY
    for kind, mark in OUTCOME_MARKS.items():
        rows = np.asarray(kinds == kind)
        style: dict[str, Any] = (
            {"color": colour, "alpha": 0.65, "linewidths": 0} if kind == "completed" else {"linewidths": 0.7}
        )
        if kind == "failed":
            top = np.full(rows.sum(), 0.96)
            style |= {"transform": axes.get_xaxis_transform(), "rasterized": many}
            axes.scatter(across[rows], top, s=12, **mark, **style)
        else:
            style |= {"s": dot(10, len(trials)), "zorder": 3, "rasterized": many}
            axes.scatter(across[rows], objective[rows], **mark, **style)
    if scored.any():
        filled = statistics.failures_last(objective)
        middle = statistics.running_median(across, filled, max(7, len(trials) // 6))
        if len(trials) > CROWD:  # a rim, where points of the same colour are everywhere
            axes.plot(*middle, color="white", linewidth=3, zorder=4)
        axes.plot(*middle, color=colour, zorder=4)
    return log_axis(axes) if view.drawn_on_log(solver, name) else axes


def spread(axes: Axes, view: View) -> Axes:
    """Box and points of the objective per solver; trials that failed or escaped on the upper edge."""
    thin = {"linewidth": 0.8}
    for place, solver in enumerate(view.solvers):
        trials, style = view.of_solver(solver), look(view, solver)
        objective = view.on_axis(view.objective, trials["objective"])
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
        dots["rasterized"] = len(trials) > MANY
        axes.scatter(across[there], objective[there], s=dot(8, len(trials)), **dots)
        cross: dict[str, Any] = {"marker": "x", "color": "black", "linewidths": 0.7}
        cross["rasterized"] = len(trials) > MANY
        top = np.full((~there).sum(), 0.98)
        axes.scatter(across[~there], top, s=10, transform=axes.get_xaxis_transform(), **cross)
    axes.set_xticks(range(len(view.solvers)), [two_lines(view.label(s)) for s in view.solvers])
    axes.tick_params(axis="x", rotation=25 if len(view.solvers) <= 6 else 60)  # two lines each stay apart
    for label in axes.get_xticklabels():
        label.set(ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, len(view.solvers) - 0.4)
    axes.set_ylabel(axis_label(view, view.objective))
    return axes


def shares(axes: Axes, view: View) -> Axes:
    """Share of all trials of a solver (failed ones included) at or below an objective, objective upwards."""
    for solver in view.solvers:
        objective = view.on_axis(view.objective, view.of_solver(solver)["objective"])
        reached, share = _thinned(*statistics.share_at_or_below(objective))
        style = look(view, solver)
        if reached.size:
            label = text.mathtext(view.label(solver))
            heights = [reached[0], *reached]
            axes.step([0, *share], heights, color=style.colour, linestyle=style.line, label=label)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of trials at or below")
    return axes


EFFORTS = {
    "trials": "trials",
    "samples": "samples of the search",
    "all samples": "samples, evaluations included",
}


def tuning_curve(axes: Axes, view: View, solver: str, unit: str = "trials") -> Axes:
    """Best objective of a search by the effort put into it, in a unit of EFFORTS.

    Independent draws: median (line) in its exact simultaneous 95 % band for as long as that has two bounds,
    and the unbiased mean (dots). Else the best so far in the order of the trials."""
    trials, style = view.draws(solver), look(view, solver)
    if trials.empty:
        return note(axes, "no trial")
    values, top = statistics.failures_last(trials["objective"]), view.ceiling(view.objective)
    n = statistics.effort_grid(values.size)
    effort = _effort(trials, unit)[n - 1]
    if not view.independent:
        best = view.on_axis(view.objective, statistics.best_so_far(values)[n - 1])
        return drawn(axes, view, solver, effort, best, drawstyle="steps-post")
    low, high = statistics.best_of_n_band(values, n, *bands.cdf_band(values.size))
    bounded = np.isfinite(low) & np.isfinite(high)
    low, high = np.minimum(low[bounded], top), np.minimum(high[bounded], top)
    axes.fill_between(effort[bounded], low, high, color=style.colour, alpha=0.13, linewidth=0)
    median = view.on_axis(view.objective, statistics.best_of_n_median(values, n)[bounded])
    drawn(axes, view, solver, effort[bounded], median)
    mean = view.on_axis(view.objective, view.expected_best[solver])
    axes.plot(effort, mean, color=style.colour, linestyle=(0, (1, 1.5)), linewidth=0.9)
    return axes


def best_by_effort(axes: Axes, view: View, unit: str = "samples") -> Axes:
    """The same of all solvers in one panel: mean of independent draws, else the best so far."""
    for solver in view.solvers:
        trials = view.draws(solver)
        n, values = statistics.effort_grid(len(trials)), trials["objective"]
        if not np.isfinite(values).any():
            continue
        best = view.expected_best[solver] if view.independent else statistics.best_so_far(values)[n - 1]
        drawn(axes, view, solver, _effort(trials, unit)[n - 1], view.on_axis(view.objective, best))
    axes.set_xlabel(EFFORTS[unit])
    return log_axis(axes)


def _effort(trials: pd.DataFrame, unit: str) -> statistics.Floats:
    """Of 1, 2, ... trials at the mean of those with a ledger."""
    each = {"trials": 1.0, "samples": float(trials["ledger.total"].mean())}
    each["all samples"] = each["samples"] + float(trials["evaluation_samples"].mean())
    return np.asarray(each[unit] * np.arange(1, len(trials) + 1), dtype=float)


def chosen_at_budget(axes: Axes, view: View) -> Axes:
    """Headline of the trial with the best objective at every budget, per solver."""
    for solver in view.solvers:
        columns = f"metric.{view.objective}", f"metric.{view.headline}"
        chosen = statistics.best_at_budget(view.judged[solver], *columns, view.grid)
        if chosen["headline"].notna().any():
            measured = view.along == "evaluations"  # at these budgets, and not between
            style: dict[str, Any] = {"markevery": 1} if measured else {"drawstyle": "steps-post"}
            headline = view.on_axis(view.headline, chosen["headline"])
            drawn(axes, view, solver, chosen["samples"], headline, **style)
    axes.set_xlabel("budget, samples per trial")
    axes.set_ylabel(axis_label(view, view.headline))
    return log_axis(axes)


def to_targets(axes: Axes, view: View) -> Axes:
    """Share of (target, simulated search) pairs that have reached their target, by samples, per solver."""
    rng = np.random.default_rng(0)
    for solver in view.solvers:
        points = view.judged[solver]
        if points.empty or not view.targets:
            continue
        found = [statistics.samples_to_target(points, f"metric.{view.objective}", t) for t in view.targets]
        total = np.concatenate([statistics.restarted(*pair, rng) for pair in found])
        drawn(axes, view, solver, *_thinned(*statistics.share_at_or_below(total)), drawstyle="steps-post")
    axes.set_ylim(0, 1)
    axes.set_xlabel("samples of the search, trial after trial")
    axes.set_ylabel("share of searches at their target")
    return log_axis(axes)


def _thinned(reached: statistics.Floats, share: statistics.Floats) -> tuple[statistics.Floats, ...]:
    """A distribution at 200 of its points: more cannot be told apart in print."""
    kept = np.unique(np.linspace(0, max(reached.size - 1, 0), min(reached.size, 200)).astype(int))
    return reached[kept], share[kept]


def drawn(
    axes: Axes,
    view: View,
    solver: str,
    across: statistics.Floats | pd.Series[float],
    height: statistics.Floats | pd.Series[float],
    **style: Any,
) -> Axes:
    """A solver's line in a figure that compares solvers, with a marker at every sixth of the axis."""
    its, label = look(view, solver), text.mathtext(view.label(solver))
    every = 0.15 if (np.isfinite(across) & np.isfinite(height)).any() else None  # where no point is, it fails
    axes.plot(
        across,
        height,
        color=its.colour,
        linestyle=its.line,
        marker=its.marker,
        markersize=3.5,
        label=label,
        **{"markevery": every, **style},
    )
    return axes
