"""The first words of a page."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from reports.answer import answer
from reports.view import View

if TYPE_CHECKING:
    from harness.record import Record


def with_objectives(record: Record, **objectives: list[float]) -> View:
    """The record with these trials of each solver and no others."""
    rows = record.trials.groupby("solver").head(1).set_index("solver", drop=False)
    trials = [rows.loc[[name] * len(values)].assign(objective=values) for name, values in objectives.items()]
    return View.of(dataclasses.replace(record, trials=pd.concat(trials, ignore_index=True)))


def test_who_is_best_by_how_much_and_how_sure(record: Record) -> None:
    one, two = sorted(set(record.trials["solver"]))[:2]
    view = with_objectives(record, **{one: [3.0, 9.0, 9.0], two: [4.0, 4.0, 4.0]})
    said = answer(view)
    assert said.startswith(f"{view.label(one)} is best") and said.count(". ") == 1
    assert re.search(r"reaches 3\b.* 4\b", said)
    share = int(re.search(r"(\d+)%", said)[1])  # type: ignore[index]  # else the test fails
    assert share == pytest.approx(100 * (1 - (2 / 3) ** 3), abs=4)  # its one good trial is drawn


def test_a_tie_is_shared_and_one_solver_is_no_comparison(record: Record) -> None:
    one, two = sorted(set(record.trials["solver"]))[:2]
    assert "50%" in answer(with_objectives(record, **{one: [2.0, 2.0], two: [2.0, 2.0]}))
    alone = answer(with_objectives(record, **{one: [2.0, float("inf")]}))
    assert "best trial" in alone and "one trial" in alone and "again" not in alone
    assert answer(with_objectives(record, **{one: [float("inf")]})) == "No trial has a score yet."
