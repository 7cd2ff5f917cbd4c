"""Trials that run again: those that failed, a solver that changed; and plug-ins that were copied."""

import json
from pathlib import Path

import pytest

from harness.record import EARLIER, JOURNAL, load_record, read_trials
from harness.spec import read_spec
from tests.harness.test_study import SPACE, TOY, arguments, harness

FLAKY = """
import dataclasses
from pathlib import Path
from tests.harness.toy_plugin import ToySolver as _Toy

@dataclasses.dataclass(frozen=True, kw_only=True)
class Flaky(_Toy):
    def step(self, oracle, state):
        if Path({flag!r}).exists() and (self.steps > 5).any():
            raise OSError("no space left")
        return super().step(oracle, state)
"""
BOTH = SPACE + SPACE.replace("toy_solver", "flaky")


def flaky(folder: Path) -> list[str]:
    (folder / "flaky.py").write_text(FLAKY.format(flag=str(folder / "full")))
    return ["--plugin", str(folder / "flaky.py"), "--solvers", "toy_solver,flaky"]


def test_failed_trials_run_again_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = flaky(tmp_path)
    assert harness(monkeypatch, arguments(tmp_path / "good", *plugin, space=BOTH)) == 0
    (tmp_path / "full").touch()
    command = arguments(tmp_path / "s", *plugin, space=BOTH)
    assert harness(monkeypatch, command) == 0
    first = load_record(tmp_path / "s").trials
    assert 0 < (first["state"] == "failed").sum() < 6
    (tmp_path / "full").unlink()
    assert harness(monkeypatch, command) == 0
    assert load_record(tmp_path / "s").trials.equals(first)  # only where it is asked for
    assert harness(monkeypatch, [*command, "--retry", "failed"]) == 0

    good, again = (load_record(tmp_path / name).trials for name in ("good", "s"))
    assert again["state"].eq("completed").all()
    assert again[["trial", "objective"]].equals(good[["trial", "objective"]])
    earlier = {
        trial.number: trial.attributes[EARLIER]
        for trial in read_trials(tmp_path / "s", read_spec(tmp_path / "s"))["flaky"]
        if EARLIER in trial.attributes
    }
    assert set(earlier) == set(first[first["state"] == "failed"]["number"])
    assert all(kept["reason"].startswith("OSError: no space left") for (kept,) in earlier.values())
    assert harness(monkeypatch, [*command, "--retry", "everything"]) == 2


def test_a_changed_solver_locks_its_own_trials_only_until_they_are_redone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = flaky(tmp_path)
    command = arguments(tmp_path / "s", *plugin, space=BOTH)
    assert harness(monkeypatch, command) == 0
    first = load_record(tmp_path / "s").trials.set_index("trial")
    changed = FLAKY.replace("return super", "state = dataclasses.replace(state, y=state.y + 1); return super")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "flaky.py").write_text(changed.format(flag=str(tmp_path / "full")))
    other = ["--plugin", str(tmp_path / "other" / "flaky.py"), "--solvers", "toy_solver,flaky"]
    command = arguments(tmp_path / "s", *other, space=BOTH)
    capsys.readouterr()

    assert harness(monkeypatch, command) == 2
    assert "solvers.flaky.source" in (said := capsys.readouterr().err) and "--redo flaky" in said
    assert harness(monkeypatch, arguments(tmp_path / "s", "--solvers", "toy_solver")) == 0
    command = arguments(tmp_path / "s", *other, space=BOTH)
    assert harness(monkeypatch, [*command, "--redo", "flaki"]) == 2
    assert harness(monkeypatch, [*command, "--redo", "flaky"]) == 0
    assert harness(monkeypatch, command) == 0

    again = load_record(tmp_path / "s").trials.set_index("trial")
    toy = again["solver"] == "toy_solver"
    assert again[toy].equals(first.loc[again.index][toy])
    assert (again[~toy]["objective"] != first.loc[again.index][~toy]["objective"]).sum() == 5
    assert again["param.steps"].equals(first.loc[again.index]["param.steps"])
    lines = map(json.loads, (tmp_path / "s" / JOURNAL).read_text().splitlines())
    kept = [line["user_attrs"][EARLIER][0] for line in lines if EARLIER in line.get("user_attrs", {})]
    assert {old["trial"]: old["objective"] for old in kept} == first[first["solver"] == "flaky"][
        "objective"
    ].to_dict()


def test_replay_runs_no_plug_in_file_that_is_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy = tmp_path / "toy.py"
    toy.write_text(TOY.read_text())
    command = [str(toy) if word == str(TOY) else word for word in arguments(tmp_path / "s")]
    assert harness(monkeypatch, command) == 0
    toy.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (copy,) = (tmp_path / "s" / "plugins").iterdir()
    replay = ["replay", str(tmp_path / "s"), "toy_solver/1"]
    capsys.readouterr()

    assert harness(monkeypatch, replay) == 2
    assert f"--plugin {copy}" in capsys.readouterr().err and not (tmp_path / "ran").exists()
    assert harness(monkeypatch, [*replay, "--plugin", str(copy)]) == 0
    changed = tmp_path / "changed.py"
    changed.write_text(TOY.read_text() + "\n")
    assert harness(monkeypatch, [*replay, "--plugin", str(changed)]) == 2
    assert "is not the one of" in (said := capsys.readouterr().err) and str(copy) in said


def test_an_installed_solver_is_replayed_without_the_plug_ins_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("from solvers.soba import Soba as _S\nclass Mine(_S): ...\n")
    words = ["run", "quadratic", "--set", "upper_dim=4", "--set", "lower_dim=3", "--solvers", "soba"]
    words += ["--executor", "inline", "--device", "cpu", "--budget", "200", "--trials", "2"]
    assert harness(monkeypatch, [*words, "--out", str(tmp_path / "s"), "--plugin", str(mine)]) == 0
    mine.unlink()
    assert harness(monkeypatch, ["replay", str(tmp_path / "s"), "soba/1"]) == 0
