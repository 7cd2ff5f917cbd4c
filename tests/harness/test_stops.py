"""x judged at shares of the budget: as if the budget had been that share."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from harness.errors import HarnessError
from harness.result import Result
from harness.rules import Rules
from harness.runner import run_pack
from harness.sizing import Packing, pack_bytes
from problems.quadratic import Quadratic
from solvers.bsgm import Bsgm

CPU = torch.device("cpu")
SHARES = (0.05, 0.3, 0.75)
BASE = {
    "batch_size": 5,
    "upper_batch_size": 0,
    "system_steps": 3,
    "cross_batches": 3,
    "lower_step_size": 0.1,
    "system_step_size": 0.1,
}
CONFIGS: list[dict[str, Any]] = [
    BASE | {"lower_steps": steps, "upper_step_size": size}
    for steps, size in ((3, 0.1), (40, 0.2), (5000, 0.1), (4, 1e30))
]


@pytest.fixture(scope="module")
def problem() -> Quadratic:
    made = Quadratic(upper_dim=20, lower_dim=30)
    made.setup(None, 1, CPU, made.dtype)
    return made


def run(problem: Quadratic, rules: Rules) -> list[Result]:
    return run_pack(problem, Bsgm, CONFIGS, rules, CPU, problem.dtype)


def test_a_share_is_a_smaller_budget(problem: Quadratic) -> None:
    rules = Rules(5003, {"hessian_vector": 1.7}, 1)
    trials = run(problem, replace(rules, evaluate_at=SHARES))
    for share in SHARES:
        for trial, small in zip(trials, run(problem, replace(rules, budget=5003 * share)), strict=True):
            (point,) = [p for p in trial.evaluations if p["share"] == share]

            assert {kind: point[kind] for kind in small.ledger} == small.ledger or small.state == "diverged"
            assert point["upper_iteration"] == small.upper_iterations
            for name, value in small.metrics.items():
                assert point[name] == pytest.approx(value, rel=1e-6, nan_ok=True)


def test_judging_changes_nothing_and_is_counted(problem: Quadratic) -> None:
    rules = Rules(5003, {}, 1)
    plain, judged = run(problem, rules), run(problem, replace(rules, evaluate_at=SHARES))
    for one, other in zip(plain, judged, strict=True):
        assert one.metrics == other.metrics and one.ledger == other.ledger and one.evaluations == []
        assert [p["share"] for p in other.evaluations] == [0, *SHARES]
        origin = other.evaluations[0]
        assert origin["upper_iteration"] == 0 and np.isfinite(origin[problem.objective])
    never = judged[2].evaluations
    assert [p["upper_iteration"] for p in never] == [0] * 4
    assert len({p[problem.objective] for p in never}) == 1


def test_samples_of_evaluations_are_counted_once_per_place(
    problem: Quadratic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(problem, "evaluation_samples", 7)
    seen: list[int] = []
    evaluate = problem.evaluate_pack
    monkeypatch.setattr(problem, "evaluate_pack", lambda x, y: seen.append(len(x)) or evaluate(x, y))
    trials = run(problem, Rules(5003, {}, 1, curves=0, evaluate_at=SHARES))
    counted = [sum(p["evaluation_samples"] for p in trial.evaluations) for trial in trials]
    places = [
        len({p["upper_iteration"] for p in t.evaluations} - {0, t.upper_iterations}) + 1 for t in trials
    ]
    assert counted == [7 * n for n in places]
    outputs = sum(trial.evaluation_samples > 0 for trial in trials)
    assert sum(seen) == outputs + 1 + sum(places) - len(trials)


@pytest.mark.parametrize("share", [0.0, 1.5, -0.1])
def test_shares_out_of_range_are_refused(share: float) -> None:
    with pytest.raises(HarnessError, match="--evaluate-at"):
        Rules(10, {}, 1, evaluate_at=(share,))


def test_packs_leave_room_for_what_is_kept(problem: Quadratic) -> None:
    room = 1.5 * pack_bytes(problem, Bsgm, CONFIGS[:2])
    cuts = [len(list(Packing(2, room, stops).cut(problem, Bsgm, CONFIGS))) for stops in (0, 10_000)]
    assert cuts == [2, 4]
