"""A step that overflows may be pure: infinite and undefined numbers are the same numbers when asked again."""

import dataclasses

import pytest
from torch import Tensor

from harness.budget import Cost
from harness.check.solver_rules import pure_step
from harness.errors import PluginError
from harness.oracle import Oracle
from harness.params import real
from harness.place import Place
from harness.solver import Solver, State


@dataclasses.dataclass(frozen=True, kw_only=True)
class Overflowing(Solver[State]):
    """x becomes undefined, y infinite."""

    label, reference, warm_starts = "Overflowing", "none", ("y",)

    upper_step_size: Tensor = real("step size of x")

    def cost(self, place: Place) -> Cost:
        return Cost(upper_gradient=place.upper_samples(None))

    def init(self, oracle: Oracle) -> State:
        return State(x=oracle.x0, y=oracle.y0)

    def step(self, oracle: Oracle, state: State) -> State:
        y = (state.y + 1) * 1e300 * 1e300
        h = oracle.upper_gradient(state.x, state.y)[0] + y.mean(1, keepdim=True) * 0
        return State(x=oracle.projected_step(state.x, h, self.upper_step_size), y=y)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counting(Overflowing):
    """The undefined numbers are elsewhere when asked again."""

    def step(self, oracle: Oracle, state: State) -> State:
        stepped = Overflowing.step(self, oracle, state)
        calls.append(1)
        x = stepped.x.clone()
        x[:, len(calls) % 2] = 0
        return dataclasses.replace(stepped, x=x)


calls: list[int] = []


def test_a_step_that_overflows_may_be_pure() -> None:
    assert "bit for bit" in pure_step(Overflowing)


def test_or_not() -> None:
    with pytest.raises(PluginError, match="two steps from one state differ in x"):
        pure_step(Counting)
