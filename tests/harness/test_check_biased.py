"""`harness check SOLVER` of methods whose hypergradient is biased however many steps: honest ones pass, every
planted mistake is caught."""

import dataclasses
import inspect
from functools import cache
from typing import Any

import pytest
from torch import Tensor

from harness.batch import MiniBatch
from harness.budget import Cost
from harness.check import Verdict, judged
from harness.check.convergence import Convergence
from harness.errors import PluginError
from harness.oracle import Oracle
from harness.params import count, real, shared
from harness.place import Place
from harness.solver import Bias, Solver, State


@dataclasses.dataclass(frozen=True, kw_only=True)
class RightPenalty(Solver[State]):
    """h = d_x f + lambda (d_x g(y) - d_x g(w)), y close to the minimiser of f / lambda + g and w to g's."""

    label, reference, warm_starts = "Right penalty", "none", ("y",)
    bias = Bias("penalty", rate=-1, nested=True)

    lower_steps: Tensor = count("lower steps")
    upper_step_size: Tensor = real("step size of x")
    lower_step_size: Tensor = real("step size of y")
    penalty: Tensor = real("weight of g")
    batch_size: int = shared("examples per batch", default=9)

    def cost(self, place: Place) -> Cost:
        lower = place.lower_samples(self.lower_steps, self.batch_size)
        cross = place.lower_samples(1, self.batch_size)
        return Cost(2 * lower + 2 * cross, (self.lower_steps + 1) * place.upper_samples(None))

    def init(self, oracle: Oracle) -> State:
        return State(x=oracle.x0, y=oracle.y0)

    def step(self, oracle: Oracle, state: State) -> State:
        def lower(
            batch: MiniBatch, value: tuple[Tensor, ...], x: Tensor, penalty: Tensor, eta: Tensor
        ) -> tuple[Tensor, ...]:
            y, w = value
            f_y = oracle.upper_gradient(x, y, oracle.upper_batch("lower", within=batch))[1]
            return y - eta * (f_y / penalty + oracle.lower_gradient(x, y, batch)), w - eta * (
                oracle.lower_gradient(x, w, batch)
            )

        x, size = state.x, self.batch_size
        operands = (x, self.penalty, self.lower_step_size)
        y, w = oracle.loop("lower", self.lower_steps, lower, (state.y, state.y), *operands, batch_size=size)
        batch = oracle.lower_batch("cross", size)
        gap = oracle.joint_lower_gradient(x, y, batch)[0] - oracle.joint_lower_gradient(x, w, batch)[0]
        h = oracle.upper_gradient(x, y)[0] + self.penalty * gap
        return State(x=oracle.projected_step(x, h, self.upper_step_size), y=y)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RightDifferences(Solver[State]):
    """h = d_x f + u <(y(x + mu u) - y(x)) / mu, d_y f>, u standard normal."""

    label, reference, warm_starts = "Right differences", "none", ("y",)
    bias = Bias("smoothing", rate=2)

    lower_steps: Tensor = count("lower steps")
    upper_step_size: Tensor = real("step size of x")
    lower_step_size: Tensor = real("step size of y")
    smoothing: Tensor = real("length of a difference")
    batch_size: int = shared("examples per batch", default=9)

    def cost(self, place: Place) -> Cost:
        return Cost(2 * place.lower_samples(self.lower_steps, self.batch_size), place.upper_samples(None))

    def init(self, oracle: Oracle) -> State:
        return State(x=oracle.x0, y=oracle.y0)

    def descend(self, oracle: Oracle, x: Tensor, y: Tensor) -> Tensor:
        def lower(batch: MiniBatch, y: Tensor, x: Tensor, eta: Tensor) -> Tensor:
            return y - eta * oracle.lower_gradient(x, y, batch)

        operands = (x, self.lower_step_size)
        return oracle.loop("lower", self.lower_steps, lower, y, *operands, batch_size=self.batch_size)

    def step(self, oracle: Oracle, state: State) -> State:
        x, mu = state.x, self.smoothing
        y = self.descend(oracle, x, state.y)
        f_x, f_y = oracle.upper_gradient(x, y)
        u = oracle.normal("direction", x)
        response = (self.descend(oracle, x + mu * u, state.y) - y) / mu
        h = f_x + u * (response * f_y).sum(1, keepdim=True)
        return State(x=oracle.projected_step(x, h, self.upper_step_size), y=y)


MISTAKES = {
    RightPenalty: {
        "gap not weighed": ("+ self.penalty * gap", "+ gap"),
        "gap with the wrong sign": ("+ self.penalty * gap", "- self.penalty * gap"),
        "weighed by the root of the penalty": ("self.penalty * gap", "self.penalty.sqrt() * gap"),
        "d_x f forgotten": ("oracle.upper_gradient(x, y)[0] +", "0 * oracle.upper_gradient(x, y)[0] +"),
        "f left out of y's steps": ("f_y / penalty", "0 * f_y"),
        "f not divided in y's steps": ("f_y / penalty", "f_y"),
        "g's gradient at the wrong point": ("oracle.lower_gradient(x, y,", "oracle.lower_gradient(x, w,"),
        "stale y in the gap": ("joint_lower_gradient(x, y,", "joint_lower_gradient(x, state.y,"),
        "stale w in the gap": ("joint_lower_gradient(x, w,", "joint_lower_gradient(x, state.y,"),
        "w pulled by f as well": ("w - eta * (", "w - eta * (0.01 * f_y / penalty +"),
        "declared to fall as the square": ("rate=-1", "rate=-2"),
        "declared to fall the other way": ("rate=-1", "rate=1"),
        "declared by another parameter": ('Bias("penalty"', 'Bias("upper_step_size"'),
        "declared by no parameter": ('Bias("penalty"', 'Bias("weight"'),
        "not declared": ('bias = Bias("penalty", rate=-1, nested=True)', "bias = None"),
    },
    RightDifferences: {
        "not divided by the length": ("- y) / mu", "- y)"),
        "another length than divided by": ("x + mu * u,", "x + mu**2 * u,"),
        "declared to fall slower": ("rate=2", "rate=1"),
    },
}  # fmt: skip


@cache
def build(base: type[Any], mistake: str = "") -> type[Any]:
    source = inspect.getsource(base)
    if mistake:
        old, new = MISTAKES[base][mistake]
        assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in {base.__name__}"
        source = source.replace(old, new)
    space = dict(globals())
    exec(source, space)  # noqa: S102 - the edited source is a class of this file
    plugin: type[Any] = space[base.__name__]
    return plugin


def hypergradient(solver: type[Any]) -> Verdict:
    (verdict,) = judged({"hypergradient": Convergence(solver).checks()["hypergradient"]})
    return verdict


def _param(base: type[Any], *rest: str) -> Any:
    """A randomised method takes minutes."""
    return pytest.param(base, *rest, marks=pytest.mark.slow if base is RightDifferences else ())


@pytest.mark.parametrize("base", [_param(base) for base in MISTAKES])
def test_the_right_ones_pass(base: type[Any]) -> None:
    failed = [verdict for verdict in judged(Convergence(build(base)).checks()) if not verdict.holds]

    assert not failed, "\n".join(map(str, failed))


@pytest.mark.parametrize(
    ("base", "mistake"), [_param(base, name) for base in MISTAKES for name in MISTAKES[base]]
)
def test_a_planted_mistake_is_caught(base: type[Any], mistake: str) -> None:
    verdict = hypergradient(build(base, mistake))

    assert not verdict.holds
    assert not verdict.said.startswith("raised"), verdict


def test_the_rates_are_measured_one_by_one() -> None:
    """A bias that stops falling after the first values is not the declared one."""
    check, bias = Convergence(RightPenalty), Bias("penalty", rate=-1)

    assert "about the declared rate, -1" in check._rate(bias, "error", [0.1, 0.04, 0.016, 0.0067])
    for errors in ([0.1, 0.04, 0.016, 0.015], [0.1, 0.04, 0.016, 0.0], [0.1, float("inf"), 0.016, 0.0067]):
        with pytest.raises(PluginError, match="declared -1"):
            check._rate(bias, "error", errors)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stiff(build(RightPenalty)):  # type: ignore[misc]
    """The same with y's step in the units of f + lambda g."""

    bias = Bias("penalty", rate=-1, stiff=("lower_step_size",), nested=True)

    def step(self, oracle: Oracle, state: State) -> State:
        wide = dataclasses.replace(self, lower_step_size=self.lower_step_size * self.penalty)
        stepped: State = build(RightPenalty).step(wide, oracle, state)
        return stepped


def test_stiff_steps_are_taken_in_proportion() -> None:
    forgetful = dataclasses.make_dataclass(
        "Forgetful",
        [],
        bases=(Stiff,),
        frozen=True,
        kw_only=True,
        namespace={"bias": Bias("penalty", rate=-1, nested=True)},
    )

    assert hypergradient(Stiff).holds
    assert not hypergradient(forgetful).holds
