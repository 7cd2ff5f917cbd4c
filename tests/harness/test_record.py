"""The record: every line is sealed, a result names its trial, what is damaged is refused and mended."""

import json
import math
import random
import shutil
from pathlib import Path

import optuna
import pandas as pd
import pytest

from harness.cli import app
from harness.errors import HarnessError
from harness.journal import Journal, mend, sealed
from harness.record import JOURNAL, load_record, open_storage, result_of, tell
from harness.repair import repair
from harness.runner import Result
from harness.spec import NAME, read_spec
from recipes import corruptions

ENTRY = {"op_code": 0, "worker_id": "w"}
BARE = b'{"op_code":0,"worker_id":"w"}\n'
TABLE3 = Path(__file__).parents[2] / "docs" / "results" / "table3"


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    journal = tmp_path / "journal.log"
    journal.write_bytes(BARE + sealed(ENTRY, 2) + BARE[:11])
    assert len(list(Journal(journal).read_logs(0))) == 2
    mend(journal)
    assert journal.read_bytes() == BARE + sealed(ENTRY, 2)


@pytest.mark.parametrize("first", [BARE, sealed(ENTRY, 1)], ids=["bare", "sealed"])
@pytest.mark.parametrize(
    "damage",
    [
        *(b"garbage\n", b"\n", b"17\n", b"\xff\xfe\n", BARE[:11] + b"\n", b'{"a":1}\n', b"[" * 10**5 + b"\n"),
        *(sealed(ENTRY, 1), sealed(ENTRY, 3), sealed(ENTRY, 2).replace(b'"w"', b'"v"')),
        sealed(ENTRY, 2).replace(b"seal", b"zeal"),
    ],
)
def test_damage_inside_is_named_by_line(tmp_path: Path, first: bytes, damage: bytes) -> None:
    journal = tmp_path / "journal.log"
    journal.write_bytes(first + damage + sealed(ENTRY, 3))
    with pytest.raises(HarnessError, match=r"journal\.log, line 2 is damaged.*harness repair"):
        list(Journal(journal).read_logs(0))


def test_a_line_without_a_seal_stands_before_all_sealed_ones(tmp_path: Path) -> None:
    journal = tmp_path / "journal.log"
    journal.write_bytes(BARE)
    Journal(journal).append_logs([ENTRY, ENTRY])
    assert journal.read_bytes() == BARE + sealed(ENTRY, 2) + sealed(ENTRY, 3)
    journal.write_bytes(journal.read_bytes() + BARE)
    with pytest.raises(HarnessError, match="line 4 is damaged: it has no seal"):
        list(Journal(journal).read_logs(0))


def test_a_damaged_record_is_refused_and_repaired_but_never_another(tmp_path: Path) -> None:
    outcomes, repaired = corruptions.rounds(64, 1, 40, tmp_path)
    counts = {name: sum(n for (_, o), n in outcomes.items() if o == name) for name in corruptions.OUTCOMES}
    assert counts["another"] == counts["traceback"] == 0 and counts["refused"] > 40
    assert not any("another" in what or "traceback" in what for what in repaired)
    assert any(what.endswith("finished equal") for what in repaired)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "s"
    corruptions.run(folder)
    return folder


def test_an_edited_specification_is_refused_and_restored(study: Path, tmp_path: Path) -> None:
    """In what numbers depend on, and in what they are called."""
    shutil.copytree(study, tmp_path / "s")
    file, whole = tmp_path / "s" / NAME, read_spec(study)
    edits = {'"budget": 300.0': '"budget": 600.0', "SOBA": "BSGM", '"trials": 4': '"trials": 9'}
    for old, new in edits.items():
        file.write_text((study / NAME).read_text().replace(old, new))
        with pytest.raises(HarnessError, match="changed since"):
            read_spec(tmp_path / "s")
        repair(tmp_path / "s")
        assert read_spec(tmp_path / "s") == whole
        assert load_record(tmp_path / "s").trials.equals(load_record(study).trials)
    assert len(list((tmp_path / "s").glob(f"{NAME}.damaged-*"))) == 3


def test_another_studys_specification_is_refused(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path / "s")
    read_spec(study).model_copy(update={"search_seed": 5}).write(tmp_path / "s")
    with pytest.raises(HarnessError, match=r"not the study.*search_seed: 1 → 5"):
        load_record(tmp_path / "s")


def test_a_result_of_another_trial_is_refused(study: Path, tmp_path: Path) -> None:
    """Even where all lines are sealed."""
    entries = [json.loads(line) for line in (study / JOURNAL).read_text().splitlines()]
    first, second = [entry for entry in entries if entry["op_code"] == 8][:2]
    first["user_attr"], second["user_attr"] = second["user_attr"], first["user_attr"]
    for entry in entries:
        del entry["line"], entry["seal"]
    lines = [sealed(entry, number) for number, entry in enumerate(entries, start=1)]
    shutil.copytree(study, tmp_path / "s")
    (tmp_path / "s" / JOURNAL).write_bytes(b"".join(lines))
    with pytest.raises(HarnessError, match=r"result of trial soba/\d is missing or another's"):
        load_record(tmp_path / "s")


def test_a_record_from_before_there_were_seals_is_read_and_sealed(tmp_path: Path) -> None:
    """And where it is damaged, what stands before the damage is kept."""
    shutil.copytree(TABLE3, tmp_path / "s", ignore=shutil.ignore_patterns("report"))
    journal = tmp_path / "s" / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    whole = load_record(TABLE3)
    repair(tmp_path / "s")
    again = load_record(tmp_path / "s")
    assert again.trials.equals(whole.trials) and again.curves.equals(whole.curves)
    assert repair(tmp_path / "s") == [f"{tmp_path / 's'}: nothing is damaged"]

    place = random.Random(0).randrange(900, 1000)
    journal.write_bytes(b"".join([*lines[:place], b"{}\n", *lines[place + 1 :]]))
    with pytest.raises(HarnessError, match=f"line {place + 1} is damaged"):
        load_record(tmp_path / "s")
    repair(tmp_path / "s")
    kept = load_record(tmp_path / "s").trials.set_index("trial")
    assert 40 < len(kept) < 140
    wanted = whole.trials.set_index("trial").loc[kept.index, kept.columns]
    pd.testing.assert_frame_equal(kept, wanted, check_dtype=False, check_exact=True)


def test_the_repair_command_says_what_it_keeps(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(study, tmp_path / "s")
    content = (study / JOURNAL).read_bytes()
    place = content.rindex(b'"objective"')
    (tmp_path / "s" / JOURNAL).write_bytes(content[:place] + b"X" + content[place + 1 :])
    app(["repair", str(tmp_path / "s")], standalone_mode=False)
    said = capsys.readouterr().out
    assert "1 of" in said and "3 of 4 trials kept" in said
    assert (tmp_path / "s" / f"{JOURNAL}.damaged-1").exists()


@pytest.mark.parametrize("objective", [1.5, math.inf])
def test_every_objective_is_told_and_read_back(tmp_path: Path, objective: float) -> None:
    study = optuna.create_study(storage=open_storage(tmp_path), study_name="p/s")
    trial = study.ask()
    curve = [{"upper_iteration": 1.0, "loss": math.nan}]
    told = Result(config={"n": 1}, objective=objective, metrics={"loss": objective}, curve=curve)
    tell(trial, "s", told)
    (again,) = optuna.load_study(storage=open_storage(tmp_path), study_name="p/s").trials
    assert again.state.is_finished()
    read = result_of(again)
    assert read.state == "completed" and read.objective == objective
    assert math.isnan(read.curve[0]["loss"])
