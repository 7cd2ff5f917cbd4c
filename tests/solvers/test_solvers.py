"""Every solver: its ledger is true, its step is pure, and its rule is the paper's, transcribed literally."""

import dataclasses
from importlib.metadata import entry_points
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.budget import KINDS, Accountant, Cost
from harness.check import CPU, F64, CountingQuadratic, audit, random_config
from harness.errors import PluginError
from harness.oracle import Oracle
from harness.params import count
from harness.rules import Rules
from harness.runner import run_pack
from harness.solver import Solver, State
from harness.streams import Streams
from solvers.alset import Alset, AlsetDagger, AlsetDaggerDet
from solvers.amigo import Amigo
from solvers.bsgm import Bsgm, BsgmDecreasing, BsgmGrowing
from solvers.stocbio import Stocbio

OURS = sorted(
    (entry.load() for entry in entry_points(group="harness.solvers") if entry.value.startswith("solvers.")),
    key=lambda solver: solver.__name__,
)


def _problem() -> CountingQuadratic:
    problem = CountingQuadratic()
    problem.setup(None, 0, CPU, F64)
    return problem


@pytest.mark.parametrize("solver", OURS)
@settings(max_examples=4, deadline=None)
@given(number=st.integers(0, 100_000), budget=st.integers(1, 1500))
def test_charged_equals_counted_and_never_exceeds_the_budget(
    solver: type[Solver[Any]], number: int, budget: int
) -> None:
    problem = _problem()
    rules = Rules(budget=budget, prices=dict.fromkeys(KINDS, 1.0), seed=number)
    (result,) = run_pack(problem, solver, [random_config(solver, number)], rules, CPU, F64)

    assert {kind: result.ledger[kind] for kind in KINDS} == problem.seen
    assert result.ledger["total"] <= budget


@pytest.mark.parametrize("solver", OURS)
def test_step_is_pure(solver: type[Solver[Any]]) -> None:
    """Two steps from one state agree bit for bit and leave the state as it was."""
    problem, configs = _problem(), [random_config(solver, n) for n in range(3)]
    settled = solver.pack(configs, CPU, F64)
    outcomes = []
    accountant = Accountant(3, 1e9, dict.fromkeys(KINDS, 1.0))
    start = problem.initial(0)
    oracle = Oracle(problem, Streams(1, 23, 11, CPU), accountant, (start[0].double(), start[1].double()))
    state = settled.init(oracle)
    before = state.at(torch.arange(3))
    for _ in range(2):
        accountant.open(oracle.live, settled.cost(oracle).table(3))
        outcomes.append(settled.step(oracle, state))
        accountant.close()

    assert all(torch.equal(getattr(before, name), getattr(state, name)) for name in vars(before))
    assert all(torch.equal(getattr(outcomes[0], name), getattr(outcomes[1], name)) for name in vars(before))


class Literal:
    """The template of Grazzi et al. in NumPy, one trial, no library of ours but the mini-batches."""

    def __init__(self, config: dict[str, Any], warm_y: bool, warm_z: bool, seed: int) -> None:
        problem = _problem()
        self.a, self.b, self.lower, self.upper = (
            v.numpy() for v in (problem._a, problem._b, problem._lower, problem._upper)
        )
        self.config, self.warm_y, self.warm_z = config, warm_y, warm_z
        self.streams = Streams(seed, 23, 11, CPU)

    def rows(self, s: int, phase: str, step: int) -> np.ndarray:
        return self.streams.rows(s, phase, step, self.config.get("batch_size")).numpy()

    def run(self, iterations: int) -> np.ndarray:
        c, x, y, z = self.config, np.full(4, 0.5), np.zeros(6), np.zeros(6)
        decay = c.get("decay", np.inf)
        for s in range(iterations):
            steps = max(1, int(np.ceil(c["growth"] * (c["horizon"] or s + 1)))) if "growth" in c else 1
            y = y if self.warm_y else np.zeros(6)
            for i in range(c.get("lower_steps", steps)):
                eta = c["lower_step_size"] * (1 if decay == np.inf else decay / (decay + i))
                y = y - eta * (self.a @ y + self.b @ x + self.lower[self.rows(s, "lower", i)].mean(0))
            f_y = y - self.upper.mean(0)
            z = z if self.warm_z else -f_y
            for i in range(c.get("system_steps", steps)):
                mu = c["system_step_size"] * (1 if decay == np.inf else decay / (decay + i + 1))
                z = z - mu * (self.a @ z + f_y)
            h = 0.1 * x + self.b.T @ z
            x = np.clip(x - c["upper_step_size"] * h, -2, 2)
        return x


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("solver", "warm_y", "warm_z"),
    [
        (Bsgm, False, False),
        (BsgmDecreasing, False, False),
        (BsgmGrowing, False, False),
        (Stocbio, True, False),
        (Amigo, True, True),
        (Alset, True, False),
        (AlsetDagger, True, True),
        (AlsetDaggerDet, True, True),
    ],
)
def test_twenty_upper_iterations_equal_a_literal_transcription(
    solver: type[Solver[Any]], warm_y: bool, warm_z: bool, seed: int
) -> None:
    """To 1e-10."""
    config = random_config(solver, seed)
    settled, problem = solver.pack([config], CPU, F64), _problem()
    accountant = Accountant(1, 1e9, dict.fromkeys(KINDS, 1.0))
    start = problem.initial(0)
    oracle = Oracle(problem, Streams(seed, 23, 11, CPU), accountant, (start[0].double(), start[1].double()))
    state = settled.init(oracle)
    for s in range(20):
        oracle.begin(s, slice(None))
        accountant.open(oracle.live, settled.cost(oracle).table(1))
        state = settled.step(oracle, state)
        accountant.close()

    np.testing.assert_allclose(
        state.x[0].numpy(), Literal(config, warm_y, warm_z, seed).run(20), rtol=0, atol=1e-10
    )


def _lying(lower: int, system: int) -> type[Solver[State]]:
    """A solver that takes one full lower gradient and declares `lower` and `system` samples."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Liar(Solver[State]):
        label, reference = "Liar", "none"
        unused: torch.Tensor = count("nothing", default=1)

        def cost(self, oracle: Oracle) -> Cost:
            return Cost(lower_gradient=lower, hessian_vector=system)

        def init(self, oracle: Oracle) -> State:
            return State(oracle.x0, oracle.y0)

        def step(self, oracle: Oracle, state: State) -> State:
            return State(
                state.x, state.y - 0.1 * oracle.lower_gradient(state.x, state.y, oracle.batch("lower"))
            )

    return Liar


@pytest.mark.parametrize(
    ("lower", "system", "words"),
    [(22, 0, "fewer lower_gradient"), (24, 0, "1 more lower"), (23, 5, "5 more hess")],
)
def test_a_wrong_declaration_is_caught(lower: int, system: int, words: str) -> None:
    with pytest.raises(PluginError, match=words):
        audit(_lying(lower, system), packs=2)


def test_an_honest_solver_passes_the_same_audit() -> None:
    assert audit(_lying(23, 0), packs=2)
