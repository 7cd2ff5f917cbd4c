"""How `harness check` judges methods of two other kinds: a search by what it finds, as it has no
hypergradient, and a method with tables at shorter steps."""

import dataclasses
import inspect

import pytest

from harness.check import judged
from harness.check.convergence import Convergence
from harness.oracle import Oracle
from solvers import saba
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


@pytest.mark.parametrize(("forgotten", "holds"), [("", True), ("of_lower * ", False)])
def test_a_method_with_tables_is_judged_on_mini_batches_where_a_right_one_is_stable(
    forgotten: str, holds: bool
) -> None:
    """SABA, and SABA whose averages count a batch as all examples."""
    space = dict(vars(saba))
    exec(inspect.getsource(saba).replace(forgotten, ""), space)  # noqa: S102 - the source is ours
    (verdict,) = judged({"mini-batches": Convergence(space["Saba"]).checks()["mini-batches"]})

    assert verdict.holds == holds, verdict
