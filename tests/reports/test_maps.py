"""Maps of two parameters: the ground against a k-d tree, the parameters against the table, given targets."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy.spatial import cKDTree

from harness.errors import HarnessError
from harness.options import finite
from harness.record import Record
from reports import statistics, tables
from reports.maps import CELLS, Range, colours, ground, map_figures, nearest, parameter_map, two_that_matter
from reports.report import write_report
from reports.view import View
from tests.reports.test_report import narrowed


def test_the_ground_is_the_median_of_the_nearest_trials() -> None:
    rng = np.random.default_rng(0)
    points, values = rng.random((50, 2)), rng.normal(size=50)
    values[[3, 30]] = np.inf
    found = ground(points, values)

    assert nearest(50) == 9 and nearest(20) == 7 and nearest(60) == 11
    tree = cKDTree(points)
    for row, column in [(0, 0), (7, 31), (CELLS - 1, 12), (20, CELLS - 1)]:
        at = (column + 0.5) / CELLS, (row + 0.5) / CELLS
        _, closest = tree.query(at, 9)
        assert found[row, column] == np.median(values[closest])


def test_failures_are_the_worst_of_the_nearest() -> None:
    points = np.array([[0.0, 0.0], [0.1, 0.0], [0.2, 0.0], [1.0, 1.0]])
    at = np.zeros((1, 2))
    assert statistics.local_median(points, [1.0, np.nan, np.nan, 0.0], at, 3) == [np.inf]
    assert statistics.local_median(points, [1.0, 3.0, np.nan, 0.0], at, 3) == [3.0]


def test_what_is_as_near_as_the_last_of_the_nearest_counts_too() -> None:
    """Whole numbers put many trials in one place: the median must not depend on their order."""
    points = np.array([[0.0, 0.0], [0.3, 0.0], [0.0, 0.3], [0.3, 0.0], [0.0, 0.3], [1.0, 1.0]])
    values = np.array([1.0, 5.0, 2.0, 4.0, 3.0, 0.0])
    for order in (np.arange(6), np.arange(6)[::-1]):
        assert statistics.local_median(points[order], values[order], np.zeros((1, 2)), 3) == [3.0]


@pytest.mark.parametrize("log", [True, False])
def test_places_and_values_of_a_range(log: bool) -> None:
    own = Range(1.0, 100.0, log)
    assert own.value(np.array([0.0, 0.5, 1.0])) == pytest.approx([1, 10 if log else 50.5, 100])
    assert own.place(own.value(np.array([0.2, 0.7]))) == pytest.approx([0.2, 0.7])


def test_the_two_parameters_are_those_of_the_table(record: Record) -> None:
    view = View.of(record)
    shares = tables.sensitivity(view).data.set_index("solver")
    for solver in ("stocbio", "bsgm"):
        own = shares.loc[solver, view.searched(solver)].astype(float).sort_values(ascending=False)
        assert two_that_matter(view, solver) == list(own.index[:2])
    space = record.spec["solvers"]["bsgm"]["space"] | {"lower_step_size": {"choices": ["small", "large"]}}
    solvers = record.spec["solvers"] | {"bsgm": {**record.spec["solvers"]["bsgm"], "space": space}}
    worded = record.trials["solver"] == "bsgm"
    column = record.trials["param.lower_step_size"].astype(object).mask(worded, "small")
    trials = record.trials.assign(**{"param.lower_step_size": column})
    other = View.of(replace(record, spec={**record.spec, "solvers": solvers}, trials=trials))
    assert "lower_step_size" not in two_that_matter(other, "bsgm")


def test_a_panel_shows_every_drawn_trial_on_its_scale(record: Record) -> None:
    view, axes = View.of(record), Figure().subplots()
    assert parameter_map(axes, view, "bsgm") is axes
    mesh, points, crosses = axes.collections
    own = view.draws("bsgm")
    assert len(points.get_offsets()) == own["objective"].notna().sum()
    assert len(crosses.get_offsets()) == own["objective"].isna().sum() == 1
    assert axes.get_xscale() == axes.get_yscale() == "log"
    norm = colours(view)
    assert (norm.vmin, norm.vmax) == (view.trials["objective"].min(), view.start["val_accuracy"])


def test_few_trials_have_no_map(record: Record) -> None:
    few = narrowed(record, record.trials[record.trials["number"] < 10], record.curves)
    assert map_figures(View.of(few)) == []
    assert parameter_map(Figure().subplots(), View.of(few), "bsgm").texts


def test_given_targets_are_those_of_table_figure_and_caption(record: Record, tmp_path: Path) -> None:
    study = narrowed(record, record.trials, record.curves)
    write_report(study, tmp_path, targets=[85.0, 80.0])
    found = pd.read_csv(tmp_path / "tables" / "targets.csv")
    assert sorted(set(found["target"])) == [80.0, 85.0]
    assert "as they were given" in (tmp_path / "tables" / "targets.md").read_text("utf-8")
    row = found[(found["solver"] == "bsgm") & (found["target"] == 80.0)].iloc[0]

    own = study.trials[(study.trials["solver"] == "bsgm") & (study.trials["state"] != "failed")]
    points = study.curves if View.of(study).along == "curves" else own.head(0)
    used, hits = 0.0, 0
    for trial in own.itertuples():
        way = points[points["trial"] == trial.trial]
        there = way[way["metric.val_accuracy"] <= 80.0]["ledger.total"]
        ends = study.trials.loc[trial.Index, "ledger.total"]
        hits += len(there) > 0 or trial.objective <= 80.0
        used += there.min() if len(there) else ends
    assert (row["reached"], row["expected_samples"]) == (hits, pytest.approx(used / hits))
    with pytest.raises(HarnessError, match="--target must be a finite number"):
        finite("--target", float("nan"))
