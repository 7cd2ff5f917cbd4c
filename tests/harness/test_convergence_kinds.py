"""How `harness check` judges methods of two other kinds: a search by what it finds, as it has no
hypergradient, and a method with tables at shorter steps."""

import dataclasses

import pytest

from harness.check import convergence, judged
from harness.check.convergence import REMEMBERED, Convergence
from harness.oracle import Oracle
from solvers.random_x import BestState, RandomX
from solvers.saba import Saba


def test_a_search_has_no_hypergradient_to_judge_but_must_find_something() -> None:
    verdicts = {verdict.check: verdict for verdict in judged(Convergence(RandomX).checks())}

    assert all(verdict.holds for verdict in verdicts.values())
    for check in ("hypergradient", "convergence"):
        assert "nothing to judge" in verdicts[check].said
    assert "relative error of L" in verdicts["mini-batches"].said


def test_a_search_that_finds_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    step = RandomX.step

    def forgetful(self: RandomX, oracle: Oracle, state: BestState) -> BestState:
        return dataclasses.replace(step(self, oracle, state), x=oracle.x0)

    monkeypatch.setattr(RandomX, "step", forgetful)
    checks = Convergence(RandomX).checks()
    (verdict,) = judged({"mini-batches": checks["mini-batches"]})

    assert not verdict.holds and "expected at most 0.9" in verdict.said


@pytest.mark.parametrize(("shorter", "holds"), [(REMEMBERED, True), (1.0, False)])
def test_a_method_with_tables_is_judged_at_shorter_steps_under_noise(
    shorter: float, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SABA diverges at the steps at which others are judged, as its derivatives are up to two epochs old."""
    monkeypatch.setattr(convergence, "REMEMBERED", shorter)
    (verdict,) = judged({"mini-batches": Convergence(Saba).checks()["mini-batches"]})

    assert verdict.holds == holds, verdict
