"""The door for notebooks is the commands: the same record, the same result, the same errors."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.notebook import HarnessError, load, run_study, run_trial
from tests.harness.test_config import SPACE, TOY, harness

UNTIMED = ["seconds", "evaluation_seconds", "pack"]


def test_a_study_and_a_trial_are_those_of_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.toml").write_text(SPACE)
    words = ["--plugin", TOY, "--space", "s.toml", "--set", "size=2", "--budget", 300, "--seed", 4]
    given: dict[str, Any] = {"plugin": [TOY], "space": "s.toml", "set": {"size": 2}, "budget": 300, "seed": 4}
    more = ["--trials", 3, "--evaluate-at", "0.5", "--executor", "inline", "--out", "told"]
    assert harness(monkeypatch, "run", "toy_quadratic", *words, *more) == 0
    typed = run_study("toy_quadratic", "called", trials=3, evaluate_at="0.5", executor="inline", **given)

    told = load("told")
    assert (
        len(told.trials) == 3
        and len(told.evaluations) == 6
        and typed.spec == told.spec | {"solvers": typed.spec["solvers"]}
    )
    for one, two in ((told.trials, typed.trials), (told.curves, typed.curves)):
        pd.testing.assert_frame_equal(*(f.drop(columns=UNTIMED, errors="ignore") for f in (one, two)))

    capsys.readouterr()
    assert (
        harness(monkeypatch, "trial", "toy_quadratic", "toy_solver", "step_size=0.1", *words, "--json") == 0
    )
    line = json.loads(capsys.readouterr().out)
    result = run_trial("toy_quadratic", "toy_solver", {"step_size": 0.1}, **given)
    assert capsys.readouterr().out == ""
    assert {**line, "seconds": 0, "evaluation_seconds": 0} == {
        **result,
        "seconds": 0,
        "evaluation_seconds": 0,
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"budgte": 3}, "unknown key 'budgte'; did you mean 'budget'"),
        ({"trials": "ten"}, "--trials"),
        ({"set": 3}, "set must be a table"),
        ({"budget": -1}, "--budget must be"),
        ({"solvers": "soab"}, "did you mean 'soba'"),
    ],
)
def test_a_mistake_is_said_as_the_command_says_it(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=said):
        run_study("quadratic", tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()


def test_a_study_that_is_interrupted_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.launch.run_study", lambda *_: 130)
    with pytest.raises(KeyboardInterrupt):
        run_study("quadratic", tmp_path / "s")
