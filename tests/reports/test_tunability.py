"""Published against tuned, by hand; where the table is written, and what it says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.record import Record
from reports.report import write_report
from reports.tunability import tunability_tables, tuned_and_published
from reports.view import View

THREE = ("bsgm", "amigo", "alset")


def with_published(record: Record, published: dict[str, float]) -> Record:
    """Of three solvers; these have a published configuration, trial 0, with this objective."""
    solvers = {name: dict(record.spec["solvers"][name]) for name in THREE}
    trials = record.trials[record.trials["solver"].isin(THREE)].copy()
    for name, value in published.items():
        solvers[name]["published"] = {"upper_step_size": 1e7}
        trials.loc[trials["trial"] == f"{name}/0", "objective"] = value
    chosen = [frame[frame["solver"].isin(THREE)] for frame in (record.curves, record.evaluations)]
    spec = {**record.spec, "solvers": solvers}
    return replace(record, spec=spec, trials=trials, curves=chosen[0], evaluations=chosen[1])


def test_the_table_against_a_count_by_hand(record: Record) -> None:
    published = {"bsgm": 80.0, "alset": 70.0}
    study = with_published(record, published)
    found = tuned_and_published(View.of(study)).set_index("solver")

    drawn = {
        name: study.trials.query(f"solver == '{name}' and number > {-1 if name == 'amigo' else 0}")[
            "objective"
        ]
        for name in THREE
    }
    for name in THREE:
        row, best = found.loc[name], drawn[name].min()
        assert row["tuned"] == best and row["n"] == len(drawn[name])
        assert row["ahead"] == sum(best < value for other, value in published.items() if other != name)
    for name, value in published.items():
        assert found.loc[name, "gain"] == pytest.approx(value - drawn[name].min())
        assert found.loc[name, "better"] == (drawn[name] < value).sum()
    assert found.loc["alset", "gain"] < 0 < found.loc["bsgm", "gain"]
    assert found.loc[["alset", "bsgm"], "published rank"].tolist() == [1, 2]
    assert np.isnan(found.loc["amigo", ["published rank", "gain"]].astype(float)).all()
    order = sorted(THREE, key=lambda name: drawn[name].min())
    assert list(found.index) == order and found["tuned rank"].tolist() == [1, 2, 3]


def test_a_published_configuration_that_fails_is_last_and_said(record: Record) -> None:
    study = with_published(record, {"bsgm": np.nan, "alset": 90.0})
    (table,) = tunability_tables(View.of(study))
    data = table.data.set_index("solver")

    assert data.loc["bsgm", "published rank"] == 2 and np.isnan(data.loc["bsgm", "gain"])
    assert (
        data.loc["bsgm", "better"]
        == np.isfinite(study.trials.query("solver == 'bsgm' and number > 0")["objective"]).sum()
    )
    assert "failed (2)" in table.columns[1].cells
    assert table.caption.startswith("BSGM is best of the tuned ones") or table.caption.startswith(
        "Amigo is best"
    )
    assert "ALSET at the published configurations (90" in table.caption


def test_it_is_written_where_a_published_configuration_ran(record: Record, tmp_path: Path) -> None:
    """Also where there is nothing else: `harness run --trials defaults`."""
    assert tunability_tables(View.of(record)) == []
    study = with_published(record, {"bsgm": 80.0, "alset": 85.0})
    solvers = {name: study.spec["solvers"][name] for name in ("bsgm", "alset")}
    trials = study.trials[(study.trials["number"] == 0) & study.trials["solver"].isin(solvers)]
    few = [frame[frame["trial"].isin(trials["trial"])] for frame in (study.curves, study.evaluations)]
    alone = replace(study, spec={**study.spec, "solvers": solvers, "trials": 1}, trials=trials)
    write_report(replace(alone, curves=few[0], evaluations=few[1]), tmp_path)

    rows = (tmp_path / "tables" / "tunability.md").read_text("utf-8")
    assert "No drawn configuration has a score" in rows and "80" in rows and "85" in rows
