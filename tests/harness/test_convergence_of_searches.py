"""How `harness check` judges a method that has no hypergradient: by what it finds."""

import dataclasses

import pytest

from harness.check import judged
from harness.check.convergence import Convergence
from harness.oracle import Oracle
from solvers.random_x import BestState, RandomX


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
