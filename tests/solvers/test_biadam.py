"""saBiAdam and VR-saBiAdam: their rules are the paper's, transcribed literally, one trial, in NumPy; what is
left of them where a parameter takes its ends; their ledgers."""

from typing import Any

import numpy as np
import pytest
import torch

from harness.check import CPU, F64, random_config
from harness.check.solver_rules import warm_starts
from harness.errors import HarnessError
from harness.params import check_values
from harness.rules import Rules
from harness.runner import run_pack
from harness.solver import Solver
from harness.streams import generator
from problems.quadratic import Quadratic
from solvers.biadam import SaBiAdam, VrSaBiAdam
from solvers.smb import Smb
from solvers.sustain import Mrbo
from tests.solvers.literal import DIM_Y, X0, Y0, ByHand, last_state, trajectory

BOTH: list[type[Solver[Any]]] = [SaBiAdam, VrSaBiAdam]


class BiAdam(ByHand):
    """The rules of the paper; iterations are numbered from 1, as there."""

    def truncation(self, s: int) -> int:
        return int(generator(self.seed, s, "truncation").random() * self.c["system_steps"])

    def g_slope(self, k: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return self.g_y(x, y, self.rows(k - 1, "lower"))

    def h(self, k: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        s, eta = k - 1, self.c["system_step_size"]
        f_x, f_y = self.f(x, y, self.upper_rows(s))

        def product(factors: int) -> np.ndarray:
            found = np.eye(DIM_Y)
            for i in range(factors):
                found = (np.eye(DIM_Y) - eta * self.g_yy(x, y, self.rows(s, "system", i))) @ found
            return found

        if self.c["series"] == "random":
            inverse = eta * self.c["system_steps"] * product(self.truncation(s))
        else:
            inverse = eta * np.sum([product(q) for q in range(self.c["system_steps"] + 1)], axis=0)
        return np.asarray(f_x - self.g_xy(x, y, self.rows(s, "cross")) @ inverse @ f_y)

    def run(self, iterations: int, recursive: bool) -> tuple[np.ndarray, np.ndarray]:
        c, tau, rho = self.c, self.c["retention"], self.c["least_scale"]
        xs, ys = [X0], [Y0]
        u = d = np.empty(0)
        a, b = np.zeros(len(X0)), np.zeros(DIM_Y)
        for k in range(1, iterations + 1):
            x, y = xs[-1], ys[-1]
            eta_x, eta_y = 1 / k ** c["upper_decay"], 1 / k ** c["lower_decay"]
            new_u, new_d = self.g_slope(k, x, y), self.h(k, x, y)
            if k == 1:
                u, d = new_u, new_d
            elif recursive:
                kept_u, kept_d = 1 - c["momentum"] * eta_y**2, 1 - c["momentum"] * eta_x**2
                u = new_u + kept_u * (u - self.g_slope(k, xs[-2], ys[-2]))
                d = new_d + kept_d * (d - self.h(k, xs[-2], ys[-2]))
            else:
                alpha, beta = c["momentum"] * eta_y, c["momentum"] * eta_x
                u, d = alpha * new_u + (1 - alpha) * u, beta * new_d + (1 - beta) * d
            a = tau * a + (1 - tau) * new_d**2
            if c["lower_scale"] == "norm":
                b = tau * b + (1 - tau) * np.sqrt(new_u @ new_u) * np.ones(DIM_Y)
                scales = np.diag(b + rho)
            else:
                b = tau * b + (1 - tau) * new_u**2
                scales = np.diag(np.sqrt(b) + rho)
            y_hat = y - c["lower_step_size"] * np.linalg.solve(scales, u)
            x_hat = np.clip(x - c["upper_step_size"] * d / (np.sqrt(a) + rho), -2, 2)
            ys.append(y + eta_y * (y_hat - y))
            xs.append(x + eta_x * (x_hat - x))
        return xs[-1], ys[-1]


def _same(solver: type[Solver[Any]], config: dict[str, Any], seed: int) -> None:
    state = last_state(solver, [config], seed, 20)
    x, y = BiAdam(config, seed).run(20, solver is VrSaBiAdam)

    np.testing.assert_allclose(state.x[0].numpy(), x, rtol=0, atol=1e-10)
    np.testing.assert_allclose(state.y[0].numpy(), y, rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("series", ["random", "whole"])
@pytest.mark.parametrize("lower_scale", ["norm", "coordinates"])
@pytest.mark.parametrize("solver", BOTH)
def test_twenty_upper_iterations_equal_a_literal_transcription(
    solver: type[Solver[Any]], lower_scale: str, series: str, seed: int
) -> None:
    """To 1e-10; the seeds draw batches of 3 to 29 of the 23 examples."""
    _same(solver, random_config(solver, 3 * seed) | {"lower_scale": lower_scale, "series": series}, seed)


@pytest.mark.parametrize("lower_scale", ["norm", "coordinates"])
@pytest.mark.parametrize("solver", BOTH)
def test_the_same_at_the_defaults_with_steps_that_reach_the_bounds(
    solver: type[Solver[Any]], lower_scale: str
) -> None:
    """Where x moves eta of the way to a point that is projected, which is no projected step."""
    config: dict[str, Any] = {"system_steps": 4, "system_step_size": 0.3, "batch_size": 5}
    config |= {"upper_step_size": 3.0, "lower_step_size": 0.05, "least_scale": 0.1, "upper_batch_size": 4}
    config = check_values(solver, config | {"lower_scale": lower_scale}, "test")
    at_bounds = [bool((state.x.abs() > 1.9).any()) for state, _ in trajectory(solver, [config], 3, 20)]

    assert any(at_bounds)
    _same(solver, config, 3)


@pytest.mark.parametrize(("solver", "like"), [(SaBiAdam, Smb), (VrSaBiAdam, Mrbo)])
def test_scales_that_never_change_leave_the_methods_without_them(
    solver: type[Solver[Any]], like: type[Solver[Any]]
) -> None:
    """retention 1: every scale is rho. With eta 1 that is SMB, and with the decays of MRBO that is MRBO."""
    decay = {Smb: 0.0, Mrbo: 1 / 3}[like]
    config: dict[str, Any] = {"system_steps": 4, "system_step_size": 0.3, "batch_size": 5, "momentum": 0.2}
    config |= {"upper_batch_size": 4, "upper_decay": decay, "lower_decay": decay}
    plain = (
        config
        | {"upper_step_size": 0.02, "lower_step_size": 0.1}
        | ({"series": "whole"} if like is Smb else {})
    )
    scaled = config | {"retention": 1.0, "least_scale": 0.5, "series": "whole"}
    scaled |= {"upper_step_size": 0.01, "lower_step_size": 0.05}
    ours, theirs = last_state(solver, [scaled], 1, 12), last_state(like, [plain], 1, 12)

    assert float(theirs.x.abs().max()) < 2
    for name in ("x", "y", "u", "d"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=0, atol=1e-12)


@pytest.mark.parametrize("series", ["random", "whole"])
@pytest.mark.parametrize("solver", BOTH)
def test_the_ledger_by_kind(solver: type[Solver[Any]], series: str) -> None:
    """At one point, or from the second upper iteration on at two, as many factors as were drawn at both; the
    last batch of an epoch is short."""
    config = random_config(solver, 0) | {"system_steps": 9, "batch_size": 5, "upper_batch_size": 4}
    config["series"] = series
    literal, expected = BiAdam(config, 1), []
    for s in range(8):
        points = 2 if s and solver is VrSaBiAdam else 1
        factors = literal.truncation(s) if series == "random" else 9
        lower, upper, cross = literal.rows(s, "lower"), literal.upper_rows(s), literal.rows(s, "cross")
        products = sum(len(literal.rows(s, "system", i)) for i in range(factors))
        expected.append(points * np.array([len(lower), len(upper), products, len(cross), 0]))
    ledgers = np.array([ledger[0] for _, ledger in trajectory(solver, [config], 1, 8)])

    assert len({literal.truncation(s) for s in range(8)}) > 2
    np.testing.assert_array_equal(ledgers, np.cumsum(expected, 0))


@pytest.mark.parametrize("lower_scale", ["norm", "coordinates"])
@pytest.mark.parametrize("solver", BOTH)
def test_trials_of_a_pack_have_their_own_scales(solver: type[Solver[Any]], lower_scale: str) -> None:
    configs = [random_config(solver, n) | {"lower_scale": lower_scale} for n in range(3)]
    together = last_state(solver, configs, 7, 6)

    for n, config in enumerate(configs):
        for name, alone in vars(last_state(solver, [config], 7, 6)).items():
            torch.testing.assert_close(getattr(together, name)[n], alone[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("lower_scale", ["norm", "coordinates"])
@pytest.mark.parametrize("solver", BOTH)
def test_warm_starts_are_declared_whichever_scale(
    solver: type[Solver[Any]], lower_scale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(solver: type[Solver[Any]], number: int) -> dict[str, Any]:
        return random_config(solver, number) | {"lower_scale": lower_scale}

    monkeypatch.setattr("harness.check.solver_rules.random_config", config)

    assert "as declared" in warm_starts(solver)


@pytest.mark.parametrize("lower_scale", ["norm", "coordinates"])
@pytest.mark.parametrize("solver", BOTH)
def test_a_known_solution_is_found(solver: type[Solver[Any]], lower_scale: str) -> None:
    """On a deterministic quadratic, with a series that is long enough."""
    problem = Quadratic(upper_dim=6, lower_dim=5, upper_condition=3.0, lower_condition=3.0)
    problem.setup(None, 0, CPU, F64)
    config: dict[str, Any] = {"system_steps": 40, "system_step_size": 1.0, "series": "whole", "momentum": 1.0}
    config |= {"upper_step_size": 15.0, "lower_step_size": 20.0, "least_scale": 20.0, "upper_decay": 0.0}
    config |= {"lower_decay": 0.0, "lower_scale": lower_scale}
    rules = Rules(budget=12_000, prices={}, seed=0)
    (result,) = run_pack(problem, solver, [check_values(solver, config, "test")], rules, CPU, F64)

    assert result.metrics["relative_error"] < 1e-10


@pytest.mark.parametrize("solver", BOTH)
def test_a_scale_of_nothing_is_refused(solver: type[Solver[Any]]) -> None:
    """A coordinate that no gradient has reached would move by 0 / 0."""
    with pytest.raises(HarnessError, match="least_scale must be at least"):
        check_values(solver, random_config(solver, 0) | {"least_scale": 0.0}, "test")
