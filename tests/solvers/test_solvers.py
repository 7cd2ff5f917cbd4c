"""Every solver: its ledger is true, its step is pure, and its rule is the paper's.

The rules are transcribed literally, one trial, in NumPy, with nothing of ours but the mini-batches, on a
problem whose every derivative depends on x, on y and on the batch.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, final

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.api import Cost, Metric, Oracle, Place, Problem, Solver, State, count, generator
from harness.budget import KINDS, Accountant
from harness.check import CPU, F64, Counting, audit, random_config
from harness.errors import PluginError
from harness.meter import Meter
from harness.rules import Rules
from harness.runner import run_pack
from harness.streams import Streams
from solvers.aid import AidFp
from solvers.alset import Alset, AlsetDagger, AlsetDaggerDet
from solvers.amigo import Amigo, AmigoCg
from solvers.bsgm import Bsgm, BsgmDecreasing, BsgmGrowing, BsgmWs
from solvers.itd import Itd
from solvers.soba import Soba
from solvers.stocbio import Stocbio
from solvers.sustain import Sustain
from tests.solvers.literal import DIM_X, DIM_Y, LOWER, UPPER, X0, Y0, ByHand, crooked, last_state, trajectory

OURS: list[type[Solver[Any]]] = sorted(
    (entry.load() for entry in entry_points(group="harness.solvers") if entry.value.startswith("solvers.")),
    key=lambda solver: solver.__name__,
)


class Papers(ByHand):
    """The rules of the papers."""

    def template(self, iterations: int, warm_y: bool, warm_z: bool) -> np.ndarray:
        """Grazzi et al.'s: t lower steps, k on the system, J cross batches, each once where not counted."""
        c, x, y, z = self.c, X0, Y0, np.zeros(DIM_Y)
        gamma = c.get("decay")
        for s in range(iterations):
            once = max(1, math.ceil(c["growth"] * (c["horizon"] or s + 1))) if "growth" in c else 1
            y = y if warm_y else Y0
            for i in range(c.get("lower_steps", once)):
                eta = c["lower_step_size"] * (gamma / (gamma + i) if gamma else 1)
                y = y - eta * self.g_y(x, y, self.rows(s, "lower", i))
            f_x, f_y = self.f(x, y, self.upper_rows(s))
            z = z if warm_z else -f_y
            for i in range(c.get("system_steps", once)):
                mu = c["system_step_size"] * (gamma / (gamma + i + 1) if gamma else 1)
                z = z - mu * (self.g_yy(x, y, self.rows(s, "system", i)) @ z + f_y)
            drawn = np.concatenate([self.rows(s, "cross", j) for j in range(c.get("cross_batches", once))])
            x = self.project(x, f_x + self.g_xy(x, y, drawn) @ z)
        return x

    def aid_fp(self, iterations: int) -> np.ndarray:
        x, y, eta = X0, Y0, self.c["lower_step_size"]
        for s in range(iterations):
            y = self.descend(s, x, y)
            f_x, f_y = self.f(x, y, self.upper_rows(s))
            z = np.zeros(DIM_Y)
            for i in range(self.c["system_steps"]):
                z = (np.eye(DIM_Y) - eta * self.g_yy(x, y, self.rows(s, "system", i))) @ z - eta * f_y
            x = self.project(x, f_x + self.g_xy(x, y, self.cross_rows(s)) @ z)
        return x

    def amigo_cg(self, iterations: int) -> np.ndarray:
        x, y, z = X0, Y0, np.zeros(DIM_Y)
        for s in range(iterations):
            y = self.descend(s, x, y)
            f_x, f_y = self.f(x, y, self.upper_rows(s))
            hessian = self.g_yy(x, y, self.rows(s, "system"))
            r = -f_y - hessian @ z
            p, rr = r, r @ r
            for _ in range(self.c["system_steps"]):
                a = rr / (p @ hessian @ p)
                z, r, before = z + a * p, r - a * (hessian @ p), rr
                rr = r @ r
                p = r + rr / before * p
            x = self.project(x, f_x + self.g_xy(x, y, self.cross_rows(s)) @ z)
        return x

    def itd(self, iterations: int) -> np.ndarray:
        """Forward mode: the Jacobian of y_t by x, column by column."""
        x, y, eta = X0, Y0, self.c["lower_step_size"]
        for s in range(iterations):
            jacobian = np.zeros((DIM_Y, DIM_X))
            for i in range(self.c["lower_steps"]):
                rows = self.rows(s, "lower", i)
                slope = self.g_yy(x, y, rows) @ jacobian + self.g_xy(x, y, rows).T
                jacobian, y = jacobian - eta * slope, y - eta * self.g_y(x, y, rows)
            f_x, f_y = self.f(x, y, self.upper_rows(s))
            x = self.project(x, f_x + jacobian.T @ f_y)
        return x

    def soba(self, iterations: int) -> np.ndarray:
        x, y, z, rho = X0, Y0, np.zeros(DIM_Y), self.c["lower_step_size"]
        for s in range(iterations):
            rows = self.rows(s, "epochs")
            f_x, f_y = self.f(x, y, self.upper_rows(s))
            d_y = self.g_y(x, y, rows)
            d_z = self.g_yy(x, y, rows) @ z + f_y
            d_x = f_x + self.g_xy(x, y, rows) @ z
            here = rho * (s + 1) ** -self.c["lower_decay"]
            x = self.project(x, d_x, (s + 1) ** -self.c["upper_decay"])
            y, z = y - here * d_y, z - here * d_z
        return x

    def truncation(self, s: int) -> int:
        return int(generator(self.seed, s, "truncation").random() * self.c["system_steps"])

    def estimate(self, s: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        f_x, f_y = self.f(x, y, self.upper_rows(s))
        inverse = self.c["system_step_size"] * self.c["system_steps"] * np.eye(DIM_Y)
        for i in range(self.truncation(s)):
            hessian = self.g_yy(x, y, self.rows(s, "system", i))
            inverse = (np.eye(DIM_Y) - self.c["system_step_size"] * hessian) @ inverse
        return np.asarray(f_x - self.g_xy(x, y, self.rows(s, "cross")) @ inverse @ f_y)

    def sustain(self, iterations: int) -> np.ndarray:
        xs, ys, c = [X0], [Y0], self.c
        u = d = np.empty(0)
        for k in range(1, iterations + 1):
            s, eta = k - 1, c["momentum"] * k ** (-2 / 3)
            x, y, rows = xs[-1], ys[-1], self.rows(s, "lower")
            if k == 1:
                u, d = self.g_y(x, y, rows), self.estimate(s, x, y)
            else:
                u = self.g_y(x, y, rows) + (1 - eta) * (u - self.g_y(xs[-2], ys[-2], rows))
                d = self.estimate(s, x, y) + (1 - eta) * (d - self.estimate(s, xs[-2], ys[-2]))
            ys.append(y - c["lower_step_size"] * k ** -c["lower_decay"] * u)
            xs.append(self.project(x, d, k ** -c["upper_decay"]))
        return xs[-1]


cold = partial(Papers.template, warm_y=False, warm_z=False)
half = partial(Papers.template, warm_y=True, warm_z=False)
warm = partial(Papers.template, warm_y=True, warm_z=True)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("solver", "rule"),
    [
        (AidFp, Papers.aid_fp),
        (Alset, half),
        (AlsetDagger, warm),
        (AlsetDaggerDet, warm),
        (Amigo, warm),
        (AmigoCg, Papers.amigo_cg),
        (Bsgm, cold),
        (BsgmDecreasing, cold),
        (BsgmGrowing, cold),
        (BsgmWs, half),
        (Itd, Papers.itd),
        (Soba, Papers.soba),
        (Stocbio, half),
        (Sustain, Papers.sustain),
    ],
)
def test_twenty_upper_iterations_equal_a_literal_transcription(
    solver: type[Solver[Any]], rule: Callable[[Papers, int], np.ndarray], seed: int
) -> None:
    """To 1e-10; the seeds draw batches of 3 to 29 of the 23 examples."""
    config = random_config(solver, 3 * seed)
    state = last_state(solver, [config], seed, 20)

    np.testing.assert_allclose(state.x[0].numpy(), rule(Papers(config, seed), 20), rtol=0, atol=1e-10)


@pytest.mark.parametrize("solver", OURS)
@settings(max_examples=4, deadline=None)
@given(number=st.integers(0, 100_000), budget=st.integers(1, 1500))
def test_charged_equals_counted_and_never_exceeds_the_budget(
    solver: type[Solver[Any]], number: int, budget: int
) -> None:
    problem = Counting()
    problem.setup(None, 0, CPU, F64)
    problem.seen.clear()
    rules = Rules(budget=budget, prices=dict.fromkeys(KINDS, 1.0), seed=number)
    (result,) = run_pack(problem, solver, [random_config(solver, number)], rules, CPU, F64)

    assert {kind: result.ledger[kind] for kind in KINDS if result.ledger[kind]} == problem.seen
    assert result.ledger["total"] <= budget


@pytest.mark.parametrize("solver", OURS)
def test_the_ledger_is_true(solver: type[Solver[Any]]) -> None:
    assert audit(solver)


@pytest.mark.parametrize("solver", OURS)
@pytest.mark.parametrize("iteration", [0, 1])
def test_step_is_pure(solver: type[Solver[Any]], iteration: int) -> None:
    """Two steps from one state agree bit for bit and leave the state as it was, at the first upper
    iteration and after."""
    configs = [random_config(solver, n) for n in range(3)]
    settled, problem = solver.pack(configs, CPU, F64), crooked()
    accountant = Accountant(3, 1e9, {})
    meter = Meter(problem, Streams(1, LOWER, UPPER, CPU), accountant, problem.initial(0))
    oracle = Oracle.of(meter)
    state = settled.init(oracle)
    for s in range(iteration + 1):
        before, outcomes = state.at(torch.arange(3)), []
        meter.begin(s)
        for _ in range(2):
            accountant.open(meter.live, settled.cost(meter.place).table(3))
            outcomes.append(settled.step(oracle, state))
            accountant.close()

        for one, other in ((before, state), (outcomes[0], outcomes[1])):
            for name in vars(state):  # bit for bit; a diverged trial's nan is a nan again
                left, right = getattr(one, name), getattr(other, name)
                torch.testing.assert_close(left, right, rtol=0, atol=0, equal_nan=True)
        state = outcomes[0]


@pytest.mark.parametrize("solver", OURS)
def test_a_ragged_pack_equals_its_trials_alone(solver: type[Solver[Any]]) -> None:
    """With every count different, in an order that is neither rising nor falling."""
    configs = [random_config(solver, 9 + n % 3) for n in range(4)]
    for n, config in enumerate(configs):
        counts = {"lower_steps": (4, 9, 1, 6)[n], "system_steps": (3, 1, 8, 5)[n], "cross_batches": n + 1}
        counts |= {"batch_size": 5}
        config.update({name: counts[name] for name in counts if name in config})
    together = last_state(solver, configs, 7, 6)

    for n, config in enumerate(configs):
        alone = last_state(solver, [config], 7, 6)
        for name in vars(alone):
            torch.testing.assert_close(
                getattr(together, name)[n], getattr(alone, name)[0], rtol=1e-12, atol=1e-14, equal_nan=True
            )


def _lying(lower: int, system: int) -> type[Solver[State]]:
    """A solver that takes one full lower gradient and declares `lower` and `system` samples."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Liar(Solver[State]):
        label, reference = "Liar", "none"
        unused: Tensor = count("nothing", default=1)

        def cost(self, place: Place) -> Cost:
            return Cost(lower_gradient=lower, hessian_vector=system)

        def init(self, oracle: Oracle) -> State:
            return State(oracle.x0, oracle.y0)

        def step(self, oracle: Oracle, state: State) -> State:
            g_y = oracle.lower_gradient(state.x, state.y, oracle.lower_batch("lower"))
            return State(state.x, state.y - 0.1 * g_y)

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


def _hypergradient(state: Any, step_size: float) -> np.ndarray:
    """What the first upper iteration subtracted, far from the bounds of x."""
    return np.asarray((X0 - state.x[0].numpy()) / step_size)


@pytest.mark.parametrize("batch_size", [6, LOWER])
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_itd_equals_autograd_through_the_unrolled_steps(steps: int, batch_size: int) -> None:
    config = {"lower_steps": steps, "upper_step_size": 0.1, "lower_step_size": 0.2, "batch_size": batch_size}
    state = last_state(Itd, [config], 3, 1)
    problem, streams = crooked(), Streams(3, LOWER, UPPER, CPU)
    x, y = torch.tensor(X0, requires_grad=True), torch.tensor(Y0, requires_grad=True)
    for i in range(steps):
        loss = problem.lower_loss(x, y, streams.batch(0, "lower", "lower", i, batch_size).rows).mean()
        y = y - 0.2 * torch.autograd.grad(loss, y, create_graph=True)[0]
    (expected,) = torch.autograd.grad(problem.upper_loss(x, y, torch.arange(UPPER)).mean(), x)

    np.testing.assert_allclose(_hypergradient(state, 0.1), expected.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [DIM_Y, 500])
def test_conjugate_gradients_solve_the_batch_in_dim_y_steps_and_stay_there(steps: int) -> None:
    """Long after, when the residual is 0 and the recursion would divide 0 by 0."""
    config: dict[str, Any] = {"lower_steps": 3, "system_steps": steps, "cross_batches": 1, "batch_size": 6}
    config |= {"upper_step_size": 0.1, "lower_step_size": 0.2}
    state, literal = last_state(AmigoCg, [config], 3, 1), Papers(config, 3)
    y = literal.descend(0, X0, Y0)
    exact = np.linalg.solve(literal.g_yy(X0, y, literal.rows(0, "system")), -literal.f(X0, y, slice(None))[1])

    np.testing.assert_allclose(state.z[0].numpy(), exact, rtol=0, atol=1e-10)


@pytest.mark.parametrize("steps", [1, 4])
def test_aid_fp_is_a_truncated_series_in_the_lower_step_size(steps: int) -> None:
    """On full batches z = -eta * sum_{q < k} (I - eta H)^q d_y f."""
    config: dict[str, Any] = {
        "lower_steps": 2,
        "system_steps": steps,
        "cross_batches": 3,
        "batch_size": LOWER,
    }
    config |= {"upper_step_size": 0.1, "lower_step_size": 0.2}
    literal, full = Papers(config, 3), np.arange(LOWER)
    y = literal.descend(0, X0, Y0)
    f_x, f_y = literal.f(X0, y, slice(None))
    factor = np.eye(DIM_Y) - 0.2 * literal.g_yy(X0, y, full)
    z = -0.2 * sum(np.linalg.matrix_power(factor, q) for q in range(steps)) @ f_y

    found = _hypergradient(last_state(AidFp, [config], 3, 1), 0.1)
    np.testing.assert_allclose(found, f_x + literal.g_xy(X0, y, full) @ z, rtol=0, atol=1e-12)


def test_sustain_pays_for_one_point_at_first_and_for_two_after() -> None:
    """At the truncation drawn for that upper iteration; the last batch of an epoch is short."""
    config = random_config(Sustain, 0) | {"system_steps": 9, "batch_size": 5, "upper_batch_size": 4}
    literal, expected = Papers(config, 1), []
    for s in range(8):
        once = [
            len(rows) for rows in (literal.rows(s, "lower"), literal.upper_rows(s), literal.rows(s, "cross"))
        ]
        series = sum(len(literal.rows(s, "system", i)) for i in range(literal.truncation(s)))
        expected.append((1 if s == 0 else 2) * np.array([once[0], once[1], series, once[2], 0]))
    ledgers = np.array([ledger[0] for _, ledger in trajectory(Sustain, [config], 1, 8)])

    assert len({literal.truncation(s) for s in range(8)}) > 2
    np.testing.assert_array_equal(ledgers, np.cumsum(expected, 0))


@final
@dataclasses.dataclass(kw_only=True)
class ByExample(Problem):
    """g_i = 1/2 (1 + i / 10) |y_i|^2 - y_i^T x, f_i = 1/2 |y_i - c_i|^2, of dim 2."""

    label, reference, objective, headline = "By example", "none: made for the tests", "x0", "x0"
    metric_names = {"x0": Metric("x0", "x0"), "x1": Metric("x1", "x1")}
    by_example = True

    def setup(self, data_dir: Path | None, data_seed: int, device: torch.device, dtype: torch.dtype) -> None:
        self.dim_x, self.dim_y, self.lower_examples, self.upper_examples = 2, 2, 7, 7
        self.c = torch.tensor(generator(data_seed, "c").normal(size=(7, 2)), dtype=dtype)
        self.curvature = 1 + torch.arange(7, dtype=dtype) / 10

    def initial(self, seed: int) -> tuple[Tensor, Tensor]:
        return torch.tensor([0.5, -0.5]), torch.zeros(2)

    def lower_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        each = y.view(-1, 2)
        return 0.5 * self.curvature[rows] * (each * each).sum(1) - each @ x

    def upper_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return 0.5 * ((y.view(-1, 2) - self.c[rows]) ** 2).sum(1)

    def evaluate(self, x: Tensor, y: Tensor) -> dict[str, float]:
        return {"x0": float(x[0]), "x1": float(x[1])}


def test_bsgm_ws_starts_where_each_example_was_left() -> None:
    """Against a dictionary of y_i, over four epochs of batches of 3, 3 and 1."""
    config: dict[str, Any] = {"lower_steps": 2, "system_steps": 2, "cross_batches": 1, "batch_size": 3}
    config |= {"upper_step_size": 0.3, "lower_step_size": 0.4, "system_step_size": 0.2, "upper_batch_size": 0}
    problem, streams = ByExample(), Streams(5, 7, 7, CPU)
    problem.setup(None, 0, CPU, F64)
    budget = 4 * 7 * (2 + 2 + 1 + 1)
    rules = Rules(budget=budget, prices=dict.fromkeys(KINDS, 1.0), seed=5)
    (result,) = run_pack(problem, BsgmWs, [config], rules, CPU, F64)
    x, left = np.array([0.5, -0.5]), {i: np.zeros(2) for i in range(7)}
    for s in range(12):
        rows, h = streams.batch(s, "upper", "epochs", 0, 3).rows.tolist(), np.zeros(2)
        for i in rows:
            curvature = 1 + i / 10
            for _ in range(2):
                left[i] = left[i] - 0.4 * (curvature * left[i] - x)
            f_y = (left[i] - problem.c[i].numpy()) / len(rows)
            z = -f_y
            for _ in range(2):
                z = z - 0.2 * (curvature * z + f_y)
            h -= z
        x = x - 0.3 * h

    assert result.upper_iterations == 12
    np.testing.assert_allclose([result.metrics["x0"], result.metrics["x1"]], x, rtol=0, atol=1e-12)
