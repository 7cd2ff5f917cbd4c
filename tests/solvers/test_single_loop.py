"""SOBA's relatives, and random search: their rules literally, and what is special about each."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from harness.budget import Accountant
from harness.check import CPU, F64, random_config
from harness.meter import Meter
from harness.oracle import Oracle
from harness.params import check_values, parameters
from harness.place import first_place
from harness.rules import Rules
from harness.runner import run_pack
from harness.solver import Solver
from harness.streams import Streams, generator
from problems.quadratic import Quadratic
from solvers.bo_rep import BoRep
from solvers.random_x import RandomX
from solvers.s_tfbo import STfbo
from solvers.saba import Saba
from solvers.soba import MaSoba, Soba
from solvers.srba import Spaba, Srba, Srmba
from tests.solvers.literal import DIM_X, DIM_Y, LOWER, UPPER, X0, Y0, ByHand, crooked, last_state, trajectory

Three = tuple[np.ndarray, np.ndarray, np.ndarray]
FULL = np.arange(LOWER), np.arange(UPPER)


class SingleLoops(ByHand):
    """The rules of the papers."""

    def directions(self, x: np.ndarray, y: np.ndarray, z: np.ndarray, rows: Any, upper_rows: Any) -> Three:
        f_x, f_y = self.f(x, y, upper_rows)
        d_z = self.g_yy(x, y, rows) @ z + f_y
        return self.g_y(x, y, rows), d_z, f_x + self.g_xy(x, y, rows) @ z

    def ma_soba(self, iterations: int) -> np.ndarray:
        x, y, z, c = X0, Y0, np.zeros(DIM_Y), self.c
        averages: list[np.ndarray] = []
        for k in range(1, iterations + 1):
            rows, upper_rows = self.rows(k - 1, "epochs"), self.upper_rows(k - 1)
            d_y, d_z, d_x = self.directions(x, y, z, rows, upper_rows)
            first = not averages
            averages.append(
                d_x if first else (1 - c["momentum"]) * averages[-1] + c["momentum"] * d_x,
            )
            eta = c["lower_step_size"] * k ** -c["lower_decay"]
            x = self.project(x, averages[-1], k ** -c["upper_decay"])
            y, z = y - eta * d_y, z - eta * d_z
        return x

    def saba(self, iterations: int) -> np.ndarray:
        """Tables by the set of examples; averages are computed anew from the tables."""
        x, y, z, eta = X0, Y0, np.zeros(DIM_Y), self.c["lower_step_size"]
        tables: list[dict[tuple[int, ...], np.ndarray]] = [{} for _ in range(5)]
        for s in range(iterations):
            rows, upper_rows = self.rows(s, "partition"), self.upper_rows(s, "partition")
            f_x, f_y = self.f(x, y, upper_rows)
            h_z, c_z = self.g_yy(x, y, rows) @ z, self.g_xy(x, y, rows) @ z
            news = [self.g_y(x, y, rows), h_z, c_z, f_y, f_x]
            d = []
            for number, (table, new) in enumerate(zip(tables, news, strict=True)):
                of, examples = (rows, LOWER) if number < 3 else (upper_rows, UPPER)
                average = sum((len(met) / examples * old for met, old in table.items()), np.zeros_like(new))
                d.append(new - table.get(tuple(of), np.zeros_like(new)) + average)
                table[tuple(of)] = new
            x = self.project(x, d[4] + d[2])
            y, z = y - eta * d[0], z - eta * (d[1] + d[3])
        return x

    def refreshed(self, iterations: int, full: Callable[[int], bool], clip: float) -> np.ndarray:
        points, d = [(X0, Y0, np.zeros(DIM_Y))], (np.zeros(DIM_Y), np.zeros(DIM_Y), np.zeros(DIM_X))
        for s in range(iterations):
            x, y, z = points[-1]
            if full(s):
                d = self.directions(x, y, z, *FULL)
            else:
                rows, upper_rows = self.rows(s, "epochs"), self.upper_rows(s)
                new = self.directions(x, y, z, rows, upper_rows)
                old = self.directions(*points[-2], rows, upper_rows)
                d = (d[0] + new[0] - old[0], d[1] + new[1] - old[1], d[2] + new[2] - old[2])
            y, z = y - self.c["lower_step_size"] * d[0], z - self.c["lower_step_size"] * d[1]
            points.append((self.project(x, d[2]), y, np.clip(z, -clip, clip)))
        return points[-1][0]

    def srba(self, iterations: int) -> np.ndarray:
        return self.refreshed(iterations, lambda s: s % self.c["period"] == 0, np.inf)

    def tossed(self, s: int) -> bool:
        return s == 0 or generator(self.seed, s, "full").random() < self.c["probability"]

    def spaba(self, iterations: int) -> np.ndarray:
        return self.refreshed(iterations, self.tossed, self.c["clip"])

    def srmba(self, iterations: int) -> np.ndarray:
        points, c = [(X0, Y0, np.zeros(DIM_Y))], self.c
        d: list[np.ndarray] = []
        for k in range(1, iterations + 1):
            rows, upper_rows = self.rows(k - 1, "epochs"), self.upper_rows(k - 1)
            new = self.directions(*points[-1], rows, upper_rows)
            if k == 1:
                d = list(new)
            else:
                old = self.directions(*points[-2], rows, upper_rows)
                names = ("lower_momentum", "system_momentum", "upper_momentum")
                for i, name in enumerate(names):
                    w = min(1, c[name] * k ** (-2 / 3))
                    d[i] = (1 - w) * (d[i] + new[i] - old[i]) + w * new[i]
            x, y, z = points[-1]
            eta = c["lower_step_size"] * k ** -c["lower_decay"]
            points.append((self.project(x, d[2], k ** -c["upper_decay"]), y - eta * d[0], z - eta * d[1]))
        return points[-1][0]

    def s_tfbo(self, iterations: int) -> np.ndarray:
        x, y, z, eta = X0, Y0, np.zeros(DIM_Y), self.c["lower_step_size"]
        a2 = b2 = c2 = self.c["initial_norm"] ** 2
        for s in range(iterations):
            d_y, d_z, d_x = self.directions(x, y, z, self.rows(s, "epochs"), self.upper_rows(s))
            a2, b2, c2 = a2 + d_x @ d_x, b2 + d_y @ d_y, c2 + d_z @ d_z
            a, b, e = np.sqrt(a2), np.sqrt(b2), np.sqrt(max(b2, c2))
            x = self.project(x, d_x / (a * e + 1e-8))
            y, z = y - eta * d_y / (b + 1e-8), z - eta * d_z / (e + 1e-8)
        return x

    def bo_rep(self, iterations: int) -> np.ndarray:
        x, y, z, c = X0, Y0, np.zeros(DIM_Y), self.c
        q = np.zeros(DIM_X)
        for s in range(iterations):
            f_x, f_y = self.f(x, y, self.upper_rows(s))
            d_z = self.g_yy(x, y, self.rows(s, "system")) @ z + f_y
            d_x = f_x + self.g_xy(x, y, self.rows(s, "cross")) @ z
            q = (1 - c["momentum"]) * q + c["momentum"] * d_x if s else d_x
            if s % c["period"] == 0:
                y = self.descend(s, x, y)
            z = z - c["system_step_size"] * d_z
            x = self.project(x, q / (np.linalg.norm(q) + 1e-10))
        return x

    def random_x(self, iterations: int) -> np.ndarray:
        """The least of a list."""
        tried = [X0]
        for s in range(iterations):
            sigma = 10 ** (-self.c["decades"] * generator(self.seed, s, "scale").random())
            tried.append(self.project(X0, -generator(self.seed, s, "x", 0).standard_normal(DIM_X), sigma))
        ends = [self.descend(max(0, n - 1), x, Y0) for n, x in enumerate(tried)]
        values = [self.f_value(x, y, slice(None)) for x, y in zip(tried, ends, strict=True)]
        return tried[int(np.argmin(values))]


RULES: dict[type[Solver[Any]], Callable[[SingleLoops, int], np.ndarray]] = {
    MaSoba: SingleLoops.ma_soba,
    Saba: SingleLoops.saba,
    Srba: SingleLoops.srba,
    Spaba: SingleLoops.spaba,
    Srmba: SingleLoops.srmba,
    STfbo: SingleLoops.s_tfbo,
    BoRep: SingleLoops.bo_rep,
    RandomX: SingleLoops.random_x,
}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("solver", RULES)
def test_twenty_upper_iterations_equal_a_literal_transcription(solver: type[Solver[Any]], seed: int) -> None:
    """To 1e-10."""
    config = random_config(solver, 3 * seed)
    state = last_state(solver, [config], seed, 20)

    expected = RULES[solver](SingleLoops(config, seed), 20)
    np.testing.assert_allclose(state.x[0].numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("solver", RULES)
def test_a_ragged_pack_equals_its_trials_alone(solver: type[Solver[Any]]) -> None:
    """With every count different, in an order that is neither rising nor falling, and full batches at
    different upper iterations."""
    configs = [random_config(solver, 9) | {"batch_size": 5} for _ in range(4)]
    own: dict[str, tuple[float, ...]] = {
        "lower_steps": (4, 9, 1, 6),
        "period": (2, 5, 1, 3),
        "probability": (0.5, 0.9, 0.01, 0.3),
        "upper_step_size": (0.1, 0.4, 0.2, 0.3),
    }
    for n, config in enumerate(configs):
        config.update({name: values[n] for name, values in own.items() if name in config})
    together = last_state(solver, configs, 7, 6)

    for n, config in enumerate(configs):
        alone = last_state(solver, [config], 7, 6)
        for name in vars(alone):
            torch.testing.assert_close(
                getattr(together, name)[n], getattr(alone, name)[0], rtol=1e-12, atol=1e-14
            )


@pytest.mark.parametrize("solver", RULES)
def test_what_a_trial_holds_is_two_states_and_its_tables(solver: type[Solver[Any]]) -> None:
    config = random_config(solver, 0) | {"batch_size": 5}
    config.update({"upper_batch_size": 4} if "upper_batch_size" in config else {})
    settled, state = solver.pack([config], CPU, F64), last_state(solver, [config], 7, 2)
    place = first_place(crooked(), 7, None)
    held = settled.held(place)

    for width, said in ((DIM_X, held.x), (DIM_Y, held.y)):
        names = [name for name, value in vars(state).items() if value.shape[1] == width]
        tables = sum(
            place.parts(level, settled.size_of(level))
            for name, level in solver.tables.items()
            if name in names
        )
        assert 2 * len(names) + tables <= said <= 2 * len(names) + tables + 4


# --- the cost of an upper iteration that is not like the others


def _costs(solver: type[Solver[Any]], config: dict[str, Any]) -> list[list[int]]:
    """By kind, of six upper iterations."""
    ledgers = np.array([ledger[0] for _, ledger in trajectory(solver, [config], 1, 6)])
    return np.diff(ledgers, axis=0, prepend=0).tolist()


COMMON: dict[str, Any] = {"upper_step_size": 0.1, "lower_step_size": 0.1, "batch_size": 5}


def test_srba_pays_for_all_examples_at_its_period_and_for_two_points_in_between() -> None:
    full, twice = [LOWER, UPPER, LOWER, LOWER, 0], [10, 8, 10, 10, 0]
    short = [10, 6, 10, 10, 0], [6, 8, 6, 6, 0]  # the last batches of an epoch are short
    costs = _costs(Srba, COMMON | {"upper_batch_size": 4, "period": 3})

    assert costs == [full, twice, short[0], full, short[1], [10, 6, 10, 10, 0]]


def test_srmba_pays_for_one_point_at_first_and_for_two_after() -> None:
    costs = _costs(Srmba, COMMON | {"upper_batch_size": 0})

    assert costs[:2] == [[5, UPPER, 5, 5, 0], [10, 2 * UPPER, 10, 10, 0]]


def test_bo_rep_pays_for_y_where_it_moves() -> None:
    more = {"upper_batch_size": 0, "lower_steps": 2, "period": 3, "system_step_size": 0.1}
    costs = _costs(BoRep, COMMON | more)

    assert [cost[0] for cost in costs] == [10, 0, 0, 10, 0, 0]
    assert all(cost[1:] == [UPPER, 5, 5, 0] for cost in costs)


def test_random_x_pays_for_x0_too_at_first() -> None:
    costs = _costs(RandomX, COMMON | {"lower_steps": 2, "decades": 3.0})

    assert costs == [[20, 0, 0, 0, 2 * UPPER], *[[10, 0, 0, 0, UPPER]] * 5]


# --- where one method is another


def _agree(
    one: type[Solver[Any]], own: dict[str, Any], other: type[Solver[Any]], its: dict[str, Any]
) -> None:
    shared = {"upper_batch_size": 4} | COMMON
    left, right = (
        last_state(method, [check_values(method, shared | config, "test")], 3, 12)
        for method, config in ((one, own), (other, its))
    )
    for name in ("x", "y", "z"):
        torch.testing.assert_close(getattr(left, name), getattr(right, name), rtol=0, atol=1e-12)


FALLING = {"upper_decay": 1 / 3, "lower_decay": 1 / 3}
ALL = {"batch_size": LOWER, "upper_batch_size": UPPER}


@pytest.mark.parametrize(
    ("one", "own", "other", "its"),
    [
        (MaSoba, {"momentum": 1.0}, Soba, {}),
        (Saba, ALL, Soba, ALL),
        (Srba, {"period": 1}, Soba, ALL),
        (Srba, ALL | {"period": 5}, Soba, ALL),
        (Spaba, {"probability": 0.0, "clip": 1e6}, Srba, {"period": 100}),
        (Spaba, {"probability": 1.0, "clip": 1e6}, Soba, ALL),
        (Srmba, dict.fromkeys(("upper_momentum", "system_momentum"), 9.0), Soba, FALLING),
    ],
)
def test_one_method_is_another_where_their_difference_is_nil(
    one: type[Solver[Any]], own: dict[str, Any], other: type[Solver[Any]], its: dict[str, Any]
) -> None:
    """Batches of all examples, no averaging, a full batch always or at first only, weights of 1."""
    _agree(one, own, other, its)


# --- what is special


@pytest.mark.parametrize("solver", [MaSoba, Saba, Srba, Spaba, Srmba, BoRep])
def test_a_system_step_that_overflows_is_not_taken_and_noted(solver: type[Solver[Any]]) -> None:
    config = COMMON | {"lower_step_size": 1e300, "system_step_size": 1e300, "clip": 1e12}
    config |= {"lower_steps": 1, "period": 1}
    config = {name: value for name, value in config.items() if name in parameters(solver)}
    settled, problem = solver.pack([check_values(solver, config, "test")], CPU, F64), crooked()
    accountant = Accountant(1, 1e9, {})
    meter = Meter(problem, Streams(1, LOWER, UPPER, CPU), accountant, problem.initial(0), 5)
    oracle = Oracle.of(meter)
    large = torch.full((1, DIM_Y), 1e10, dtype=F64)
    accountant.open(meter.live, settled.cost(meter.place).table(1))
    stepped = settled.step(oracle, dataclasses.replace(settled.init(oracle), z=large))

    assert torch.equal(stepped.z, large)
    assert meter.system_failed is not None and meter.system_failed.tolist() == [True]


def test_random_x_keeps_the_least_f_and_the_y_that_gave_it() -> None:
    config = COMMON | {"lower_steps": 3, "decades": 1.0, "upper_step_size": 1.0}
    literal, bests = SingleLoops(config, 2), []
    for state, _ in trajectory(RandomX, [config], 2, 30):
        bests.append(float(state.best))
        assert bests[-1] == pytest.approx(
            literal.f_value(state.x[0].numpy(), state.y[0].numpy(), slice(None)), abs=1e-12
        )

    assert bests == sorted(bests, reverse=True) and len(set(bests)) > 2


def test_random_x_takes_no_point_whose_lower_steps_diverge() -> None:
    config = COMMON | {"lower_steps": 9, "decades": 1.0, "lower_step_size": 1e6}
    state = last_state(RandomX, [config], 2, 3)

    np.testing.assert_array_equal(state.x[0].numpy(), X0)
    assert torch.isinf(state.best).all()


@pytest.mark.parametrize(
    ("solver", "more", "exact"),
    [
        (Soba, {}, False),
        (Saba, {}, True),
        (Srba, {"period": 8}, True),
        (Spaba, {"clip": 1e3}, True),
    ],
)
def test_variance_reduction_reaches_the_solution_with_constant_steps_where_soba_stalls(
    solver: type[Solver[Any]], more: dict[str, Any], exact: bool
) -> None:
    problem = Quadratic(samples=256, noise=0.5, upper_dim=10, lower_dim=20, lower_condition=10)
    problem.setup(None, 0, CPU, F64)
    config = more | {"upper_step_size": 0.3, "lower_step_size": 0.8, "batch_size": 32, "upper_batch_size": 32}
    rules = Rules(4e5, {}, 0, curves=0)
    (result,) = run_pack(problem, solver, [check_values(solver, config, "test")], rules, CPU, F64)

    assert result.metrics["gradient"] < 1e-10 if exact else result.metrics["gradient"] > 1e-3
