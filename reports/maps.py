"""Maps of the objective over the two parameters that matter most, a panel for each solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from reports import figures, panels, statistics, text
from reports.figures import Picture
from reports.statistics import Floats
from reports.view import FEWEST, View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize

COLOURS = "cividis"
CELLS = 40
"""Of the ground, along each parameter."""


@dataclass(frozen=True)
class Range:
    """What a parameter is drawn from: unit places from 0 to 1 on the scale of the draws, and back."""

    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, view: View, solver: str, name: str) -> Range:
        entry = view.space(solver)[name]
        values = entry.get("choices") or [entry["low"], entry["high"]]
        return cls(min(values), max(values), view.drawn_on_log(solver, name))

    def place(self, values: ArrayLike) -> Floats:
        low, high, given = (np.log(v) if self.log else np.asarray(v) for v in (self.low, self.high, values))
        return np.asarray((given - low) / (high - low), dtype=float)

    def value(self, places: Floats) -> Floats:
        if self.log:
            return np.asarray(self.low * (self.high / self.low) ** places, dtype=float)
        return np.asarray(self.low + (self.high - self.low) * places, dtype=float)


def map_figures(view: View) -> list[Picture]:
    """Nothing where no solver has two parameters of known importance; call within `house_style`."""
    return [maps(view)] if any(two_that_matter(view, solver) for solver in view.solvers) else []


def two_that_matter(view: View, solver: str) -> list[str]:
    """The two searched numbers of largest importance; empty where they are not known."""
    known = view.importances[solver]
    choices = {name: view.space(solver)[name].get("choices", [0, 1]) for name in known}
    numbers = [n for n, c in choices.items() if len(set(c)) > 1 and not any(isinstance(v, str) for v in c)]
    ordered = sorted(numbers, key=lambda name: -known[name])
    return ordered[:2] if len(ordered) > 1 else []


def parameter_map(axes: Axes, view: View, solver: str, norm: Normalize | None = None) -> Axes:
    """Drawn trials of a solver over its two parameters of largest importance, coloured by the objective, on a
    ground of the median of the nearest ones. norm: `colours(view)`, where it serves several panels."""
    axes.set_title(panels.one_line(view.label(solver)))
    names = two_that_matter(view, solver)
    if not names:
        return panels.note(axes, f"no two parameters of\nknown importance\n({FEWEST} trials or more)")
    norm = colours(view) if norm is None else norm
    style: dict[str, Any] = {"cmap": COLOURS, "norm": norm}
    trials, ranges = view.draws(solver), [Range.of(view, solver, name) for name in names]
    values = statistics.failures_last(trials["objective"])
    along = [trials[f"param.{name}"].to_numpy(dtype=float) for name in names]
    points = np.stack([r.place(v) for r, v in zip(ranges, along, strict=True)], axis=1)
    edges = [r.value(np.linspace(0, 1, CELLS + 1)) for r in ranges]
    shown = np.minimum(ground(points, values), norm.vmax or 0.0)
    axes.pcolormesh(*edges, shown, alpha=0.55, linewidth=0, rasterized=True, **style)
    best_last = np.argsort(-values, kind="stable")
    values, (across, up) = values[best_last], (value[best_last] for value in along)
    there, size = np.isfinite(values), panels.dot(14, len(values))
    marks: dict[str, Any] = {"s": size, "rasterized": len(values) > panels.MANY}
    dots, crosses = (marks | {"linewidths": width * (size / 14) ** 0.5} for width in (0.4, 0.7))
    axes.scatter(across[there], up[there], c=values[there], edgecolors="black", **dots, **style)
    axes.scatter(across[~there], up[~there], marker="x", color="black", **crosses)
    if ranges[0].log:
        panels.log_axis(axes)
    panels.scale(axes, "log" if ranges[1].log else "linear")
    axes.grid(visible=False)
    axes.set_xlabel(text.mathtext(view.symbol(names[0])))
    axes.set_ylabel(text.mathtext(view.symbol(names[1])))
    return axes


def ground(points: Floats, values: Floats) -> Floats:
    """`(CELLS, CELLS)`, rows upwards: the median of the trials nearest to the middle of each cell. points:
    `(N, 2)` unit places."""
    middles = (np.arange(CELLS) + 0.5) / CELLS
    cells = np.stack(np.meshgrid(middles, middles), axis=2).reshape(-1, 2)
    return statistics.local_median(points, values, cells, nearest(len(points))).reshape(CELLS, CELLS)


def nearest(trials: int) -> int:
    """Of so many trials, those that the ground takes the median of: a sixth, at least seven, odd."""
    return max(7, trials // 6) | 1


def colours(view: View) -> Normalize:
    """From the best objective of the study to x0's score, or where that is not known the upper quartile."""
    from matplotlib.colors import LogNorm, Normalize

    objective = view.trials["objective"].to_numpy(dtype=float)
    low, quartile = np.quantile(objective[np.isfinite(objective)], [0, 0.75], method="inverted_cdf")
    start = view.start[view.objective]
    high = start if np.isfinite(start) and start > low else quartile
    kind = LogNorm if view.scale(view.objective) == "log" else Normalize
    return kind(low, high if high > low else low + 1, clip=True)


def maps(view: View) -> Picture:
    """One panel per solver, one scale of colours."""
    from matplotlib.cm import ScalarMappable

    across = figures.abreast(len(view.solvers))
    down = -(-len(view.solvers) // across)
    figure, norm = figures.blank(0.4 + 1.9 * down), colours(view)
    axes = figure.subplots(down, across, squeeze=False)
    for panel, solver in zip(axes.flat, view.solvers, strict=False):
        parameter_map(panel, view, solver, norm)
    for panel in axes.flat[len(view.solvers) :]:
        panel.set_axis_off()
    bar = figure.colorbar(ScalarMappable(norm, COLOURS), ax=axes, fraction=0.03, aspect=30)
    bar.set_label(panels.axis_label(view, view.objective))
    most = max(len(view.draws(solver)) for solver in view.solvers)
    caption = (
        "Drawn trials (points; failed ones crosses) over the two searched parameters of largest importance "
        "(PED-ANOVA, table Sensitivity), coloured by the final objective. Ground: median objective of the "
        f"nearest trials, {nearest(most)} of {most}, failed ones worst; distances on the scale of the draws, "
        "as shares of the ranges. It smooths these points, and all other parameters vary under it. One scale "
        "of colours, from the best trial of the study to the score of x0 (where that is not known, the upper "
        f"quartile) and all that is worse. {view.conditions}"
    )
    return Picture("maps", "Maps of two parameters", caption, figures.finish(figure))
