"""`harness check PROBLEM`: honest problems pass, every planted mistake is caught by its check."""

from pathlib import Path
from typing import Any

import pytest

from harness.check import Counting, CountingByExample, ExactQuartic, fresh_process, judged, problem_checks
from harness.cli import main
from harness.plugins import Plugins
from tests.harness.planted import PROBLEM_MISTAKES, Mistake, checks_of

# What makes a registered problem small and independent of data files; every other one runs as it is.
SMALL: dict[str, list[dict[str, Any]]] = {
    "data_cleaning": [{"dataset": "digits"}],
    "data_poisoning": [{"dataset": "digits"}],
    "distillation": [{"dataset": "digits"}],
    "equilibrium": [{"dataset": "digits", "width": 30, "evaluation_examples": 300}],
    "meta_learning": [{"dataset": "digits", "channels": 4, "tasks": 30, "evaluation_tasks": 5}],
    "newsgroups": [{"dataset": "drawn", "features": 60}],
    "quadratic": [
        {"upper_dim": 20, "lower_dim": 10},
        {"upper_dim": 20, "lower_dim": 10, "samples": 30, "noise": 0.1},
    ],
    "regularisation": [{"dataset": "breast_cancer"}],
    "stochastic_quadratic": [{"upper_dim": 3, "lower_dim": 6, "lower_samples": 300, "upper_samples": 80}],
}
CASES = [(name, options) for name in Plugins().names("problem") for options in SMALL.get(name, [{}])]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_every_registered_problem_passes(name: str, options: dict[str, Any]) -> None:
    problem = Plugins().problem(name)
    failed = [v for v in judged(problem_checks(lambda: problem(**options), None)) if not v.holds]

    assert not failed, "\n".join(map(str, failed))


@pytest.mark.parametrize("problem", [Counting, CountingByExample, ExactQuartic])
def test_the_problems_of_the_solver_checks_pass(problem: type) -> None:
    assert all(verdict.holds for verdict in judged(problem_checks(problem, None)))


@pytest.mark.parametrize("base", ["RightProblem", "RightMap"])
def test_the_right_ones_pass(base: str) -> None:
    with fresh_process() as elsewhere:
        failed = [verdict for verdict in judged(checks_of(base, "", elsewhere)) if not verdict.holds]

    assert not failed, "\n".join(map(str, failed))


@pytest.mark.parametrize("mistake", PROBLEM_MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_is_caught(mistake: Mistake) -> None:
    with fresh_process() as elsewhere:
        check = checks_of(mistake.base, mistake.name, elsewhere)[mistake.check]
    (verdict,) = judged({mistake.check: check})

    assert not verdict.holds
    assert not verdict.said.startswith("raised"), verdict


def _command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["harness", "check", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_command_checks_problems_with_their_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _command(monkeypatch, "quadratic", "--set", "upper_dim=7", "--set", "lower_dim=5") == 0
    lines = capsys.readouterr().out.splitlines()

    assert (
        lines[0].startswith("holds: sizes: dim_x 7, dim_y 5,") and lines[-1] == "quadratic: all checks hold"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["quadratik"], "did you mean 'quadratic'"),
        (["quadratic", "--set", "sise=3"], "unknown parameter 'sise'"),
        (["bsgm", "--set", "size=3"], "only problems have options"),
        (["data_poisoning", "--data-dir", "/nowhere"], "does not exist"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _command(monkeypatch, *words) == 2
    error = capsys.readouterr().err

    assert said in error and error.count("\n") == 1


SETUP_RAISES = """
from tests.harness.planted import RightProblem

class Broken(RightProblem):
    def setup(self, *args):
        raise ArithmeticError("no luck")
"""


def test_a_setup_that_raises_is_a_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.py").write_text(SETUP_RAISES)

    assert _command(monkeypatch, "broken", "--plugin", str(tmp_path / "broken.py")) == 1
    assert "fails: setup: raised ArithmeticError: no luck" in capsys.readouterr().out
