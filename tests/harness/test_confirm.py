"""The best configurations of a study again, on fresh seeds: ordinary studies beside it, which only grow."""

import json
from itertools import product
from pathlib import Path

import pytest

from harness.record import JOURNAL, Record, confirmations, load_record
from harness.spec import NAME, read_spec
from tests.harness.test_again import BOTH, flaky
from tests.harness.test_study import TIMES, TOY, arguments, harness

PLACE = "confirmation"


def confirm(out: Path, *more: str, plugin: Path = TOY) -> list[str]:
    return ["confirm", str(out), "--plugin", str(plugin), "--executor", "inline", "--device", "cpu", *more]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    assert harness(monkeypatch, arguments(tmp_path / "s", "--curves", "0", "--seed", "4")) == 0
    return tmp_path / "s"


def alike(left: Record, right: Record) -> None:
    a, b = (record.trials.drop(columns=TIMES) for record in (left, right))
    assert a.equals(b)


def journals(study: Path) -> dict[str, bytes]:
    return {place.name: (place / JOURNAL).read_bytes() for place in confirmations(study)}


def test_the_best_run_again_on_fresh_seeds_and_splits(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (study / JOURNAL).read_bytes()
    assert harness(monkeypatch, confirm(study, "--top", "2", "--seeds", "2", "--data-seeds", "2")) == 0

    record = load_record(study)
    best = record.trials.sort_values("objective").head(2)
    assert (study / JOURNAL).read_bytes() == before
    assert [path.name for path in confirmations(study)] == [
        f"seed-{seed}-data-{split}" for seed, split in product((5, 6), (5, 6))
    ]
    for again in record.confirmations:
        assert again.spec["sampler"] == "listed" and again.spec["budget"] == record.spec["budget"]
        assert again.spec["solvers"]["toy_solver"]["of"] == list(best["number"])
        for name in ("param.steps", "param.step_size"):
            assert list(again.trials[name]) == list(best[name])
    objectives = {tuple(again.trials["objective"]) for again in record.confirmations}
    assert len(objectives) == 4  # each pair of seeds gives numbers of its own

    place = study / PLACE / "seed-5-data-6"
    capsys.readouterr()
    assert harness(monkeypatch, ["replay", str(place), "toy_solver/0", "--plugin", str(TOY)]) == 0
    assert harness(monkeypatch, ["status", str(study)]) == 0
    assert "seed-5-data-6: 2 of 2 trials recorded" in capsys.readouterr().out


def test_the_own_split_without_data_seeds(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert harness(monkeypatch, confirm(study, "--top", "1", "--seeds", "1")) == 0
    assert [path.name for path in confirmations(study)] == ["seed-5-data-4"]


def test_the_same_command_resumes(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = confirm(study, "--top", "3", "--seeds", "1", "--pack", "1")
    assert harness(monkeypatch, command) == 0
    place = study / PLACE / "seed-5-data-4"
    whole, journal = load_record(place), (place / JOURNAL).read_bytes()
    for cut in (60, 85):
        (place / JOURNAL).write_bytes(journal[: len(journal) * cut // 100])
        assert harness(monkeypatch, command) == 0
        alike(load_record(place), whole)
    finished = journals(study)
    assert harness(monkeypatch, command) == 0
    assert journals(study) == finished  # nothing runs twice


def test_more_of_anything_only_adds(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert harness(monkeypatch, confirm(study, "--top", "1", "--seeds", "1", "--data-seeds", "1")) == 0
    first = load_record(study).confirmations[0]
    assert harness(monkeypatch, confirm(study, "--top", "1", "--seeds", "2", "--data-seeds", "2")) == 0
    assert len(confirmations(study)) == 4
    same_as_first = load_record(study).confirmations[0]
    assert same_as_first.trials.equals(first.trials)  # the seconds too: it did not run again
    assert harness(monkeypatch, confirm(study, "--top", "3", "--seeds", "2", "--data-seeds", "2")) == 0
    grown = load_record(study).confirmations
    assert [len(again.trials) for again in grown] == [3] * 4
    assert grown[0].trials.head(1)["seconds"].equals(first.trials["seconds"])
    everything = journals(study)
    assert harness(monkeypatch, confirm(study, "--top", "2", "--seeds", "1", "--data-seeds", "1")) == 0
    assert journals(study) == everything  # asking for less takes nothing away

    more = arguments(study, "--curves", "0", "--seed", "4", "--trials", "30")
    assert harness(monkeypatch, more) == 0  # the search finds better ones
    had = grown[0].spec["solvers"]["toy_solver"]["of"]
    assert harness(monkeypatch, confirm(study, "--top", "2", "--seeds", "1", "--data-seeds", "1")) == 0
    record = load_record(study)
    of = record.confirmations[0].spec["solvers"]["toy_solver"]["of"]
    best = set(record.trials.sort_values("objective").head(2)["number"])
    assert of[:3] == had and best <= set(of) and len(of) == 3 + len(best - set(had))


def test_a_damaged_confirmation_is_repaired_and_made_again(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = confirm(study, "--top", "3", "--seeds", "1")
    assert harness(monkeypatch, command) == 0
    place = study / PLACE / "seed-5-data-4"
    whole = load_record(place)
    (place / NAME).write_text("{")
    lines = (place / JOURNAL).read_bytes().splitlines(keepends=True)
    lost = next(i for i, line in enumerate(lines) if b'"trial":"toy_solver/1"' in line.replace(b" ", b""))
    lines[lost] = lines[lost].replace(b"completed", b"completes")
    (place / JOURNAL).write_bytes(b"".join(lines))

    assert harness(monkeypatch, command) == 2
    assert harness(monkeypatch, ["repair", str(place)]) == 0
    assert "2 of 3 trials kept" in capsys.readouterr().out
    assert harness(monkeypatch, command) == 0
    alike(load_record(place), whole)


def test_a_result_of_another_configuration_is_refused(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert harness(monkeypatch, confirm(study, "--top", "1", "--seeds", "1")) == 0
    place = study / PLACE / "seed-5-data-4"
    spec = read_spec(place)
    spec.solvers["toy_solver"].configs[0]["step_size"] = 0.123
    spec.write(place)
    assert harness(monkeypatch, ["report", str(study)]) == 2
    assert "not the study" in capsys.readouterr().err


def test_what_cannot_be_confirmed_is_said(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refused(words: list[str]) -> str:
        assert harness(monkeypatch, words) == 2
        return capsys.readouterr().err

    small = ("--top", "1", "--seeds", "1")
    assert "--plugin" in refused(["confirm", str(study), "--executor", "inline"])
    assert "--top" in refused(confirm(study, "--top", "0"))
    assert "--data-seeds" in refused(confirm(study, "--data-seeds", "0"))
    assert not (study / PLACE).exists()
    assert "not a study" in refused(confirm(tmp_path / "nothing"))
    changed = tmp_path / "toy_plugin.py"
    changed.write_text(TOY.read_text() + "\n")
    assert "is not the one of" in refused(confirm(study, *small, plugin=changed))
    assert harness(monkeypatch, confirm(study, *small)) == 0
    assert "itself" in refused(confirm(study / PLACE / "seed-5-data-4", *small))
    spec = read_spec(study)
    old = read_spec(study / PLACE / "seed-5-data-4")
    old.model_copy(update={"rules": spec.rules}).write(study / PLACE / "seed-5-data-4")
    assert "confirms another study, seed: 4 → 5" in refused(confirm(study, *small))


def test_old_folders_know_no_lists(study: Path) -> None:
    """A specification from before there were any is read as it is."""
    values = json.loads((study / NAME).read_text())
    del values["checksum"]
    for solver in values["solvers"].values():
        del solver["configs"], solver["of"]
    (study / NAME).write_text(json.dumps(values))
    assert read_spec(study).trials_of("toy_solver") == 6
    assert len(load_record(study).trials) == 6


def test_failed_trials_are_not_chosen_and_fail_on_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").touch()
    plugin = flaky(tmp_path)
    assert harness(monkeypatch, arguments(tmp_path / "s", *plugin, space=BOTH)) == 0
    words = confirm(tmp_path / "s", "--top", "6", "--seeds", "1", "--plugin", str(tmp_path / "flaky.py"))
    assert harness(monkeypatch, words) == 0
    record = load_record(tmp_path / "s")
    completed = record.trials[record.trials["state"] == "completed"]["solver"].value_counts()
    counts = record.confirmations[0].trials["solver"].value_counts()
    assert counts.to_dict() == completed.to_dict() and counts["flaky"] < counts["toy_solver"]
    assert set(record.confirmations[0].trials["state"]) == {"completed"}
