"""The figures of a report: panels arranged, captioned, and saved as PDF, SVG and PNG."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reports import bands, panels, text
from reports.view import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 6.9
WIDTHS = {"page": WIDTH, "column": 3.35}
"""Inches, of a two-column paper."""
MOST = 12
"""Solvers of a report's figures: more cannot be told apart, nor panels of more be read."""
_BESIDE: Any = {
    **{"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False},
    **{"rotation": 90, "ha": "center", "va": "center"},
}
_FAILED = "A failed trial counts as worse than any other."
_BEYOND = (
    "Crosses on the upper edge: trials that failed, have no score, or lie further above the upper quartile "
    "of all trials than a thousand times its distance from the best."
)


@dataclass(frozen=True)
class Picture:
    """A figure, and what a reader must know to read it."""

    name: str
    title: str
    caption: str
    figure: Figure


@contextmanager
def house_style(width: str = "page") -> Iterator[None]:
    """The settings of every figure while it is drawn and saved; restored afterwards. width: of WIDTHS."""
    import matplotlib
    import seaborn

    sizes = {"font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 8}
    ticks = {"xtick.labelsize": 7, "ytick.labelsize": 7}
    lines = {"lines.linewidth": 1.3, "axes.linewidth": 0.7, "grid.linewidth": 0.5, "grid.color": "#e6e6e6"}
    saved = {"pdf.fonttype": 42, "ps.fonttype": 42, "savefig.dpi": 200, "svg.hashsalt": "bilevel-harness"}
    letters = {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "mathtext.fontset": "dejavusans",
    }
    rest = {"axes.grid": True, "axes.axisbelow": True, "legend.frameon": False, "legend.handlelength": 3}
    size = {"figure.figsize": (WIDTHS[width], 3.0)}
    settings: Any = {
        **size,
        **seaborn.axes_style("ticks"),
        **sizes,
        **ticks,
        **lines,
        **saved,
        **letters,
        **rest,
    }
    logging.getLogger("matplotlib.mathtext").setLevel(logging.ERROR)
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box is drawn in place of a letter
        yield


def all_figures(view: View) -> list[Picture]:
    """Every figure of the report but `maps`, in reading order; call and save within `house_style`."""
    along = [best_at_budget(view), curves(view)] if view.along else []
    return [distribution(view), tuning(view), samples_to_target(view), *along, parameters(view)]


def write_figure(picture: Picture, folder: Path) -> None:
    """`NAME.pdf`, `NAME.svg` and `NAME.png` in `folder`, undated: the same study gives the same files."""
    undated: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
    for suffix, metadata in undated.items():
        picture.figure.savefig(folder / f"{picture.name}.{suffix}", metadata=metadata)


def curves(view: View) -> Picture:
    """Small multiples: one panel per solver and metric."""
    metrics = list(dict.fromkeys([view.objective, view.headline]))
    across = abreast(len(view.solvers))
    down = -(-len(view.solvers) // across)
    figure = blank(0.45 + len(metrics) * (0.25 + 1.35 * down))
    blocks = figure.subfigures(len(metrics), 1, squeeze=False)[:, 0]
    for block, metric in zip(blocks, metrics, strict=True):
        known = panels.spreads(view, metric)
        block.suptitle(text.mathtext(view.axis(metric)), fontsize=8, fontweight="bold")
        block.supxlabel("samples", fontsize=8)
        axes = block.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        panels.scale(axes.flat[0], view.scale(metric))
        for panel, solver in zip(axes.flat, view.solvers, strict=False):
            panels.curve(panel, view, solver, metric, known)
        panels.show_ticks(axes, np.arange(axes.size).reshape(axes.shape) < len(view.solvers))
    caption = (
        "Objective and headline metric along the budget: median (line) and 20-80 % band over a solver's "
        "trials that did not fail, its best trial by final objective (black), the other solvers' medians "
        f"(grey). {view.standing} {view.conditions}"
    )
    return Picture("curves", "Along the budget", caption, finish(figure))


def parameters(view: View) -> Picture:
    """A row of panels per solver, a column per parameter that some solver searches."""
    names = [name for name in view.parameters if any(name in view.searched(s) for s in view.solvers)]
    figure = blank(0.8 + 1.15 * len(view.solvers), max(full_width(), 1.6 * len(names)))
    axes = figure.subplots(len(view.solvers), max(len(names), 1), sharex="col", squeeze=False)
    drawn = np.array([[name in view.searched(s) for name in names or [""]] for s in view.solvers])
    for row, solver in zip(axes, view.solvers, strict=True):
        for panel, name in zip(row, names, strict=False):
            if name in view.searched(solver):
                panels.scale(panel, view.scale(view.objective))
                panels.sensitivity(panel, view, solver, name)
            else:
                panels.note(panel, text.mathtext(view.drawn_from(solver, name, view.symbol)))
        row[0].annotate(panels.two_lines(view.label(solver)), (0, 0.5), xytext=(-34, 0), **_BESIDE)
    panels.one_height(axes[drawn], view)
    panels.show_ticks(axes, drawn)
    for panel, name in zip(axes[0], names, strict=False):
        symbol = view.symbol(name)
        panel.set_title(name if symbol == name else f"{name}\n({text.mathtext(symbol)})")
    figure.supylabel(panels.axis_label(view, view.objective), fontsize=8)
    _outcome_legend(figure)
    caption = (
        "Final objective against every searched parameter: each trial by its outcome (did not fit: the "
        "first upper iteration exceeds the budget, the output is x0), and the median of a sixth of the "
        f"trials (at least seven) running along the parameter. {_FAILED} {_BEYOND} "
        f"Grey words: parameters a solver ties or fixes. {view.conditions}"
    )
    return Picture("parameters", "Sensitivity to parameters", caption, finish(figure))


def distribution(view: View) -> Picture:
    """Boxes and points beside the empirical distribution, one axis for the objective."""
    names = 0.15 * max(0, len(view.solvers) - 6)  # inches that more of them take, below and in the legend
    if abreast(3) == 3:
        figure = blank(3.0 + names)
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.35, 1))
    else:
        figure = blank(5.4 + names)
        left, right = figure.subplots(2, 1, sharey=True)
        right.set_ylabel(panels.axis_label(view, view.objective))
    panels.scale(left, view.scale(view.objective))
    panels.spread(left, view)
    panels.shares(right, view)
    legend(figure, right)
    caption = (
        "Final objective of all trials. Boxes: quartiles, whiskers to 1.5 times the interquartile range, "
        f"every other trial a point. {_BEYOND} Steps: share of all trials, failed ones included, at or below "
        f"an objective. {view.conditions}"
    )
    return Picture("distribution", "Distribution of the objective", caption, finish(figure))


def tuning(view: View) -> Picture:
    """Best objective of a search by its trials, its samples, and its samples with the evaluations."""
    across = abreast(len(view.solvers))
    down = -(-len(view.solvers) // across)
    below = 1 if abreast(3) == 3 else 2
    figure = blank(0.6 + 1.75 * (down + below))
    top, bottom = figure.subfigures(2, 1, height_ratios=(down, 1.05 * below), squeeze=False)[:, 0]
    panes = top.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    panels.scale(panes.flat[0], view.scale(view.objective))
    for axes, solver in zip(panes.flat, view.solvers, strict=False):
        panels.tuning_curve(axes, view, solver).set_title(panels.one_line(view.label(solver)))
        panels.log_axis(axes)
    panels.show_ticks(panes, np.arange(panes.size).reshape(panes.shape) < len(view.solvers))
    top.supxlabel("trials", fontsize=8)
    top.supylabel(panels.axis_label(view, view.objective), fontsize=8)
    pair = bottom.subplots(below, 2 // below, sharey=True)
    panels.scale(pair[0], view.scale(view.objective))
    for axes, unit in zip(pair, ("samples", "all samples"), strict=True):
        panels.best_by_effort(axes, view, unit)
    for axes in pair[:below]:
        axes.set_ylabel(panels.axis_label(view, view.objective))
    legend(figure, pair[1])
    caption = f"{_tuned(view)} {_FAILED} {view.conditions}"
    return Picture("tuning", "Tuning curves", caption, finish(figure))


def _tuned(view: View) -> str:
    costs = (
        "Samples: trials times the mean samples of a trial of the solver; last panel: with those of the "
        "final evaluation, which a search needs to rank its trials."
    )
    what = view.metric_label(view.objective)
    if not view.independent:
        kind = "study at other prices" if "repriced" in view.spec else f"{view.spec['sampler']} search"
        return (
            f"Best {what} of the first n trials in their order, one search as it ran. {costs} The trials of "
            f"a {kind} are no independent draws: there is no unbiased estimate of, "
            "and no band for, another search of n trials."
        )
    band = bands.described(max(len(view.draws(solver)) for solver in view.solvers))
    return (
        f"Best {what} of n trials drawn at random. Panels: median (line) with its {band} "
        "from the N trials of the solver, and unbiased mean (dots). Line "
        "and band end where the band has no bound on one side, beyond about N/10 trials: there N trials "
        f"cannot say how good the best of n is. Below: the means by samples. {costs} The right end of a "
        "mean rests on single trials."
    )


def samples_to_target(view: View) -> Picture:
    """Samples to reach targets of the objective, by simulated restarts."""
    figure = blank(3.2, min(5.0, full_width()))
    goals = view.targets
    axes = panels.to_targets(figure.subplots(), view)
    legend(figure, axes)
    caption = (
        f"Searches that run trials of a solver, drawn anew each time, until "
        f"{view.metric_label(view.objective)} is at or below a target "
        f"({', '.join(text.parameter(goal) for goal in goals) or 'none'}: {view.chosen}); "
        f"share of 1000 simulated searches for each target that are there. {view.standing} {_FAILED} "
        f"{view.conditions}"
    )
    return Picture("samples_to_target", "Samples to a target", caption, finish(figure))


def best_at_budget(view: View) -> Picture:
    """What would have been chosen had the budget been smaller."""
    figure = blank(3.2, min(5.0, full_width()))
    axes = panels.chosen_at_budget(figure.subplots(), view)
    panels.scale(axes, view.scale(view.headline))
    legend(figure, axes)
    caption = (
        f"At every budget, {view.metric_label(view.headline)} of the trial with the lowest "
        f"{view.metric_label(view.objective)}, over all trials that did not fail. {view.standing} "
        f"{view.conditions}"
    )
    return Picture("best_at_budget", "Best at every budget", caption, finish(figure))


def full_width() -> float:
    import matplotlib

    return float(matplotlib.rcParams["figure.figsize"][0])


def abreast(panes: int) -> int:
    """How many of `panes` panels stand side by side."""
    return min(panes, 3 if full_width() > 5 else 2)


def blank(height: float, width: float | None = None) -> Figure:
    """width: inches; by default, and at most, the full width."""
    from matplotlib.figure import Figure

    width = full_width() if width is None else width
    return Figure(figsize=(width, height))


def legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        entry = 0.75 + 0.068 * max(map(len, labels))  # inches: handle and gaps, and 8 pt letters
        across = max(1, int(figure.get_figwidth() / entry))
        figure.legend(handles, labels, loc="outside upper center", ncols=min(len(handles), across))
    else:
        panels.note(axes, "nothing recorded")


def _outcome_legend(figure: Figure) -> None:
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure as Blank
    from matplotlib.lines import Line2D

    scratch = Blank().subplots()
    handles: list[PathCollection | Line2D] = []
    for kind, mark in panels.OUTCOME_MARKS.items():
        colour = {"color": "#444444"} if kind == "completed" else {}
        handles.append(scratch.scatter([], [], s=14, label=kind, **{"linewidths": 0.7, **mark, **colour}))
    handles.append(Line2D([], [], color="#444444", label="running median"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))


def finish(figure: Figure) -> Figure:
    """Arrange the panels, once: with a layout engine each of the three saves would draw the figure twice."""
    import seaborn
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    seaborn.despine(figure)
    ConstrainedLayoutEngine().execute(figure)
    return figure
