"""The journal: a torn end is mended, damage inside is named, odd numbers survive."""

import math
from pathlib import Path

import optuna
import pytest

from harness.errors import HarnessError
from harness.record import check_journal, mend_journal, open_storage, result_of, tell
from harness.runner import Result

LINE = b'{"op_code":0,"worker_id":"w"}\n'


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    journal = tmp_path / "journal.log"
    journal.write_bytes(LINE + LINE + LINE[:11])
    mend_journal(journal)
    assert journal.read_bytes() == LINE + LINE


@pytest.mark.parametrize(
    "damage", [b"garbage\n", b"\n", b"17\n", b"\xff\xfe\n", LINE[:11] + b"\n", b'{"a":1}\n']
)
def test_damage_inside_is_named_by_line(tmp_path: Path, damage: bytes) -> None:
    journal = tmp_path / "journal.log"
    journal.write_bytes(LINE + damage + LINE)
    with pytest.raises(HarnessError, match=r"journal\.log, line 2 is damaged"):
        check_journal(journal)


@pytest.mark.parametrize("objective", [1.5, math.inf, math.nan])
def test_every_objective_is_told_and_read_back(tmp_path: Path, objective: float) -> None:
    study = optuna.create_study(storage=open_storage(tmp_path), study_name="p/s")
    trial = study.ask()
    curve = [{"upper_iteration": 1.0, "loss": math.nan}]
    told = Result(config={"n": 1}, objective=objective, metrics={"loss": objective}, curve=curve)
    tell(trial, told)
    (again,) = optuna.load_study(storage=open_storage(tmp_path), study_name="p/s").trials
    assert again.state.is_finished()
    read = result_of(again)
    assert read.state == ("failed" if math.isnan(objective) else "completed")
    assert read.objective == objective or (math.isnan(objective) and math.isnan(read.objective))
    assert math.isnan(read.curve[0]["loss"])
