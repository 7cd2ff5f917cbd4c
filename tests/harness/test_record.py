"""The record: every line is sealed, a result names its trial, what is damaged is refused and mended."""

import errno
import json
import math
import os
import random
import shutil
from pathlib import Path

import optuna
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from harness.book import Book, new_trial
from harness.cli import app
from harness.errors import HarnessError
from harness.exchange import merge
from harness.journal import Journal, append, mend, sealed
from harness.points import POINTS, Points, points_line
from harness.record import JOURNAL, RESULT, SEAL, _column, _Columns, load_record, result_from_json, tell
from harness.repair import repair
from harness.result import Result
from harness.spec import NAME, read_spec
from upkeep import corruptions

ENTRY = {"op_code": 0, "worker_id": "w"}
BARE = b'{"op_code":0,"worker_id":"w"}\n'
OLD = Path(__file__).parent / "old_study"
"""Recorded before curves had a file of their own, lines a seal and data poisoning a choice of balls."""


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    journal = tmp_path / "journal.log"
    journal.write_bytes(BARE + sealed(ENTRY, 2) + BARE[:11])
    assert len(list(Journal(journal).read())) == 2
    mend(journal)
    assert journal.read_bytes() == BARE + sealed(ENTRY, 2)
    journal.write_bytes(BARE[:11])
    mend(journal)
    assert journal.read_bytes() == b""


def test_of_lines_that_a_full_disk_cuts_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "journal.log"
    append(journal, [BARE])

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        append(journal, [BARE, BARE])
    assert journal.read_bytes() == BARE


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
        list(Journal(journal).read())


def test_a_line_without_a_seal_stands_before_all_sealed_ones(tmp_path: Path) -> None:
    journal = tmp_path / "journal.log"
    journal.write_bytes(BARE)
    open_journal = Journal(journal)
    list(open_journal.read())
    open_journal.append([ENTRY, ENTRY])
    assert journal.read_bytes() == BARE + sealed(ENTRY, 2) + sealed(ENTRY, 3)
    journal.write_bytes(journal.read_bytes() + BARE)
    with pytest.raises(HarnessError, match="line 4 is damaged: it has no seal"):
        list(Journal(journal).read())


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
    shutil.copytree(OLD, tmp_path / "s")
    journal = tmp_path / "s" / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    whole = load_record(OLD)
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
def test_every_objective_is_told_and_read_back_by_optuna_too(tmp_path: Path, objective: float) -> None:
    book = Book(tmp_path / JOURNAL)
    kinds = {
        "n": IntDistribution(1, 9),
        "w": CategoricalDistribution(["a", "b"]),
        "far": FloatDistribution(0, 1),
    }
    params = {"n": 3, "w": "b", "far": 2.0}
    book.write([new_trial(book.study("p/s", {"k": 1}), params, kinds, {})])
    curve = [{"upper_iteration": 1.0, "loss": math.nan}]
    result = Result(config={"n": 3}, objective=objective, metrics={"loss": objective}, curve=curve)
    tell(book, Points(tmp_path), "s", [(book.studies["p/s"].trials[0], result)])

    again = optuna.load_study(
        storage=JournalStorage(JournalFileBackend(str(tmp_path / JOURNAL))), study_name="p/s"
    )
    (trial,) = again.trials
    assert again.user_attrs == {"k": 1} and again.direction.name == "MINIMIZE"
    assert trial.value == objective and trial.params == {
        "n": 3,
        "w": "b",
    }  # no place for the other
    assert trial.distributions == {"n": kinds["n"], "w": kinds["w"]} and trial.state.is_finished()
    read = Book(tmp_path / JOURNAL).studies["p/s"].trials[0]
    assert (read.value, read.params, read.told) == (objective, trial.params, True)
    assert result_from_json(read.attributes[RESULT]).objective == objective
    (place,) = Points(tmp_path).places().values()
    assert json.loads(Points(tmp_path).line(place))["curve"] == {"upper_iteration": [1.0], "loss": ["nan"]}


def test_a_failed_trial_has_failed_for_optuna_too(tmp_path: Path) -> None:
    book = Book(tmp_path / JOURNAL)
    study = book.study("p/s", {})
    book.write([new_trial(study, {}, {}, {})])
    failure = Result(config={}, state="failed", reason="it raised", objective=math.nan)
    tell(book, Points(tmp_path), "s", [(study.trials[0], failure)])
    (trial,) = optuna.load_study(
        storage=JournalStorage(JournalFileBackend(str(tmp_path / JOURNAL))), study_name="p/s"
    ).trials

    assert trial.state == optuna.trial.TrialState.FAIL and trial.value is None


def test_points_come_as_they_were_added_whatever_is_packed_when(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that come late or go have no numbers elsewhere."""
    monkeypatch.setattr("harness.record.ROWS", 3)
    parts = [
        {"total": [1, 2]},
        {"total": [3], "a": [0.5]},
        {"total": [4, 5, 6, 7]},
        {"b": [8.0], "total": [9]},
    ]
    frame = _Columns()
    for number, points in enumerate(parts):
        frame.add({"solver": "s", "number": number}, points)
    expected = pd.concat(
        [pd.DataFrame({"solver": "s", "number": n} | points) for n, points in enumerate(parts)],
        ignore_index=True,
    )
    expected.columns = ["solver", "number", *(_column(name) for name in expected.columns[2:])]

    pd.testing.assert_frame_equal(frame.frame()[expected.columns], expected, check_dtype=False)


def test_a_record_is_the_same_whatever_is_packed_when(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_record(OLD)
    monkeypatch.setattr("harness.record.ROWS", 1)
    parts = load_record(OLD)

    pd.testing.assert_frame_equal(parts.trials, whole.trials)
    pd.testing.assert_frame_equal(parts.curves, whole.curves)


def test_a_trial_without_points_has_no_line() -> None:
    assert points_line("s/0", {}, {}) == b""
    assert points_line("s/0", {"total": [1]}, {}) and points_line("s/0", {}, {"total": [1]})


# --- two files


def names(folder: Path) -> list[str]:
    return sorted(load_record(folder).trials["trial"])


def require_alike(folder: Path, whole: Path) -> None:
    """The same record, to the rounding that another pack makes."""
    one, two = load_record(folder), load_record(whole)
    for left, right in ((one.trials, two.trials), (one.curves, two.curves)):
        frames = [frame.drop(columns=corruptions.CLOCK, errors="ignore") for frame in (left, right)]
        pd.testing.assert_frame_equal(*frames, rtol=1e-12)


def test_a_trial_whose_points_are_lost_is_refused_and_runs_again(study: Path, tmp_path: Path) -> None:
    """A line of points that is damaged, or is another trial's; and all of them."""
    whole, lines = load_record(study), (study / POINTS).read_bytes().splitlines(keepends=True)
    damages = {
        "changed": ([lines[0].replace(b'"curve"', b'"curvy"'), *lines[1:]], 1),
        "replaced": ([lines[1], *lines[1:]], 1),
        "shorter": (lines[:-2], 2),
        "gone": ([], len(lines)),
    }
    for name, (content, lost) in damages.items():
        folder = tmp_path / name
        shutil.copytree(study, folder)
        (folder / POINTS).write_bytes(b"".join(content))
        for command in (load_record, corruptions.run):
            with pytest.raises(HarnessError, match=r"points of trial \w+/\d are missing or damaged.*repair"):
                command(folder)
        assert f"the points of {lost} trials are missing" in " ".join(repair(folder))
        assert len(load_record(folder).trials) == len(whole.trials) - lost
        corruptions.run(folder)
        require_alike(folder, study)


def test_points_that_no_result_names_are_passed_over(study: Path, tmp_path: Path) -> None:
    """Whole, as a crash between the two files leaves them, and torn, as one within the first does."""
    shutil.copytree(study, tmp_path / "s")
    content = (study / POINTS).read_bytes()
    line = content[: content.index(b"\n") + 1].replace(b'"curve"', b'"curvy"')
    for more in (line, line[:-9]):
        (tmp_path / "s" / POINTS).write_bytes(content + more)
        assert corruptions.read(tmp_path / "s", load_record(study)) == "equal"
        assert repair(tmp_path / "s") == [f"{tmp_path / 's'}: nothing is damaged"]
    corruptions.run(tmp_path / "s")
    assert (tmp_path / "s" / POINTS).read_bytes() == content


@pytest.mark.parametrize("full", [JOURNAL, POINTS])
def test_a_disk_that_fills_between_the_two_files_loses_no_trial_and_no_half(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    folder, real = tmp_path / "s", os.fsync
    writes = 0

    def fsync(file: int) -> None:
        nonlocal writes
        if Path(f"/proc/self/fd/{file}").resolve().name == full:
            writes += 1
            if writes == (4 if full == POINTS else 12):  # amid the results
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file)

    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(OSError, match="No space"):
        corruptions.run(folder)
    before = names(folder)
    assert before and set(before) < set(names(study))
    corruptions.run(folder)
    require_alike(folder, study)


def test_a_record_from_before_points_had_a_file_goes_on(study: Path, tmp_path: Path) -> None:
    """Its results hold their points; new ones lie in the file."""
    folder, whole = tmp_path / "s", load_record(study)
    shutil.copytree(study, folder)
    lines = {json.loads(line)["seal"]: json.loads(line) for line in (study / POINTS).read_text().splitlines()}
    entries = [json.loads(line) for line in (study / JOURNAL).read_text().splitlines()]
    for entry in entries:
        if RESULT in entry.get("user_attr", {}):
            result = entry["user_attr"][RESULT]
            for kind in ("curve", "evaluations"):
                table = lines.get(result[SEAL], {kind: {}})[kind]
                result[kind] = [
                    dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)
                ]
            del result[SEAL]
        del entry["line"], entry["seal"]
    last = max(n for n, entry in enumerate(entries) if RESULT in entry.get("user_attr", {}))
    old = [sealed(entry, number) for number, entry in enumerate(entries[:last], start=1)]
    (folder / JOURNAL).write_bytes(b"".join(old))
    (folder / POINTS).unlink()
    assert corruptions.read(folder, whole) == "shorter"
    assert repair(folder) == [f"{folder}: nothing is damaged"]
    corruptions.run(folder)
    require_alike(folder, study)
    assert len(Points(folder).places()) == 1
    merge(tmp_path / "merged", [folder])
    require_alike(tmp_path / "merged", study)
    assert len(Points(tmp_path / "merged").places()) == len(whole.trials)
