"""A plan: what is left to do, nothing written, close to what the study then takes."""

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.cli import main
from harness.pilot import Scoring, pilot
from harness.plugins import Plugins
from harness.record import load_record
from harness.rules import Rules
from harness.runner import run_pack
from harness.sizing import Packing
from problems.quadratic import Quadratic

WORDS = ["run", "quadratic", "--set", "upper_dim=10", "--set", "lower_dim=8", "--executor", "inline"]
WORDS += ["--device", "cpu", "--solvers", "bsgm,amigo", "--budget", "400", "--curves", "0"]

BATCHES: dict[str, Any] = {"cross_batches": 1, "batch_size": 1, "upper_batch_size": 0}
SIZES = {"upper_step_size": 0.1, "lower_step_size": 0.1, "system_step_size": 0.1}


def harness(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> int:
    monkeypatch.setattr("sys.argv", ["harness", *words])
    with pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


def test_a_plan_says_what_is_left_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s"
    plan = [*WORDS, "--out", str(out), "--trials", "5", "--dry-run"]
    assert harness(monkeypatch, plan) == 0
    said = capsys.readouterr()
    assert "samples: at most 4,000," in said.out and "new" in said.out and not out.exists()
    assert "reading the data" in said.err

    assert harness(monkeypatch, [*WORDS, "--out", str(out), "--trials", "3"]) == 0
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    capsys.readouterr()
    assert harness(monkeypatch, plan) == 0
    said = capsys.readouterr()
    assert "samples: at most 1,600," in said.out and "6 trials recorded" in said.out
    assert {path: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    assert len(load_record(out).trials) == 6
    assert harness(monkeypatch, [*plan, "--solvers", "stocbio"]) == 0
    assert "0 trials recorded of these solvers" in capsys.readouterr().out

    assert harness(monkeypatch, [*plan, "--seed", "9"]) == 2
    assert "holds another study, seed: 1 → 9" in capsys.readouterr().err


def test_every_solver_has_its_own_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert harness(monkeypatch, [*WORDS, "--out", str(tmp_path / "s"), "--trials", "4", "--dry-run"]) == 0
    rows = re.findall(r"^ *(\w+) +4 +1,600 +[\d.]+ s +[\d.]+ s", capsys.readouterr().out, re.MULTILINE)
    assert rows == ["bsgm", "amigo"]


@pytest.mark.parametrize("lower_steps", [(2, 3, 40), (200, 500, 900)], ids=["short", "long"])
def test_what_is_timed_is_what_it_takes(
    lower_steps: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upper iterations that are over in no time, and some longer than the pilot, in the process' own seconds;
    without what counts add, or the gain of packs, it is more than a factor of three."""
    monkeypatch.setattr("harness.runner.time.perf_counter", time.process_time)
    problem = Quadratic(upper_dim=300, lower_dim=400)
    problem.setup(None, 1, torch.device("cpu"), problem.dtype)
    torch.set_num_threads(1)
    solver = Plugins().solver("bsgm")
    configs = [BATCHES | SIZES | {"lower_steps": t, "system_steps": t} for t in lower_steps]
    rules = Rules(3000, {}, 1, curves=0)
    timing = pilot(problem, solver, configs, rules, Packing(4), Scoring(problem, rules, "cpu", 0.1), 0.3)
    results = run_pack(problem, solver, configs, rules, torch.device("cpu"), problem.dtype)
    taken = sum(result.seconds for result in results)
    assert taken / 3 < float(timing.search.sum()) < taken * 3


def test_upper_iterations_are_counted_by_what_they_cost_after_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a clock that counts steps of x. The first upper iteration of SUSTAIN has one point of two, and at
    this seed a shorter series than most."""
    problem = Quadratic(upper_dim=5, lower_dim=4, samples=50)
    problem.setup(None, 1, torch.device("cpu"), problem.dtype)
    now, step = 0, problem.projected_step

    def counted(x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        nonlocal now
        now += len(x)
        return step(x, *others)

    monkeypatch.setattr(problem, "projected_step", counted)
    monkeypatch.setattr("harness.pilot._clock", lambda device: lambda: now)
    solver, rules = Plugins().solver("sustain"), Rules(20_000, {"cross": 0.5}, 30, curves=0)
    config = SIZES | {"system_steps": 40, "batch_size": 1, "upper_batch_size": 1, "momentum": 0.5}
    configs = [config | {"upper_decay": 0.0, "lower_decay": 0.0}] * 3
    scoring = Scoring(problem, rules, "cpu", 0.1)
    timing = pilot(problem, solver, configs, rules, Packing(3), scoring, 0.3)
    now = 0
    run_pack(problem, solver, configs, rules, torch.device("cpu"), problem.dtype)
    assert float(timing.search.sum()) == pytest.approx(now, rel=0.3)


def test_what_does_not_fit_takes_no_time() -> None:
    problem = Quadratic(upper_dim=5, lower_dim=4)
    problem.setup(None, 1, torch.device("cpu"), problem.dtype)
    config = BATCHES | SIZES | {"lower_steps": 50, "system_steps": 50}
    rules = Rules(10, {}, 1, curves=0)
    scoring = Scoring(problem, rules, "cpu", 0.1)
    timing = pilot(problem, Plugins().solver("bsgm"), [config], rules, Packing(4), scoring, 0.1)
    assert np.array_equal(timing.search, [0.0]) and timing.seconds(20) == 0.0


def test_what_is_broken_off_is_forgotten() -> None:
    """Else the second upper iteration that is broken off would be measured by the samples of the first."""
    problem = Quadratic(upper_dim=300, lower_dim=400)
    problem.setup(None, 1, torch.device("cpu"), problem.dtype)
    config = BATCHES | SIZES | {"lower_steps": 50_000, "system_steps": 50_000}
    rules = Rules(1e6, {}, 1, curves=0)
    scoring = Scoring(problem, rules, "cpu", 0.1)
    timings = [
        pilot(problem, Plugins().solver("bsgm"), [config], rules, Packing(1), scoring, seconds).search[0]
        for seconds in (0.1, 0.4)
    ]
    assert min(timings) > 1 and max(timings) < 4 * min(timings)


def test_scoring_is_timed_once_in_as_large_a_pack_as_there_is_time_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = Quadratic(upper_dim=5, lower_dim=4)
    problem.setup(None, 1, torch.device("cpu"), problem.dtype)
    packs: list[int] = []
    now = 0.0

    def half_of_it(x: torch.Tensor, y: torch.Tensor) -> float:
        nonlocal now
        packs.append(len(x))
        now += 0.02 * len(x) ** 0.5  # a pack of four takes twice one trial's
        return 0.5

    monkeypatch.setattr(problem, "part_of_evaluation", half_of_it)
    monkeypatch.setattr("harness.pilot._clock", lambda device: lambda: now)
    scoring = Scoring(problem, Rules(3000, {}, 1, curves=0), "cpu", 0.09)
    assert scoring.of(8) == (pytest.approx(0.02 * 4**0.5 / 0.5 / 4), 0.0)
    assert scoring.of(8) == scoring.of(7) and scoring.of(1)[0] == pytest.approx(0.02 / 0.5)
    assert packs == [1, 4, 4]
