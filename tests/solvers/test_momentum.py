"""Methods whose directions remember the upper iterations before: their rules are the papers', transcribed
literally, one trial, in NumPy; their ledgers are true and their steps pure, in packs as alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from harness.check import audit, random_config
from harness.check.solver_rules import pure_step, warm_starts
from harness.errors import PluginError
from harness.solver import Solver
from harness.streams import generator
from solvers.fsla import Fsla
from solvers.smb import Smb
from solvers.stable import Stable, StableVr
from solvers.sustain import Mrbo
from solvers.vrbo import Vrbo
from tests.solvers.literal import DIM_Y, LOWER, UPPER, X0, Y0, ByHand, last_state, trajectory

MOMENTUM: list[type[Solver[Any]]] = [Fsla, Mrbo, Smb, Stable, StableVr, Vrbo]


class Momentum(ByHand):
    """The rules of the papers."""

    def fsla(self, iterations: int) -> np.ndarray:
        xs, ys, zs, c = [X0], [Y0], [np.zeros(DIM_Y)], self.c

        def h(s: int, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
            f_x, _ = self.f(x, y, self.upper_rows(s))
            return np.asarray(f_x + self.g_xy(x, y, self.rows(s, "cross")) @ z)

        d = np.empty(0)
        for k in range(1, iterations + 1):
            s, x, y, z = k - 1, xs[-1], ys[-1], zs[-1]
            y = y - c["lower_step_size"] * k ** -c["lower_decay"] * self.g_y(x, y, self.rows(s, "lower"))
            slope = (
                self.g_yy(x, y, self.rows(s, "system")) @ z + self.f(x, y, self.upper_rows(s, "system"))[1]
            )
            z = z - c["system_step_size"] * k ** -c["system_decay"] * slope
            kept = 1 - c["momentum"] / np.sqrt(k)
            d = h(s, x, y, z) + (0 if k == 1 else kept * (d - h(s, xs[-2], ys[-1], zs[-1])))
            xs.append(self.project(x, d, k ** -c["upper_decay"]))
            ys.append(y)
            zs.append(z)
        return xs[-1]

    def h_series(self, s: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """A hypergradient with all of the Neumann series' terms, matrix by matrix."""
        f_x, f_y = self.f(x, y, self.upper_rows(s))
        factors = [
            np.eye(DIM_Y) - self.c["system_step_size"] * self.g_yy(x, y, self.rows(s, "system", i))
            for i in range(self.c["system_steps"])
        ]
        inverse, product = np.eye(DIM_Y), np.eye(DIM_Y)
        for factor in factors:
            product = factor @ product
            inverse = inverse + product
        z = -self.c["system_step_size"] * inverse @ f_y
        return np.asarray(f_x + self.g_xy(x, y, self.rows(s, "cross")) @ z)

    def h_random(self, s: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """A hypergradient with one of the Neumann series' terms, N times as large."""
        f_x, f_y = self.f(x, y, self.upper_rows(s))
        z = -self.c["system_step_size"] * self.c["system_steps"] * f_y
        for i in range(int(generator(self.seed, s, "truncation").random() * self.c["system_steps"])):
            z = z - self.c["system_step_size"] * self.g_yy(x, y, self.rows(s, "system", i)) @ z
        return np.asarray(f_x + self.g_xy(x, y, self.rows(s, "cross")) @ z)

    def mrbo(self, iterations: int) -> np.ndarray:
        xs, ys, c = [X0], [Y0], self.c
        for k in range(1, iterations + 1):
            s, x, y = k - 1, xs[-1], ys[-1]
            rows, kept = self.rows(s, "lower"), 1 - c["momentum"] / k ** (2 / 3)
            if k == 1:
                u, d = self.g_y(x, y, rows), self.h_series(s, x, y)
            else:
                u = self.g_y(x, y, rows) + kept * (u - self.g_y(xs[-2], ys[-2], rows))
                d = self.h_series(s, x, y) + kept * (d - self.h_series(s, xs[-2], ys[-2]))
            ys.append(y - c["lower_step_size"] * k ** -c["lower_decay"] * u)
            xs.append(self.project(x, d, k ** -c["upper_decay"]))
        return xs[-1]

    def smb(self, iterations: int) -> np.ndarray:
        x, y, c = X0, Y0, self.c
        u = d = np.empty(0)
        h = {"random": self.h_random, "whole": self.h_series}[c["series"]]
        for s in range(iterations):
            g_y, slope, a = self.g_y(x, y, self.rows(s, "lower")), h(s, x, y), c["momentum"]
            u, d = (g_y, slope) if s == 0 else ((1 - a) * u + a * g_y, (1 - a) * d + a * slope)
            y = y - c["lower_step_size"] * (s + 1) ** -c["lower_decay"] * u
            x = self.project(x, d, (s + 1) ** -c["upper_decay"])
        return x

    def definite(self, matrix: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh(matrix)
        return np.asarray(vectors @ np.diag(np.maximum(values, self.c["least_curvature"])) @ vectors.T)

    def stable(self, iterations: int) -> np.ndarray:
        xs, ys, c = [X0], [Y0], self.c
        cross = hessian = np.empty(0)
        for s in range(iterations):
            x, y, rows = xs[-1], ys[-1], self.rows(s, "epochs")
            new_cross, new_hessian = self.g_xy(x, y, rows), self.g_yy(x, y, rows)
            if s == 0:
                cross, hessian = new_cross, new_hessian
            else:
                cross = (1 - c["momentum"]) * (cross - self.g_xy(xs[-2], ys[-2], rows)) + new_cross
                hessian = (1 - c["momentum"]) * (hessian - self.g_yy(xs[-2], ys[-2], rows)) + new_hessian
            cross = cross * min(1, c["cross_bound"] / np.linalg.norm(cross))
            hessian = self.definite(hessian)
            f_x, f_y = self.f(x, y, self.upper_rows(s))
            d = f_x - cross @ np.linalg.solve(hessian, f_y)
            xs.append(self.project(x, d, (s + 1) ** -c["upper_decay"]))
            alpha = c["lower_step_size"] * (s + 1) ** -c["lower_decay"]
            followed = np.linalg.solve(hessian, cross.T @ (xs[-1] - x))
            ys.append(y - alpha * self.g_y(x, y, rows) - followed)
        return xs[-1]

    def five(self, x: np.ndarray, y: np.ndarray, s: int) -> dict[str, np.ndarray]:
        rows, (f_x, f_y) = self.rows(s, "epochs"), self.f(x, y, self.upper_rows(s))
        lower = {
            "g_y": self.g_y(x, y, rows),
            "cross": self.g_xy(x, y, rows),
            "hessian": self.g_yy(x, y, rows),
        }
        return {"f_x": f_x, "f_y": f_y, **lower}

    def stable_vr(self, iterations: int) -> np.ndarray:
        xs, ys, c = [X0], [Y0], self.c
        e: dict[str, np.ndarray] = {}
        for k in range(1, iterations + 1):
            s, x, y = k - 1, xs[-1], ys[-1]
            new, kept = self.five(x, y, s), 1 - c["momentum"] * k ** (-2 / 3)
            old = self.five(xs[-2], ys[-2], s) if k > 1 else new
            e = {name: new[name] + (kept * (e[name] - old[name]) if k > 1 else 0) for name in new}
            e["hessian"] = self.definite(e["hessian"])
            d = e["f_x"] - e["cross"] @ np.linalg.inv(e["hessian"]) @ e["f_y"]
            xs.append(self.project(x, d, k ** -c["upper_decay"]))
            ys.append(y - c["lower_step_size"] * k ** -c["lower_decay"] * e["g_y"])
        return xs[-1]

    def vrbo(self, iterations: int) -> np.ndarray:
        c, eta = self.c, self.c["system_step_size"]

        def both(
            s: int, phase: str, i: int, sizes: tuple[str, str], x: np.ndarray, y: np.ndarray
        ) -> tuple[np.ndarray, np.ndarray]:
            lower, upper = (c[name] or None for name in sizes)
            f_x, f_y = self.f(x, y, self.streams.batch(s, "upper", phase, i, upper).rows.numpy())
            term = total = -eta * f_y
            for q in range(c["system_steps"]):
                rows = self.streams.batch(s, "lower", f"{phase} system", q, lower, (i,)).rows.numpy()
                term = term - eta * self.g_yy(x, y, rows) @ term
                total = total + term
            cross = self.g_xy(x, y, self.streams.batch(s, "lower", f"{phase} cross", i, lower).rows.numpy())
            return self.g_y(
                x, y, self.streams.batch(s, "lower", phase, i, lower).rows.numpy()
            ), f_x + cross @ total

        small, large = ("batch_size", "upper_batch_size"), ("large_batch_size", "large_upper_batch_size")
        x, y = X0, Y0
        u = d = np.empty(0)
        for s in range(iterations):
            if s % c["period"] == 0:
                u, d = both(s, "large", 0, large, x, y)
            points = [(x, y)]
            x = self.project(x, d)
            for i in range(c["lower_steps"]):
                new, old = both(s, "lower", i, small, x, y), both(s, "lower", i, small, *points[-1])
                u, d = u + new[0] - old[0], d + new[1] - old[1]
                points.append((x, y))
                y = y - c["lower_step_size"] * u
        return x


RULES: list[tuple[type[Solver[Any]], Callable[[Momentum, int], np.ndarray]]] = [
    (Fsla, Momentum.fsla),
    (Mrbo, Momentum.mrbo),
    (Smb, Momentum.smb),
    (Stable, Momentum.stable),
    (StableVr, Momentum.stable_vr),
    (Vrbo, Momentum.vrbo),
]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("solver", "rule"), RULES)
def test_twenty_upper_iterations_equal_a_literal_transcription(
    solver: type[Solver[Any]], rule: Callable[[Momentum, int], np.ndarray], seed: int
) -> None:
    """To 1e-10; the seeds draw batches of 3 to 29 of the 23 examples."""
    config = random_config(solver, 3 * seed)
    state = last_state(solver, [config], seed, 20)

    np.testing.assert_allclose(state.x[0].numpy(), rule(Momentum(config, seed), 20), rtol=0, atol=1e-10)


@pytest.mark.parametrize("bounds", [(1e-6, 1e6), (1.5, 0.4), (1.5, 1e6), (1e-6, 3.0)])
@pytest.mark.parametrize("solver", [Stable, StableVr])
def test_the_projections_are_those_of_the_rule(
    solver: type[Solver[Any]], bounds: tuple[float, float]
) -> None:
    """Where they act and where not: eigenvalues of H are about 0.4 to 3, the norm of C about 4."""
    config = random_config(solver, 3) | {"least_curvature": bounds[0], "cross_bound": bounds[1]}
    if solver is StableVr:
        del config["cross_bound"]
    rule = {Stable: Momentum.stable, StableVr: Momentum.stable_vr}[solver]
    state = last_state(solver, [config], 2, 9)

    np.testing.assert_allclose(state.x[0].numpy(), rule(Momentum(config, 2), 9), rtol=0, atol=1e-10)
    assert torch.linalg.eigvalsh(state.hessian).min() >= bounds[0] - 1e-12
    if solver is Stable:
        assert torch.linalg.vector_norm(state.cross) <= bounds[1] + 1e-12


@pytest.mark.parametrize("solver", [Stable, StableVr])
def test_a_trial_that_diverges_leaves_the_others_of_its_pack_alone(solver: type[Solver[Any]]) -> None:
    """An eigendecomposition refuses a whole batch for one matrix that is not finite."""
    works = random_config(solver, 3)
    fails = works | {"lower_step_size": 1e9}
    alone, together = (last_state(solver, configs, 1, 12) for configs in ([works], [works, fails]))

    torch.testing.assert_close(together.x[0], alone.x[0])
    assert together.finite().tolist() == [True, False]


@pytest.mark.parametrize("solver", MOMENTUM)
def test_the_ledger_is_true(solver: type[Solver[Any]]) -> None:
    assert audit(solver)


@pytest.mark.parametrize("solver", MOMENTUM)
def test_step_is_pure(solver: type[Solver[Any]]) -> None:
    assert pure_step(solver)


@pytest.mark.parametrize("solver", MOMENTUM)
def test_a_ragged_pack_equals_its_trials_alone(solver: type[Solver[Any]]) -> None:
    """With every count different, in an order that is neither rising nor falling."""
    configs = [random_config(solver, 9) | {"batch_size": 5} for _ in range(4)]
    for n, config in enumerate(configs):
        counts = {"lower_steps": (4, 9, 1, 6)[n], "system_steps": (3, 1, 8, 5)[n], "period": (3, 1, 2, 5)[n]}
        config.update({name: counts[name] for name in counts if name in config})
    together = last_state(solver, configs, 7, 6)

    for n, config in enumerate(configs):
        alone = last_state(solver, [config], 7, 6)
        for name in vars(alone):
            torch.testing.assert_close(
                getattr(together, name)[n], getattr(alone, name)[0], rtol=1e-12, atol=1e-14
            )


@pytest.mark.parametrize("wrong", [("y",), ("z",), ("y", "z", "old_y"), ()])
def test_a_wrong_declaration_of_what_fsla_reads_is_refused(
    wrong: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old y and z, at which the old h is taken again, are the ones that the next step starts from."""
    assert warm_starts(Fsla) == "the next step reads y, z, as declared"

    monkeypatch.setattr(Fsla, "warm_starts", wrong)
    with pytest.raises(PluginError, match="the next step reads y, z"):
        warm_starts(Fsla)


def test_fsla_pays_for_one_point_at_first_and_for_two_after() -> None:
    """And for two batches of upper examples, one for the system."""
    config = random_config(Fsla, 0) | {"batch_size": 5, "upper_batch_size": 4}
    literal, expected = Momentum(config, 1), []
    for s in range(8):
        points = 1 if s == 0 else 2
        upper = len(literal.upper_rows(s, "system")) + points * len(literal.upper_rows(s))
        expected.append([5, upper, 5, points * 5, 0])
    ledgers = np.array([ledger[0] for _, ledger in trajectory(Fsla, [config], 1, 8)])

    np.testing.assert_array_equal(ledgers, np.cumsum(expected, 0))


@pytest.mark.parametrize("sizes", [(0, 0), (9, 3)])
def test_vrbo_pays_for_large_batches_in_every_period(sizes: tuple[int, int]) -> None:
    """Of each trial its own; a size of 0 is all 23 or 11 examples."""
    config = random_config(Vrbo, 0) | {"batch_size": 5, "upper_batch_size": 4, "lower_steps": 2}
    config |= {"system_steps": 3, "large_batch_size": sizes[0], "large_upper_batch_size": sizes[1]}
    trials = [config | {"period": 3}, config | {"period": 2}]
    lower, upper = sizes[0] or LOWER, sizes[1] or UPPER
    series = {0: 3 * LOWER, 9: LOWER}[sizes[0]]  # batches of 9, 9 and 5
    ledgers = np.array([ledger for _, ledger in trajectory(Vrbo, trials, 1, 6)])
    small = np.array([2 * 10, 2 * 8, 2 * 2 * 15, 2 * 10, 0])
    large = np.array([lower, upper, series, lower, 0])

    for n, period in enumerate((3, 2)):
        expected = [small + (large if s % period == 0 else 0) for s in range(6)]
        np.testing.assert_array_equal(ledgers[:, n], np.cumsum(expected, 0))


def test_vrbo_on_full_batches_follows_the_full_gradients() -> None:
    """However seldom a large batch comes: the differences then add up to the directions themselves."""
    config: dict[str, Any] = random_config(Vrbo, 0) | {"batch_size": LOWER, "upper_batch_size": 0}
    config |= {"large_batch_size": 0, "large_upper_batch_size": 0, "lower_steps": 4}
    seldom, often = (last_state(Vrbo, [config | {"period": q}], 1, 9) for q in (100, 9))

    torch.testing.assert_close(seldom.x, often.x, rtol=0, atol=1e-13)


def test_a_series_that_fails_along_the_inner_loop_falls_back_to_its_first_term() -> None:
    """In the trial where it fails only, which comes after the other in one pack and before it in another."""
    config: dict[str, Any] = random_config(Vrbo, 0) | {"period": 1, "lower_steps": 3, "lower_step_size": 0.1}
    config |= {"system_steps": 30, "upper_step_size": 1e-3}
    fails, works = (config | {"system_step_size": eta} for eta in (1e30, 0.1))
    alone = last_state(Vrbo, [works], 1, 2)

    for pack in ([works, fails], [fails, works]):
        together = last_state(Vrbo, pack, 1, 2)
        torch.testing.assert_close(together.x[pack.index(works)], alone.x[0])
        assert torch.isfinite(together.d).all()
