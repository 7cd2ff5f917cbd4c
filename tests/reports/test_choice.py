"""A report of some solvers and parameters, under other names and at another width."""

from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.record import Record
from reports import figures, tables
from reports.choice import Choice
from reports.report import write_report
from reports.view import View

CHOICE = Choice(("bsgm", "amigo"), {"bsgm": "Ours"}, ("upper_step_size",))


def test_only_the_chosen_is_shown_and_the_rest_is_named(record: Record, tmp_path: Path) -> None:
    write_report(record, tmp_path, 3, CHOICE, "column")
    best = (tmp_path / "tables" / "best.md").read_text("utf-8")
    assert "| Ours |" in best and "| Amigo |" in best and "| StochBiO |" not in best
    assert "Left out: StochBiO, ALSET†-DET, ALSET†, ALSET." in best
    assert "lower_step" not in (tmp_path / "tables" / "spaces.csv").read_text("utf-8")
    assert (tmp_path / "data" / "trials.parquet").exists()


def test_numbers_and_looks_of_a_solver_stay(record: Record) -> None:
    every, some = View.of(record), View.of(CHOICE.of(record))
    assert some.solvers == ["bsgm", "amigo"]
    numbers = [
        tables.best(view, 3).data.set_index("solver").loc["bsgm", "val_accuracy mean"]
        for view in (every, some)
    ]
    assert numbers[0] == numbers[1]


def test_a_label_moves_no_terminal(record: Record) -> None:
    assert View.of(Choice((), {"bsgm": "[/red]\x1b[31m"}).of(record)).label("bsgm") == "[/red]�[31m"


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (Choice(("bsgn",)), "--solvers.*'bsgm'"),
        (Choice((), {"x": "X"}), "--rename"),
        (Choice((), {}, ("y",)), "--params"),
    ],
)
def test_unknown_names_are_refused(choice: Choice, words: str, record: Record, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=words):
        write_report(record, tmp_path / "out", choice=choice)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["distribution", "tuning", "curves", "best_at_budget", "samples_to_target"])
def test_figures_fit_a_column(name: str, record: Record) -> None:
    with figures.house_style("column"):
        assert getattr(figures, name)(View.of(record)).figure.get_figwidth() == figures.WIDTHS["column"]
