"""The first-order penalty methods and the zeroth-order one: the rules are the papers', the ledgers true."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from harness.check import audit, random_config
from harness.check.solver_rules import pure_step, warm_starts
from harness.solver import Solver
from harness.streams import generator
from solvers.bome import Bome
from solvers.f2ba import AccF2ba, F2ba
from solvers.f2sa import F2sa
from solvers.meha import Meha
from solvers.pzobo import Pzobo
from solvers.v_pbgd import VPbgd
from tests.solvers import literal
from tests.solvers.literal import DIM_X, DIM_Y, LOWER, UPPER, X0, Y0, ByHand, last_state, trajectory

FIRST_ORDER: list[type[Solver[Any]]] = [AccF2ba, Bome, F2ba, F2sa, Meha, VPbgd]
METHODS = [*FIRST_ORDER, Pzobo]
Pair = tuple[np.ndarray, np.ndarray]


class Rules(ByHand):
    """The rules of the papers, of one trial; each gives x and y after so many upper iterations."""

    def lower_rows(self, s: int, t: int) -> np.ndarray:
        return self.rows(s, "lower", t)

    def gap_x(self, x: np.ndarray, y: np.ndarray, hat: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return self.g_x(x, y, rows) - self.g_x(x, hat, rows)

    def step_of_x(self, x: np.ndarray, d: np.ndarray, size: float) -> np.ndarray:
        return np.clip(x - size * d, -2, 2)

    def f2sa(self, iterations: int) -> Pair:
        c, x, y, u = self.c, X0, Y0, Y0
        penalty = c["penalty"]
        for s in range(iterations):
            k = s + 1
            alpha = c["penalised_step_size"] * k ** -c["penalised_decay"]
            gamma = c["lower_step_size"] * k ** -c["lower_decay"]
            for t in range(c["lower_steps"]):
                f_u = self.f(x, u, self.rows(s, "penalised", t, "upper"))[1]
                u = u - alpha * (f_u + penalty * self.g_y(x, u, self.rows(s, "penalised", t)))
                y = y - gamma * self.g_y(x, y, self.lower_rows(s, t))
            one = self.g_x(x, u, self.rows(s, "cross"))
            two = self.g_x(x, y, self.rows(s, "cross" if c["cross_batch"] == "shared" else "cross_hat"))
            h = self.f(x, u, self.upper_rows(s))[0] + penalty * (one - two)
            x = self.step_of_x(x, h, c["upper_step_size"] * k ** -c["upper_decay"])
            penalty = penalty + c["penalty_growth"] * c["penalty"] * k ** -c["penalty_decay"]
        return x, y

    def both(self, s: int, x: np.ndarray, y: np.ndarray) -> Pair:
        """F2BA's hypergradient at x, and the new y."""
        hat, eta, penalty = y, self.c["lower_step_size"], self.c["penalty"]
        for t in range(self.c["lower_steps"]):
            rows = self.lower_rows(s, t)
            f_y = self.f(x, y, self.rows(s, "lower", t, "upper"))[1]
            y, hat = (
                y - eta * (f_y / penalty + self.g_y(x, y, rows)),
                hat - eta * self.g_y(x, hat, rows),
            )
        f_x = self.f(x, y, self.upper_rows(s))[0]
        return f_x + penalty * self.gap_x(x, y, hat, self.rows(s, "cross")), y

    def f2ba(self, iterations: int) -> Pair:
        x, y = X0, Y0
        for s in range(iterations):
            h, y = self.both(s, x, y)
            x = self.step_of_x(x, h, self.c["upper_step_size"])
        return x, y

    def acc_f2ba(self, iterations: int) -> Pair:
        """Restarts as the list of the points since the last one."""
        c, y, path, bound = self.c, Y0, [X0], self.c["restart_distance"]
        for s in range(iterations):
            x = path[-1]
            w = np.clip(x + c["momentum"] * (x - path[-2]), -2, 2) if len(path) > 1 else x
            h, y = self.both(s, w, y)
            path.append(self.step_of_x(w, h, c["upper_step_size"]))
            moved = sum(float((one - two) @ (one - two)) for one, two in zip(path, path[1:], strict=False))
            if (len(path) - 1) * moved > max(bound, c["least_distance"]) ** 2:
                path, bound = path[-1:], c["restart_shrink"] * bound
        return path[-1], y

    def bome(self, iterations: int) -> Pair:
        c, x, y = self.c, X0, Y0
        for s in range(iterations):
            hat, rows = self.descend(s, x, y), self.rows(s, "epochs")
            f_x, f_y = self.f(x, y, self.upper_rows(s))
            f = np.concatenate([f_x, f_y])
            q = np.concatenate([self.gap_x(x, y, hat, rows), self.g_y(x, y, rows)])
            phi = c["control"] * (q @ q)
            if c["target"] == "value":
                phi = c["control"] * (self.g(x, y, rows) - self.g(x, hat, rows))
            d = f + max(phi - f @ q, 0) / (q @ q) * q
            x, y = (
                self.step_of_x(x, d[:DIM_X], c["upper_step_size"]),
                y - c["penalised_step_size"] * d[DIM_X:],
            )
        return x, y

    def v_pbgd(self, iterations: int) -> Pair:
        c, x, y, hat = self.c, X0, Y0, Y0
        step = (c["penalty"] - c["first_penalty"]) / c["horizon"]
        for s in range(iterations):
            penalty = c["first_penalty"] + min(s, c["horizon"]) * step
            hat, rows = self.descend(s, x, hat), self.rows(s, "epochs")
            f_x, f_y = self.f(x, y, self.upper_rows(s))
            h = f_x + penalty * self.gap_x(x, y, hat, rows)
            slope = f_y + penalty * self.g_y(x, y, rows)
            scale = max(penalty, 1)
            x = self.step_of_x(x, h, c["upper_step_size"] / scale)
            y = y - c["penalised_step_size"] / scale * slope
        return x, y

    def meha(self, iterations: int) -> Pair:
        c, x, y, theta = self.c, X0, Y0, Y0
        for s in range(iterations):
            penalty, rows = c["penalty"] * (s + 1) ** c["penalty_exponent"], self.rows(s, "epochs")
            slope = self.g_y(x, theta, rows) + c["proximal"] * (theta - y)
            theta = theta - c["lower_step_size"] * slope
            f_y = self.f(x, y, self.upper_rows(s))[1]
            slope = f_y / penalty + self.g_y(x, y, rows) - c["proximal"] * (y - theta)
            y = y - c["penalised_step_size"] * slope
            f_x = self.f(x, y, self.upper_rows(s))[0]
            x = self.step_of_x(x, f_x / penalty + self.gap_x(x, y, theta, rows), c["upper_step_size"])
        return x, y

    def pzobo(self, iterations: int) -> Pair:
        c, x, y = self.c, X0, Y0
        for s in range(iterations):
            new = self.descend(s, x, y)
            f_x, f_y = self.f(x, new, self.upper_rows(s))
            terms = []
            for i in range(c["directions"]):
                u = generator(self.seed, s, "direction", i).standard_normal(DIM_X)
                terms.append(u * ((self.descend(s, x + c["smoothing"] * u, y) - new) @ f_y) / c["smoothing"])
            x, y = self.step_of_x(x, f_x + np.mean(terms, 0), c["upper_step_size"]), new
        return x, y


RULES: dict[type[Solver[Any]], Callable[[Rules, int], Pair]] = {
    AccF2ba: Rules.acc_f2ba,
    Bome: Rules.bome,
    F2ba: Rules.f2ba,
    F2sa: Rules.f2sa,
    Meha: Rules.meha,
    VPbgd: Rules.v_pbgd,
    Pzobo: Rules.pzobo,
}


def config_of(solver: type[Solver[Any]], number: int) -> dict[str, Any]:
    """Random; a penalty that divides is above 1."""
    config = random_config(solver, number)
    if solver in (AccF2ba, F2ba, Meha, VPbgd):
        config["penalty"] = 1 / config["penalty"]
    return config


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("solver", METHODS)
def test_twenty_upper_iterations_equal_a_literal_transcription(solver: type[Solver[Any]], seed: int) -> None:
    """To 1e-10; the seeds draw batches of 0, all, to 29 of the 23 lower and 11 upper examples."""
    config = config_of(solver, 3 * seed)
    state = last_state(solver, [config], seed, 20)
    x, y = RULES[solver](Rules(config, seed), 20)

    np.testing.assert_allclose(state.x[0].numpy(), x, rtol=0, atol=1e-10)
    np.testing.assert_allclose(state.y[0].numpy(), y, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("solver", METHODS)
def test_the_ledger_is_true_and_the_step_is_pure(solver: type[Solver[Any]]) -> None:
    assert audit(solver, packs=2) and pure_step(solver) and warm_starts(solver)


@pytest.mark.parametrize("solver", FIRST_ORDER)
def test_first_order_methods_use_gradients_only(solver: type[Solver[Any]]) -> None:
    """In the ledger: no Hessian-vector and no cross product; values where BOME's control asks for them."""
    configs = [config_of(solver, 0), config_of(solver, 0)]
    if solver is Bome:
        configs[0]["target"], configs[1]["target"] = "norm", "value"
    for config in configs:
        *_, (_, ledger) = trajectory(solver, [config], 3, 4)
        lower, upper, hessian_vector, cross, value = ledger[0]

        assert lower and upper and not hessian_vector and not cross
        assert bool(value) == (config.get("target") == "value")


@pytest.mark.parametrize("solver", METHODS)
def test_the_cost_is_the_one_of_the_docstring(solver: type[Solver[Any]]) -> None:
    """On full batches."""
    config = config_of(solver, 1) | {"batch_size": LOWER, "upper_batch_size": 0, "lower_steps": 3}
    if solver is Meha:
        del config["lower_steps"]
    lower, upper = {
        AccF2ba: (8, 4),
        Bome: (5, 1),
        F2ba: (8, 4),
        F2sa: (8, 4),
        Meha: (4, 2),
        VPbgd: (5, 1),
        Pzobo: (3 * (1 + config.get("directions", 0)), 1),
    }[solver]
    *_, (_, ledger) = trajectory(solver, [config], 0, 2)

    assert ledger[0].tolist()[:2] == [2 * lower * LOWER, 2 * upper * UPPER]


@pytest.mark.parametrize("solver", METHODS)
def test_a_ragged_pack_equals_its_trials_alone(solver: type[Solver[Any]]) -> None:
    """With every count and every real number different."""
    common = {name: config_of(solver, 9)[name] for name in _common(solver)} | {"batch_size": 5}
    configs = [config_of(solver, 10 + n) | common for n in range(4)]
    for n, config in enumerate(configs):
        counts = {"lower_steps": (4, 9, 1, 6)[n], "horizon": (3, 1, 8, 5)[n]}
        config.update({name: counts[name] for name in counts if name in config})
    together = last_state(solver, configs, 7, 6)

    for n, config in enumerate(configs):
        alone = last_state(solver, [config], 7, 6)
        for name in vars(alone):
            torch.testing.assert_close(
                getattr(together, name)[n], getattr(alone, name)[0], rtol=1e-11, atol=1e-13
            )


def _common(solver: type[Solver[Any]]) -> list[str]:
    fields = dataclasses.fields(solver)
    return [f.name for f in fields if f.metadata["parameter"].common]


# --- what is special


def test_f2sa_penalty_grows_as_the_paper_says_or_as_the_benchmark_does() -> None:
    """lambda_0 k^(1/7) up to a constant; and lambda_0 + 0.1 * sum of j^(-1/7), of order k^(6/7)."""
    base = config_of(F2sa, 2) | {"penalty": 2.0, "lower_steps": 1, "penalty_growth": 1 / 7}
    paper = [s.penalty.item() for s, _ in trajectory(F2sa, [base | {"penalty_decay": 6 / 7}], 0, 60)]
    theirs = base | {"penalty": 1.0, "penalty_growth": 0.1, "penalty_decay": 1 / 7}
    bench = [s.penalty.item() for s, _ in trajectory(F2sa, [theirs], 0, 60)]

    assert paper[-1] / 2 == pytest.approx(1 + sum((j + 1) ** (-6 / 7) for j in range(60)) / 7)
    assert abs(paper[-1] / 2 - 61 ** (1 / 7)) < 0.15
    assert bench[-1] == pytest.approx(1 + 0.1 * sum((j + 1) ** (-1 / 7) for j in range(60)))


def test_acc_f2ba_without_momentum_is_f2ba() -> None:
    config = config_of(AccF2ba, 4)
    plain = {name: config[name] for name in config_of(F2ba, 4)}
    one = last_state(AccF2ba, [config | {"momentum": 0.0}], 1, 8)
    two = last_state(F2ba, [plain], 1, 8)

    assert torch.equal(one.x, two.x) and torch.equal(one.y, two.y)


def test_bome_has_no_penalty_where_the_lower_level_is_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the gap's gradient is 0, the quotient undefined, and f's gradient is what is left."""
    flat, solved = literal.crooked(), torch.zeros(DIM_Y, dtype=torch.float64)
    flat.b.zero_()
    flat.lower.zero_()
    monkeypatch.setattr(flat, "initial", lambda seed: (torch.tensor(X0), solved))
    monkeypatch.setattr(literal, "crooked", lambda: flat)
    config = config_of(Bome, 0) | {"upper_batch_size": 0}
    state = last_state(Bome, [config], 0, 1)
    f_x, f_y = Rules(config, 0).f(X0, solved.numpy(), slice(None))

    np.testing.assert_allclose(state.x[0].numpy(), X0 - config["upper_step_size"] * f_x, rtol=1e-14)
    np.testing.assert_allclose(state.y[0].numpy(), -config["penalised_step_size"] * f_y, rtol=1e-14)


def test_the_variance_of_pzobo_falls_with_its_directions() -> None:
    """Like 1 / Q, of the first direction over seeds."""
    config = config_of(Pzobo, 0) | {"batch_size": 0, "upper_batch_size": 0, "lower_steps": 2}
    config |= {"smoothing": 0.01, "upper_step_size": 0.01, "lower_step_size": 0.2}

    def spread(number: int) -> float:
        found = [last_state(Pzobo, [config | {"directions": number}], seed, 1).x[0] for seed in range(150)]
        return float(torch.stack(found).var(0).sum())

    assert spread(6) * 6 == pytest.approx(spread(1), rel=0.35)
