"""What a reader sees in a figure: labels that can be read, where they are needed."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text

from harness.record import Record
from reports import figures, panels
from reports.view import View

EVERY = ("distribution", "tuning", "samples_to_target", "best_at_budget", "curves", "parameters")


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with figures.house_style():
        yield


def of(record: Record, solvers: list[str]) -> Record:
    frames = {
        n: frame[frame["solver"].isin(solvers)]
        for n, frame in vars(record).items()
        if n in ("trials", "curves", "evaluations")
    }
    spec = {**record.spec, "solvers": {s: record.spec["solvers"][s] for s in solvers}}
    return replace(record, spec=spec, **frames)


def tick_labels(figure: Any) -> list[Any]:
    """Boxes of the tick labels that are shown; not of slanted ones, which lie between their boxes."""
    ticks = [
        tick
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks()
        if axes.axison and axis.get_view_interval()[0] <= tick.get_loc() <= axis.get_view_interval()[1]
    ]
    shown = [tick.label1 for tick in ticks if tick.label1.get_visible() and tick.label1.get_text()]
    return [label.get_window_extent() for label in shown if not label.get_rotation()]


@pytest.mark.parametrize("name", EVERY)
def test_no_tick_label_covers_another(name: str, record: Record) -> None:
    boxes = tick_labels(getattr(figures, name)(View.of(record)).figure)
    assert boxes and not [1 for a, b in combinations(boxes, 2) if a.overlaps(b)]


@pytest.mark.parametrize("name", ["tuning", "distribution", "parameters"])
@pytest.mark.parametrize("width", figures.WIDTHS)
def test_a_long_label_stays_beside_its_own_panels(name: str, width: str, record: Record) -> None:
    """Those of two rows of panels ran into each other."""
    long = {"label": "relative error (L - L*) / (L0 - L*)", "short": "error"}
    metrics = {metric: {**told, **long} for metric, told in record.spec["metrics"].items()}
    two = of(record, ["stocbio", "bsgm"])
    with figures.house_style(width):
        figure = getattr(figures, name)(View.of(replace(two, spec={**two.spec, "metrics": metrics}))).figure
        upright = [words for words in figure.findobj(Text) if words.get_rotation() == 90 and words.get_text()]
        boxes = [words.get_window_extent() for words in upright]
    assert any("(L - L" in words.get_text() for words in upright)
    assert not [1 for a, b in combinations(boxes, 2) if a.overlaps(b)]
    assert all(0 <= box.y0 and box.y1 <= figure.bbox.y1 for box in boxes)


def test_many_points_leave_to_be_seen_what_is_behind_them() -> None:
    assert panels.dot(10, 0) == panels.dot(10, panels.CROWD) == 10
    assert panels.dot(10, 2 * panels.CROWD) == 5 and panels.dot(10, 10**6) == 2


@pytest.mark.parametrize("name", ["tuning", "curves"])
def test_the_panel_above_an_empty_cell_is_labelled(name: str, record: Record) -> None:
    view = View.of(of(record, ["stocbio", "amigo", "bsgm", "alset", "alset_dagger"]))
    titled = {axes.get_title(): axes for axes in getattr(figures, name)(view).figure.axes if axes.get_title()}
    assert [titled[s].xaxis.get_tick_params()["labelbottom"] for s in ("StochBiO", "BSGM", "ALSET")] == [
        False,
        True,
        True,
    ]


def test_parameters_have_the_papers_symbols_and_axes_say_what_is_better(record: Record) -> None:
    parameters = {"upper_step_size": {"symbol": "alpha"}, "lower_step_size": {"symbol": "eta_LL"}}
    named = {n: {**s, "parameters": parameters} for n, s in record.spec["solvers"].items()}
    view = View.of(replace(record, spec={**record.spec, "solvers": named}))
    assert (view.symbol("upper_step_size"), view.symbol("lower_step_size")) == ("α", "η_LL")
    figure = figures.parameters(view).figure
    assert any(r"$\eta_{\mathrm{LL}}$" in axes.get_title() for axes in figure.axes)
    assert figure.get_supylabel() == "validation accuracy (%) ↓"
    named["bsgm"] = {**named["bsgm"], "parameters": {"upper_step_size": {"symbol": "gamma"}}}
    clash = {
        n: {**s, "parameters": {**parameters, "batch_size": {"symbol": "eta_LL"}}} for n, s in named.items()
    }
    assert View.of(replace(record, spec={**record.spec, "solvers": named})).symbol("upper_step_size") == "α"
    assert (
        View.of(replace(record, spec={**record.spec, "solvers": clash})).symbol("batch_size") == "batch_size"
    )


def test_a_panel_without_a_curve_says_so_and_draws_none(record: Record) -> None:
    view = View.of(of(record, ["stocbio", "bsgm"]))
    axes, points = figures.blank(2).subplots(), len(view.grid)
    none, some = (np.full(points, np.nan),) * 3, (np.ones(points),) * 3
    panels.curve(axes, view, "bsgm", "val_accuracy", {"bsgm": none, "stocbio": some})
    assert [words.get_text() for words in axes.texts] == ["no curve recorded"] and not axes.lines
