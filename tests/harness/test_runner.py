"""Packs: the ragged loop, budgets, divergence rules, and that a trial does not feel its neighbours."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.batch import MiniBatch
from harness.blocks import MiniBatches, SystemState
from harness.budget import KINDS, Accountant, Cost
from harness.check import CPU, F64, Counting
from harness.meter import Meter
from harness.oracle import Oracle
from harness.place import Place
from harness.rules import Rules
from harness.runner import run_pack
from harness.streams import Streams
from problems.data_poisoning import DataPoisoning
from solvers.bsgm import Bsgm, BsgmGrowing
from solvers.stocbio import Stocbio

ONE = dict.fromkeys(KINDS, 1.0)


def _problem() -> Counting:
    problem = Counting()
    problem.setup(None, 0, CPU, F64)
    return problem


def _bsgm(**changes: Any) -> dict[str, Any]:
    base = dict(
        lower_steps=3,
        system_steps=3,
        cross_batches=3,
        upper_step_size=0.1,
        lower_step_size=0.1,
        system_step_size=0.1,
        batch_size=5,
        upper_batch_size=0,
    )
    return base | changes


@settings(max_examples=12, deadline=None)
@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_the_ragged_loop_gives_each_trial_its_own_number_of_steps(counts: list[int]) -> None:
    """Trial n ends at n + 100 * counts[n], charged for batches 0 to counts[n] - 1 only."""
    problem, trials = _problem(), len(counts)
    accountant = Accountant(trials, 1e9, ONE)
    start = torch.zeros(4, dtype=F64), torch.zeros(6, dtype=F64)
    meter = Meter(problem, Streams(0, 23, 11, CPU), accountant, start)
    oracle, samples = Oracle.of(meter), meter.place.lower_samples(torch.tensor(counts), 5)
    accountant.open(meter.live, Cost(lower_gradient=samples, value=1).table(trials))
    accountant.charge("value", meter.live, 1)  # a trial without lower steps declares something too
    own = torch.arange(trials, dtype=F64).unsqueeze(1)

    def body(batch: MiniBatch, value: Tensor, number: Tensor) -> Tensor:
        assert torch.equal(value - 100 * batch.step, number)
        oracle.lower_gradient(*(part.expand(len(value), -1) for part in start), batch)
        return value + 100

    ended = oracle.loop("lower", torch.tensor(counts), body, own, own, batch_size=5)
    accountant.close()

    assert torch.equal(ended.squeeze(1), own.squeeze(1) + 100 * torch.tensor(counts))


def test_a_first_iteration_that_does_not_fit_leaves_x0() -> None:
    (result,) = run_pack(_problem(), Bsgm, [_bsgm(lower_steps=10_000)], Rules(500, ONE, 0), CPU, F64)

    assert (result.state, result.upper_iterations, result.ledger["total"]) == ("completed", 0, 0)
    assert result.metrics["x_norm"] == pytest.approx(1.0)


def test_divergence_is_scored_by_its_rule() -> None:
    """A lower step above 2 / L overflows after a few upper iterations: "x0" scores as a trial that could
    afford none, "last" as one whose budget ended before; the neighbour in the pack is untouched."""
    wild = _bsgm(lower_step_size=1.5)
    diverged = {}
    for rule in ("x0", "last", "worst"):
        rules = Rules(2_000, ONE, 0, divergence=rule)
        diverged[rule], calm = run_pack(_problem(), Stocbio, [wild, _bsgm()], rules, CPU, F64)
        (alone,) = run_pack(_problem(), Stocbio, [_bsgm()], rules, CPU, F64)

        assert calm.state == "completed" and calm.objective == pytest.approx(alone.objective, rel=1e-12)
    last = diverged["last"]
    before = last.ledger["total"] - 1
    (unmoved,) = run_pack(_problem(), Stocbio, [wild], Rules(1, ONE, 0), CPU, F64)
    stopped, _ = run_pack(_problem(), Stocbio, [wild, _bsgm()], Rules(before, ONE, 0), CPU, F64)

    assert {result.state for result in diverged.values()} == {"diverged"}
    assert {result.reason for result in diverged.values()} == {"y not finite at upper iteration 2"}
    assert stopped.state == "completed" and stopped.upper_iterations == 2
    assert diverged["x0"].metrics == unmoved.metrics and unmoved.upper_iterations == 0
    assert last.metrics == stopped.metrics
    assert diverged["x0"].objective < last.objective < diverged["worst"].objective == float("inf")
    assert diverged["worst"].metrics == {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Huge(MiniBatches[SystemState]):
    """Stays where it is, with a z whose entries are finite and whose sum is not."""

    label, reference = "Huge", "none"

    def cost(self, place: Place) -> Cost:
        return Cost(lower_gradient=self.lower_samples(place))

    def init(self, oracle: Oracle) -> SystemState:
        return SystemState(x=oracle.x0, y=oracle.y0, z=torch.full_like(oracle.y0, 1e308))

    def step(self, oracle: Oracle, state: SystemState) -> SystemState:
        oracle.lower_gradient(state.x, state.y, self.lower_batch(oracle, "lower"))
        return state


def test_finite_numbers_whose_sum_overflows_are_no_divergence() -> None:
    config = dict(upper_step_size=0.1, lower_step_size=0.1, batch_size=5, upper_batch_size=0)
    for result in run_pack(_problem(), Huge, [config, config], Rules(50, ONE, 0), CPU, F64):
        assert (result.state, result.upper_iterations) == ("completed", 10)


def test_a_system_that_is_not_finite_falls_back_or_diverges_as_asked() -> None:
    """The fallback charges nothing more; under "diverge" the trial ends with the reason."""
    wild = _bsgm(system_steps=40, system_step_size=1e30)
    (fallen,) = run_pack(_problem(), Bsgm, [wild], Rules(20_000, ONE, 0), CPU, F64)
    (ended,) = run_pack(_problem(), Bsgm, [wild], Rules(20_000, ONE, 0, system_failure="diverge"), CPU, F64)

    assert fallen.state == "completed" and fallen.system_fallbacks == fallen.upper_iterations > 0
    assert fallen.ledger["hessian_vector"] == fallen.upper_iterations * (40 // 5 * 23)
    assert ended.state == "diverged" and "linear system" in ended.reason


def test_curves_change_no_number() -> None:
    problem = DataPoisoning(dataset="digits")
    problem.setup(None, 0, CPU, torch.float32)
    config = _bsgm(upper_step_size=1e5, batch_size=90)
    with_curve, without = (
        run_pack(problem, Bsgm, [config], Rules(20_000, ONE, 0, curves=curves), CPU, torch.float32)[0]
        for curves in (20, 0)
    )

    assert with_curve.metrics == without.metrics and not without.curve
    spent = [point["total"] for point in with_curve.curve]
    assert spent == sorted(spent) and spent[0] == 0 and len(spent) > 5


@settings(max_examples=12, deadline=None)
@given(budget=st.integers(1, 6_000), growth=st.floats(0.1, 3))
def test_a_curve_starts_at_the_start_and_ends_at_the_output(budget: int, growth: float) -> None:
    grown = {"growth": growth, "upper_step_size": 0.1, "lower_step_size": 0.1, "system_step_size": 0.1}
    for solver, config in (
        (Bsgm, _bsgm()),
        (BsgmGrowing, {**grown, "horizon": 0, "batch_size": 5, "upper_batch_size": 0}),
    ):
        (result,) = run_pack(_problem(), solver, [config], Rules(budget, ONE, 0), CPU, F64)
        steps = [point["upper_iteration"] for point in result.curve]

        assert steps[0] == 0 and steps[-1] == result.upper_iterations
        assert steps == sorted(set(steps)) and len(steps) <= 22
        assert result.curve[-1]["total"] == result.ledger["total"]


@pytest.mark.parametrize("curves", [1, 2, 7])
def test_points_of_a_curve_are_spread_evenly_on_a_log_scale(curves: int) -> None:
    """The first upper iteration at or beyond each of the places, the start and the end."""
    (result,) = run_pack(_problem(), Bsgm, [_bsgm()], Rules(6_000, ONE, 0, curves=curves), CPU, F64)
    each = result.ledger["total"] / result.upper_iterations
    places = [each * (6_000 / each) ** (k / max(curves - 1, 1)) for k in range(curves)]
    due = {math.ceil(round(place / each, 9)) for place in places}
    ends = {0, result.upper_iterations}

    assert result.upper_iterations > 20
    expected = sorted(ends | {step for step in due if step <= result.upper_iterations})
    assert [point["upper_iteration"] for point in result.curve] == expected


@pytest.mark.parametrize("solver", [Bsgm, Stocbio])
def test_a_poisoning_trial_alone_equals_the_same_trial_in_a_pack(solver: type[Any]) -> None:
    """Float32, stable and unstable step sizes, orders of t and k that disagree: to 1e-5 of the metrics."""
    problem = DataPoisoning(dataset="digits")
    problem.setup(None, 0, CPU, torch.float32)
    configs = [
        _bsgm(
            lower_steps=t,
            system_steps=k,
            cross_batches=k,
            lower_step_size=eta,
            system_step_size=0.01,
            upper_step_size=1e4,
            batch_size=90,
        )
        for t, k, eta in ((12, 40, 0.3), (60, 7, 0.05), (25, 25, 3.0))
    ]
    rules = Rules(60_000, ONE, 1)
    packed = run_pack(problem, solver, configs, rules, CPU, torch.float32)
    for config, result in zip(configs, packed, strict=True):
        (alone,) = run_pack(problem, solver, [config], rules, CPU, torch.float32)

        assert alone.ledger == result.ledger and alone.upper_iterations == result.upper_iterations
        assert alone.metrics == pytest.approx(result.metrics, rel=1e-5)


def test_results_are_dataclasses_of_plain_values() -> None:
    (result,) = run_pack(_problem(), Bsgm, [_bsgm()], Rules(500, ONE, 0), CPU, F64)

    assert dataclasses.asdict(result)["config"]["lower_steps"] == 3
