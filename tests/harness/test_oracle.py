"""What an oracle gives a solver: nested loops, rows by condition, every derivative and its charge."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.api import Cost, MiniBatch, Oracle, Place, Solver, State, count
from harness.batch import Batch
from harness.budget import KINDS, Accountant
from harness.check import CPU, F64, Counting, CountingByExample
from harness.errors import PluginError
from harness.meter import Meter
from harness.rules import Rules
from harness.runner import first_cost, run_pack
from harness.streams import Streams, samples
from problems.data_poisoning import DataPoisoning
from solvers.bsgm import Bsgm

SEED, ITERATION = 3, 4
ETA = 0.1


class Desk:
    """An oracle for N trials on the counting problem, at an upper iteration, with plenty granted."""

    def __init__(self, trials: int, kind: type[Counting] = Counting) -> None:
        self.problem = kind()
        self.problem.setup(None, 0, CPU, F64)
        self.problem.seen.clear()
        self.streams = Streams(SEED, self.problem.lower_examples, self.problem.upper_examples, CPU)
        self.accountant = Accountant(trials, np.inf, {})
        x0, y0 = (value.to(F64) for value in self.problem.initial(0))
        self.meter = Meter(self.problem, self.streams, self.accountant, (x0, y0))
        self.oracle = Oracle.of(self.meter)
        self.meter.begin(ITERATION)
        self.accountant.open(slice(None), np.full((len(KINDS), trials), 10**6))

    def charged(self, kind: str) -> list[int]:
        found: list[int] = self.accountant.ledger[:, KINDS.index(kind)].tolist()
        return found


def _points(desk: Desk, trials: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shapes = (desk.oracle.x0.shape[1], desk.oracle.y0.shape[1])
    x, y = (torch.randn(trials, width, generator=draw, dtype=F64) / 2 for width in shapes)
    return x, y


class _NoUpperX(Counting):
    """f does not depend on x, and its gradient by x is one 0."""

    def upper_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return torch.zeros(1, 1, dtype=x.dtype), super().upper_gradient(x, y, batch)[1]


def test_an_upper_gradient_that_is_one_0_comes_as_a_row_for_each_trial() -> None:
    desk = Desk(3, _NoUpperX)
    x, y = _points(desk, 3)
    by_x, by_y = desk.oracle.upper_gradient(x, y)

    assert torch.equal(by_x, torch.zeros_like(x)) and by_y.shape == y.shape


# --- loops in loops


def _nested(desk: Desk, x: Tensor, y: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    """Lower steps, after each of which come steps on z, each trial as many as it has; then y + z."""
    oracle = desk.oracle

    def system(batch: MiniBatch, z: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return z - ETA * oracle.hessian_vector(x, y, z, batch)

    def lower(batch: MiniBatch, value: tuple[Tensor, ...], x: Tensor, inner: Tensor) -> tuple[Tensor, ...]:
        y, z = value
        y = y - ETA * oracle.lower_gradient(x, y, batch)
        at_once = oracle.lower_batch("once", 7, within=batch)
        y = y - ETA * oracle.lower_gradient(x, y, at_once)
        return y, oracle.loop("inner", inner, system, z + y, x, y, batch_size=4, within=batch)

    y, z = oracle.loop("outer", outer, lower, (y, torch.zeros_like(y)), x, inner, batch_size=5)
    return y + z


def _by_hand(desk: Desk, x: Tensor, y: Tensor, outer: int, inner: int) -> Tensor:
    """The same for one trial, from the streams and the problem alone."""
    problem, z = desk.problem, torch.zeros_like(y)

    def batch(phase: str, step: int, size: int, nest: tuple[int, ...] = ()) -> Batch:
        return Batch(desk.streams.batch(ITERATION, "lower", phase, step, size, nest).rows)

    for i in range(outer):
        y = y - ETA * problem.lower_gradient(x, y, batch("outer", i, 5))
        y = y - ETA * problem.lower_gradient(x, y, batch("once", i, 7))
        z = z + y
        for j in range(inner):
            z = z - ETA * problem.hessian_vector(x, y, z, batch("inner", j, 4, (i,)))
    return y + z


@settings(max_examples=10, deadline=None)
@given(
    counts=st.one_of(
        st.just([(10, 3), (30, 1), (20, 2)]),
        st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=5),
    )
)
def test_loops_in_loops_give_each_trial_its_own_batches_and_charges(counts: list[tuple[int, int]]) -> None:
    """In any order of counts, ragged outside and inside: as by hand, and as the trial alone."""
    desk, trials = Desk(len(counts)), len(counts)
    x, y = _points(desk, trials)
    outer, inner = (torch.tensor(column) for column in zip(*counts, strict=True))
    found = _nested(desk, x, y, outer, inner)
    seen = dict(desk.problem.seen)

    def drawn(steps: int, size: int) -> int:
        return int(samples(steps, size, 23))

    gradients = [drawn(t, 5) + drawn(t, 7) for t, _ in counts]
    products = [t * drawn(k, 4) for t, k in counts]
    assert desk.charged("lower_gradient") == gradients and desk.charged("hessian_vector") == products
    assert seen.get("lower_gradient", 0) == sum(gradients) and seen.get("hessian_vector", 0) == sum(products)
    for n, (t, k) in enumerate(counts):
        own, alone = slice(n, n + 1), Desk(1)
        lone = _nested(alone, x[own], y[own], outer[own], inner[own])
        torch.testing.assert_close(found[own], lone, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(found[own], _by_hand(desk, x[own], y[own], t, k), rtol=1e-12, atol=1e-13)
        assert alone.charged("lower_gradient") == [gradients[n]]


def test_a_loop_three_deep_draws_by_all_the_steps_around_it() -> None:
    desk, met = Desk(2), list[tuple[MiniBatch, list[int]]]()
    x, y = desk.oracle.x0, desk.oracle.y0

    def inmost(batch: MiniBatch, y: Tensor, x: Tensor) -> Tensor:
        rows = desk.streams.batch(ITERATION, "lower", batch.phase, batch.step, batch.size, batch.nest).rows
        met.append((batch, rows.tolist()))
        return y - ETA * desk.oracle.lower_gradient(x, y, batch)

    def deeper(phase: str, body: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def around(batch: MiniBatch, y: Tensor, x: Tensor) -> Tensor:
            steps = torch.full((len(y),), 2)
            return desk.oracle.loop(phase, steps, body, y, x, batch_size=5, within=batch)

        return around

    two = torch.tensor([2, 2])
    desk.oracle.loop("a", two, deeper("b", deeper("c", inmost)), y, x, batch_size=5)
    nests = [(*batch.nest, batch.step) for batch, _ in met]

    assert nests == [(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    assert len({tuple(rows) for _, rows in met}) == 8
    assert desk.charged("lower_gradient") == [40, 40]


def test_a_fixed_loop_has_its_first_batch_every_time() -> None:
    desk, met = Desk(3), list[MiniBatch]()

    def body(batch: MiniBatch, y: Tensor, x: Tensor) -> Tensor:
        met.append(batch)
        return y - ETA * desk.oracle.lower_gradient(x, y, batch)

    counts = torch.tensor([1, 3, 2])
    desk.oracle.loop("system", counts, body, desk.oracle.y0, desk.oracle.x0, batch_size=5, fixed=True)

    assert {(batch.step, batch.nest) for batch in met} == {(0, ())} and len(met) == 3
    assert desk.charged("lower_gradient") == [5, 15, 10]


# --- rows by condition


@pytest.mark.parametrize("chosen", [[True, False, True], [False, True, False], [False] * 3, [True] * 3])
def test_when_moves_and_charges_the_chosen_trials_only(chosen: list[bool]) -> None:
    desk = Desk(3)
    x, y = _points(desk, 3)

    def body(batch: MiniBatch, value: tuple[Tensor, ...], x: Tensor) -> tuple[Tensor, ...]:
        y, visits = value
        return y - ETA * desk.oracle.lower_gradient(x, y, batch), visits + 1

    start = (y, torch.zeros(3, 1, dtype=F64))
    moved, visits = desk.oracle.when(torch.tensor(chosen), "restart", body, start, x, batch_size=5)
    rows = desk.streams.batch(ITERATION, "lower", "restart", 0, 5).rows
    expected = y - ETA * desk.problem.lower_gradient(x, y, Batch(rows))

    assert visits.squeeze(1).tolist() == [float(c) for c in chosen]
    assert desk.charged("lower_gradient") == [5 * c for c in chosen]
    torch.testing.assert_close(moved, torch.where(torch.tensor(chosen).unsqueeze(1), expected, y))
    assert torch.equal(moved[~torch.tensor(chosen)], y[~torch.tensor(chosen)])


def test_when_inside_a_loop_is_of_the_trials_of_that_loop() -> None:
    """Trial n takes a step where the loop's step is n, on a batch of that step."""
    desk = Desk(3)
    x, y = _points(desk, 3)
    number = torch.arange(3, dtype=F64).unsqueeze(1)

    def inside(batch: MiniBatch, y: Tensor, x: Tensor) -> Tensor:
        return y - ETA * desk.oracle.lower_gradient(x, y, batch)

    def body(batch: MiniBatch, y: Tensor, x: Tensor, number: Tensor) -> Tensor:
        now = number.squeeze(1) == batch.step
        return desk.oracle.when(now, "inner", inside, y, x, batch_size=5, within=batch)

    counts = torch.tensor([2, 1, 3])
    found = desk.oracle.loop("outer", counts, body, y, x, number, batch_size=5)

    assert desk.charged("lower_gradient") == [5, 0, 5]
    assert torch.equal(found[1], y[1])
    for n in (0, 2):
        rows, own = desk.streams.batch(ITERATION, "lower", "inner", 0, 5, (n,)).rows, slice(n, n + 1)
        expected = y[own] - ETA * desk.problem.lower_gradient(x[own], y[own], Batch(rows))
        torch.testing.assert_close(found[own], expected, rtol=1e-12, atol=1e-13)


# --- streams of one batch


@pytest.mark.parametrize("phase", ["epochs", "partition"])
def test_a_second_step_of_a_stream_through_upper_iterations_is_an_error(phase: str) -> None:
    """On both levels, in and out of a loop; its one batch is served as often as it is asked for."""
    desk = Desk(2)
    oracle, x, y = desk.oracle, desk.oracle.x0, desk.oracle.y0

    def body(batch: MiniBatch, y: Tensor, x: Tensor) -> Tensor:
        return y - ETA * oracle.lower_gradient(x, y, batch)

    asked: list[Callable[[], Any]] = [
        lambda: oracle.lower_gradient(x, y, oracle.lower_batch(phase, 5, step=1)),
        lambda: oracle.upper_gradient(x, y, oracle.upper_batch(phase, 5, step=1)),
        lambda: oracle.loop(phase, torch.tensor([1, 2]), body, y, x, batch_size=5),
    ]
    for ask in asked:
        with pytest.raises(PluginError, match=f'the phase "{phase}" has one batch in an upper iteration'):
            ask()
    oracle.loop(phase, torch.tensor([1, 0]), body, y, x, batch_size=5)
    oracle.loop(phase, torch.tensor([1, 3]), body, y, x, batch_size=5, fixed=True)
    oracle.lower_gradient(x, y, oracle.lower_batch(phase, 5))


# --- derivatives


def _g(problem: Counting, rows: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    def g(x: Tensor, y: Tensor) -> Tensor:
        losses = problem.lower_loss(x, y, rows)
        return losses.sum() if problem.by_example else losses.mean()

    return g


DERIVATIVES: dict[str, tuple[str, int, Callable[..., Any]]] = {
    # name: kind, samples per example, expected from g of one trial
    "lower_gradient": ("lower_gradient", 1, lambda g, x, y: torch.func.grad(g, 1)(x, y)),
    "joint_lower_gradient": ("lower_gradient", 1, lambda g, x, y: torch.func.grad(g, (0, 1))(x, y)),
    "lower_value": ("value", 1, lambda g, x, y: g(x, y).unsqueeze(0)),
    "hessian": ("hessian_vector", 6, lambda g, x, y: torch.func.hessian(g, 1)(x, y)),
    "cross_matrix": ("cross", 6, lambda g, x, y: torch.func.jacrev(torch.func.grad(g, 0), 1)(x, y)),
}


@pytest.mark.parametrize("name", DERIVATIVES)
def test_lower_derivatives_equal_those_of_the_loss_and_are_charged_by_kind(name: str) -> None:
    """On a mini-batch; dense matrices cost as many products as they have columns."""
    desk, (kind, each, expected) = Desk(3), DERIVATIVES[name]
    x, y = _points(desk, 3)
    found = getattr(desk.oracle, name)(x, y, desk.oracle.lower_batch("lower", 5))
    seen, g = (
        dict(desk.problem.seen),
        _g(desk.problem, desk.streams.batch(ITERATION, "lower", "lower", 0, 5).rows),
    )

    assert seen == {kind: 15 * each}
    assert {k for k in KINDS if any(desk.charged(k))} == {kind}
    assert desk.charged(kind) == [5 * each] * 3
    for n in range(3):
        part = tuple(p[n] for p in found) if isinstance(found, tuple) else found[n]
        torch.testing.assert_close(part, expected(g, x[n], y[n]), rtol=1e-11, atol=1e-12)


def test_a_dense_matrix_of_several_batches_is_of_each_trials_own_draws() -> None:
    """The mean over the first 1, 3 and 9 batches, charged in full."""
    desk, numbers = Desk(3), [1, 3, 9]
    x, y = _points(desk, 3)
    batches = desk.oracle.lower_batches("cross", torch.tensor(numbers), 5)
    hessian, values = desk.oracle.hessian(x, y, batches), desk.oracle.lower_value(x, y, batches)
    drawn = [int(samples(number, 5, 23)) for number in numbers]

    assert desk.charged("hessian_vector") == [6 * d for d in drawn] and desk.charged("value") == drawn
    for n, number in enumerate(numbers):
        rows = torch.cat([desk.streams.batch(ITERATION, "lower", "cross", j, 5).rows for j in range(number)])
        g = _g(desk.problem, rows)
        torch.testing.assert_close(hessian[n], torch.func.hessian(g, 1)(x[n], y[n]), rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(values[n, 0], g(x[n], y[n]), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("size", [4, None])
def test_the_upper_value_is_that_whose_differences_are_the_upper_gradient(size: int | None) -> None:
    desk = Desk(2)
    x, y = _points(desk, 2)
    batch = None if size is None else desk.oracle.upper_batch("fresh", size)
    by_x, by_y = desk.oracle.upper_gradient(x, y, batch)
    assert desk.charged("upper_gradient") == [size or 11] * 2
    step, calls = 1e-5, 0
    for number, gradient in ((0, by_x), (1, by_y)):
        for k in range(gradient.shape[1]):
            values = []
            for sign in (1, -1):
                point = [x.clone(), y.clone()]
                point[number][:, k] += sign * step
                values.append(desk.oracle.upper_value(*point, batch))
                calls += 1
            slope = (values[0] - values[1]) / (2 * step)
            torch.testing.assert_close(slope.squeeze(1), gradient[:, k], rtol=1e-7, atol=1e-8)

    assert desk.charged("value") == [calls * (size or 11)] * 2
    assert desk.problem.seen["value"] == 2 * calls * (size or 11)


def test_the_lower_value_is_that_whose_differences_are_the_joint_gradient() -> None:
    """Where the lower level falls apart by example: a sum, over the mini-batch."""
    desk = Desk(2, CountingByExample)
    x, y = _points(desk, 2)
    batch = desk.oracle.lower_batch("lower", 5)  # all batches are the upper mini-batch, here all examples
    by_x, by_y = desk.oracle.joint_lower_gradient(x, y, batch)
    step = 1e-5
    for number, gradient in ((0, by_x), (1, by_y)):
        for k in range(gradient.shape[1]):
            values = []
            for sign in (1, -1):
                point = [x.clone(), y.clone()]
                point[number][:, k] += sign * step
                values.append(desk.oracle.lower_value(*point, batch))
            slope = (values[0] - values[1]) / (2 * step)
            torch.testing.assert_close(slope.squeeze(1), gradient[:, k], rtol=1e-7, atol=1e-8)

    assert by_y.shape == (2, 66) and desk.charged("lower_gradient") == [11, 11]


# --- projection


def test_the_projection_is_free_and_the_problems() -> None:
    desk = Desk(2)
    x, _ = _points(desk, 2)

    assert torch.equal(desk.oracle.project(10 * x), (10 * x).clamp(-2, 2))
    assert not desk.accountant.ledger.any() and not desk.problem.seen


@pytest.mark.parametrize("wide", [False, True])
def test_a_projected_step_takes_a_step_size_for_each_trial_or_each_coordinate(wide: bool) -> None:
    desk = Desk(3)
    x, _ = _points(desk, 3)
    direction, sizes = torch.randn_like(x), torch.rand(3, 4 if wide else 1, dtype=F64) * 5

    stepped = desk.oracle.projected_step(x, direction, sizes)
    torch.testing.assert_close(stepped, (x - sizes * direction).clamp(-2, 2))


@pytest.mark.parametrize("box", [True, False])
@pytest.mark.parametrize("wide", [False, True])
def test_a_projected_step_of_the_poisoning_is_that_of_its_projection(wide: bool, box: bool) -> None:
    """From feasible points, with rows that have no gradient and rows that leave the set."""
    problem = DataPoisoning(dataset="digits", box=box)
    problem.setup(None, 0, CPU, F64)
    draw = torch.Generator().manual_seed(1)
    x, direction = (torch.randn(3, problem.dim_x, generator=draw, dtype=F64) for _ in range(2))
    x = problem.project(x)
    direction.view(3, -1, problem.pixels)[:, ::3] = 0
    sizes = torch.rand(3, problem.dim_x if wide else 1, generator=draw, dtype=F64)
    sizes = sizes * torch.tensor([[0.01], [1.0], [100.0]], dtype=F64)

    stepped = problem.projected_step(x, direction, sizes)
    torch.testing.assert_close(stepped, problem.project(x - sizes * direction), rtol=0, atol=1e-12)


# --- what an example is worth


class Worthy(Counting):
    """A lower example is worth 3 samples, an upper one 2."""

    def setup(self, data_dir: Path | None, data_seed: int, device: torch.device, dtype: torch.dtype) -> None:
        super().setup(data_dir, data_seed, device, dtype)
        self.lower_worth, self.upper_worth = 3, 2


class WorthyByExample(Worthy):
    by_example = True


BSGM: dict[str, Any] = {
    **{"lower_steps": 4, "system_steps": 3, "cross_batches": 2, "batch_size": 5, "upper_batch_size": 4},
    **{"upper_step_size": 0.1, "lower_step_size": 0.1, "system_step_size": 0.1},
}


@pytest.mark.parametrize("kind", [Worthy, WorthyByExample])
def test_an_example_of_several_samples_is_declared_and_charged_as_so_many(kind: type[Counting]) -> None:
    problem = kind()
    problem.setup(None, 0, CPU, F64)
    problem.seen.clear()
    (result,) = run_pack(problem, Bsgm, [BSGM], Rules(2000, {}, 0), CPU, F64)
    worth = {"lower_gradient": 3, "hessian_vector": 3, "cross": 3, "upper_gradient": 2}
    plain = Counting() if kind is Worthy else CountingByExample()
    plain.setup(None, 0, CPU, F64)

    assert result.upper_iterations > 3 and 1500 < result.ledger["total"] <= 2000
    assert {name: result.ledger[name] for name in worth} == {
        name: worth[name] * problem.seen[name] for name in worth
    }
    upper = 4 if kind is Worthy else 5
    once = first_cost(plain, Bsgm, [BSGM], 0)[0] - upper
    assert first_cost(problem, Bsgm, [BSGM], 0)[0] == 3 * once + 2 * upper


# --- what is evaluated


@dataclasses.dataclass(frozen=True, kw_only=True)
class Walker(Solver[State]):
    """x and y grow by 1 in every upper iteration, until y is not a number."""

    label, reference = "Walker", "none: made for the tests"
    until: Tensor = count("upper iteration at which y is not a number", default=10**6, low=0)

    def cost(self, place: Place) -> Cost:
        return Cost(lower_gradient=place.lower_samples(1, 5))

    def init(self, oracle: Oracle) -> State:
        return State(x=oracle.x0, y=oracle.y0)

    def step(self, oracle: Oracle, state: State) -> State:
        oracle.lower_gradient(state.x, state.y, oracle.lower_batch("lower", 5))
        ended = (self.until == oracle.place.iteration).unsqueeze(1)
        return State(x=state.x + 1, y=torch.where(ended, torch.nan, state.y + 1))


class Witness(Counting):
    outputs: ClassVar[list[tuple[Tensor, Tensor]]] = []

    def evaluate_pack(self, x: Tensor, y: Tensor) -> list[dict[str, float]]:
        self.outputs[:] = list(zip(x.clone(), y.clone(), strict=True))
        return super().evaluate_pack(x, y)


class WitnessByExample(Witness):
    by_example = True


@pytest.mark.parametrize(("rule", "ended_at"), [("x0", 0), ("last", 3), ("worst", None)])
def test_the_evaluation_gets_the_x_and_y_that_the_rule_says(rule: str, ended_at: int | None) -> None:
    """A trial that goes on to its budget, one that diverges in its fourth upper iteration, one too poor."""
    problem = Witness()
    problem.setup(None, 0, CPU, F64)
    configs = [{"until": 10**6}, {"until": 3}]
    rules = Rules(5 * 8, {}, 0, divergence=rule)
    going, diverged = run_pack(problem, Walker, configs, rules, CPU, F64)
    x0, y0 = (value.to(F64) for value in problem.initial(0))

    assert going.state == "completed" and diverged.state == "diverged"
    steps = [going.upper_iterations] + ([] if ended_at is None else [ended_at])
    assert going.upper_iterations == 8 and len(problem.outputs) == len(steps)
    for (x, y), moved in zip(problem.outputs, steps, strict=True):
        assert torch.equal(x, x0 + moved) and torch.equal(y, y0 + moved)
    (poor,) = run_pack(problem, Walker, configs[:1], Rules(4, {}, 0), CPU, F64)
    assert poor.upper_iterations == 0
    assert torch.equal(problem.outputs[0][0], x0) and torch.equal(problem.outputs[0][1], y0)


def test_by_example_the_evaluation_gets_no_y() -> None:
    problem = WitnessByExample()
    problem.setup(None, 0, CPU, F64)
    for rule in ("x0", "last"):
        rules = Rules(11 * 8, {}, 0, rule)
        going, ended = run_pack(problem, Walker, [{"until": 10**6}, {"until": 3}], rules, CPU, F64)
        assert (going.upper_iterations, ended.state) == (8, "diverged")
        assert [y.shape for _, y in problem.outputs] == [(0,), (0,)]
