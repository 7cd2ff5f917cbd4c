"""Methods with inner loops: each rule against a literal transcription, and what is special about each."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from harness.budget import Accountant
from harness.check import CPU, F64, ExactQuartic, audit, random_config
from harness.check.solver_rules import pure_step, warm_starts
from harness.meter import Meter
from harness.oracle import Oracle
from harness.place import first_place
from harness.solver import Solver
from harness.streams import Streams, generator
from solvers.accbio import AccBio
from solvers.aid import AidCg, AidCgWs, AidFp, AidGd, AidN
from solvers.alset import AlsetNeumann
from solvers.bsa import Ba, Bsa, BsaWs
from solvers.itd import Itd, Reverse
from solvers.stocbio import Stocbio, StocbioNeumann
from solvers.ttsa import Ttsa
from tests.solvers.literal import DIM_X, DIM_Y, LOWER, UPPER, X0, Y0, ByHand, crooked, last_state, trajectory

Array = np.ndarray


class Nested(ByHand):
    """The rules of the papers."""

    def implicit(self, s: int, x: Array, y: Array, z: Array, f_x: Array) -> Array:
        return self.project(x, f_x + self.g_xy(x, y, self.cross_rows(s)) @ z)

    def fixed_point(self, s: int, x: Array, y: Array, f_y: Array, eta: float) -> Array:
        z = np.zeros(DIM_Y)
        for i in range(self.c["system_steps"]):
            z = (np.eye(DIM_Y) - eta * self.g_yy(x, y, self.rows(s, "system", i))) @ z - eta * f_y
        return z

    def series(self, s: int, x: Array, y: Array, f_y: Array, eta: float) -> Array:
        """-eta sum_{q = 0..k} prod_{i < q} (I - eta H_i) f_y."""
        product, total = np.eye(DIM_Y), np.eye(DIM_Y)
        for i in range(self.c["system_steps"]):
            product = (np.eye(DIM_Y) - eta * self.g_yy(x, y, self.rows(s, "system", i))) @ product
            total = total + product
        return -eta * total @ f_y

    def krylov(self, s: int, x: Array, y: Array, f_y: Array, z: Array) -> Array:
        """Hestenes and Stiefel's listing."""
        hessian = self.g_yy(x, y, self.rows(s, "system"))
        r = -f_y - hessian @ z
        p, rr = r, r @ r
        for _ in range(self.c["system_steps"]):
            a = rr / (p @ hessian @ p)
            z, r, before = z + a * p, r - a * (hessian @ p), rr
            rr = r @ r
            p = r + rr / before * p
        return z

    def aid(self, iterations: int, solution: Callable[[int, Array, Array, Array], Array]) -> Array:
        x, y = X0, Y0
        for s in range(iterations):
            y = self.descend(s, x, y)
            f_x, f_y = self.f(x, y, self.upper_rows(s))
            x = self.implicit(s, x, y, solution(s, x, y, f_y), f_x)
        return x

    def aid_gd(self, iterations: int) -> Array:
        return self.aid(iterations, lambda *at: self.fixed_point(*at, self.c["system_step_size"]))

    def aid_fp(self, iterations: int) -> Array:
        return self.aid(iterations, lambda *at: self.fixed_point(*at, self.c["lower_step_size"]))

    def aid_n(self, iterations: int) -> Array:
        return self.aid(iterations, lambda *at: self.series(*at, self.c["lower_step_size"]))

    def aid_cg(self, iterations: int) -> Array:
        return self.aid(iterations, lambda *at: self.krylov(*at, np.zeros(DIM_Y)))

    def aid_cg_ws(self, iterations: int) -> Array:
        x, z = X0, np.zeros(DIM_Y)
        for s in range(iterations):
            y = self.descend(s, x, Y0)
            f_x, f_y = self.f(x, y, self.upper_rows(s))
            z = self.krylov(s, x, y, f_y, z)
            x = self.implicit(s, x, y, z, f_x)
        return x

    def reverse(self, iterations: int) -> Array:
        """Forward mode: the Jacobian of y_t by x, which starts at 0 where going back would end."""
        x, y, eta = X0, Y0, self.c["lower_step_size"]
        steps = self.c["lower_steps"]
        forgotten = max(steps - (self.c["system_steps"] or steps), 0)
        for s in range(iterations):
            for i in range(forgotten):
                y = y - eta * self.g_y(x, y, self.rows(s, "forgotten", i))
            jacobian = np.zeros((DIM_Y, DIM_X))
            for i in range(steps - forgotten):
                rows = self.rows(s, "lower", i)
                slope = self.g_yy(x, y, rows) @ jacobian + self.g_xy(x, y, rows).T
                jacobian, y = jacobian - eta * slope, y - eta * self.g_y(x, y, rows)
            f_x, f_y = self.f(x, y, self.upper_rows(s))
            x = self.project(x, f_x + jacobian.T @ f_y)
        return x

    def stocbio_neumann(self, iterations: int) -> Array:
        return self.aid(iterations, lambda *at: self.series(*at, self.c["system_step_size"]))

    def stocbio(self, iterations: int) -> Array:
        def solution(s: int, x: Array, y: Array, f_y: Array) -> Array:
            z = -f_y
            for i in range(self.c["system_steps"]):
                hessian = self.g_yy(x, y, self.rows(s, "system", i))
                z = z - self.c["system_step_size"] * (hessian @ z + f_y)
            return z

        return self.aid(iterations, solution)

    def random_series(self, s: int, x: Array, y: Array, f_y: Array, longest: int) -> Array:
        p = int(generator(self.seed, s, "truncation").random() * longest)
        eta = self.c["system_step_size"]
        z = -longest * eta * f_y
        for i in range(p):
            z = z - eta * self.g_yy(x, y, self.rows(s, "system", i)) @ z
        return z

    def falling(self, s: int, level: str) -> float:
        return float((s + 1) ** -self.c[f"{level}_decay"])

    def alset_neumann(self, iterations: int) -> Array:
        x, y = X0, Y0
        for s in range(iterations):
            for i in range(self.c["lower_steps"]):
                step = self.c["lower_step_size"] * self.falling(s, "lower")
                y = y - step * self.g_y(x, y, self.rows(s, "lower", i))
            f_x, f_y = self.f(x, y, self.upper_rows(s))
            z = self.random_series(s, x, y, f_y, self.c["system_steps"])
            h = f_x + self.g_xy(x, y, self.rows(s, "cross")) @ z
            x = self.project(x, h, self.falling(s, "upper"))
        return x

    def grown(self, s: int) -> int:
        return math.ceil(self.c["growth"] * (s + 1) ** self.c["growth_exponent"])

    def ba(self, iterations: int) -> Array:
        x, full = X0, np.arange(LOWER)
        for s in range(iterations):
            y = Y0
            for _ in range(self.grown(s)):
                y = y - self.c["lower_step_size"] * self.g_y(x, y, full)
            f_x, f_y = self.f(x, y, slice(None))
            inverse = np.linalg.inv(self.g_yy(x, y, full))
            x = self.project(x, f_x - self.g_xy(x, y, full) @ inverse @ f_y)
        return x

    def bsa(self, iterations: int, warm: bool = False) -> Array:
        x, y, gamma = X0, Y0, self.c["decay"]
        for s in range(iterations):
            y = y if warm else Y0
            for i in range(self.grown(s)):
                step = self.c["lower_step_size"] / (1 + i / gamma)
                y = y - step * self.g_y(x, y, self.rows(s, "lower", i))
            f_x, f_y = self.f(x, y, self.upper_rows(s))
            longest = math.ceil(self.c["system_steps"] + self.c["system_growth"] * math.log(s + 1))
            z = self.random_series(s, x, y, f_y, longest)
            x = self.project(x, f_x + self.g_xy(x, y, self.rows(s, "cross")) @ z)
        return x

    def bsa_ws(self, iterations: int) -> Array:
        return self.bsa(iterations, warm=True)

    def ttsa(self, iterations: int) -> Array:
        x, y = X0, Y0
        for s in range(iterations):
            step = self.c["lower_step_size"] * self.falling(s, "lower")
            y = y - step * self.g_y(x, y, self.rows(s, "epochs"))
            f_x, f_y = self.f(x, y, self.upper_rows(s))
            z = self.random_series(s, x, y, f_y, self.c["system_steps"])
            x = self.project(x, f_x + self.g_xy(x, y, self.rows(s, "cross")) @ z, self.falling(s, "upper"))
        return x

    def accbio(self, iterations: int) -> Array:
        """With the paper's letters: x_k and z_k of the upper level are `slow` and `x`."""
        x, slow, y, full, c = X0, X0, Y0, np.arange(LOWER), self.c
        m, root = c["momentum"], c["upper_rate"]
        for _ in range(iterations):
            eta = root / (root + 2)
            tilde = eta * slow + (1 - eta) * x
            s_t, y_t = y, y
            for _ in range(c["lower_steps"]):
                before, y_t = y_t, s_t - c["lower_step_size"] * self.g_y(tilde, s_t, full)
                s_t = (1 + m) * y_t - m * before
            y = y_t
            f_x, f_y = self.f(tilde, y, slice(None))
            z = z_before = np.zeros(DIM_Y)
            for _ in range(c["system_steps"]):
                pull = self.g_yy(tilde, y, full) @ z + f_y
                z, z_before = z - c["system_step_size"] * pull + m**2 * (z - z_before), z
            h = f_x + self.g_xy(tilde, y, full) @ z
            tau, long_step = root / 2, c["upper_step_size"] / root
            slow = np.clip(tau * tilde + (1 - tau) * slow - long_step * h, -2, 2)
            x = self.project(tilde, h)
        return x


RULES: dict[type[Solver[Any]], Callable[[Nested, int], Array]] = {
    AccBio: Nested.accbio,
    AidCg: Nested.aid_cg,
    AidCgWs: Nested.aid_cg_ws,
    AidFp: Nested.aid_fp,
    AidGd: Nested.aid_gd,
    AidN: Nested.aid_n,
    AlsetNeumann: Nested.alset_neumann,
    Ba: Nested.ba,
    Bsa: Nested.bsa,
    BsaWs: Nested.bsa_ws,
    Reverse: Nested.reverse,
    Stocbio: Nested.stocbio,
    StocbioNeumann: Nested.stocbio_neumann,
    Ttsa: Nested.ttsa,
}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("solver", RULES)
def test_twenty_upper_iterations_equal_a_literal_transcription(solver: type[Solver[Any]], seed: int) -> None:
    config = random_config(solver, 3 * seed)
    config |= {"growth": 20 * config["growth"]} if "growth" in config else {}
    state = last_state(solver, [config], seed, 20)

    np.testing.assert_allclose(
        state.x[0].numpy(), RULES[solver](Nested(config, seed), 20), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("solver", RULES)
def test_the_ledger_is_true_the_step_pure_and_warm_starts_declared(solver: type[Solver[Any]]) -> None:
    assert audit(solver) and pure_step(solver) and warm_starts(solver)


COUNTS = {
    "lower_steps": (4, 9, 1, 6),
    "system_steps": (3, 1, 8, 5),
    "cross_batches": (1, 2, 3, 4),
    "growth": (1.3, 4.0, 0.2, 2.2),
}


@pytest.mark.parametrize("solver", RULES)
def test_a_ragged_pack_equals_its_trials_alone(solver: type[Solver[Any]]) -> None:
    """With every count different, in an order that is neither rising nor falling."""
    configs = [random_config(solver, 9 + n % 3) for n in range(4)]
    for n, config in enumerate(configs):
        config |= {"batch_size": 5} if "batch_size" in config else {}
        config |= {name: counts[n] for name, counts in COUNTS.items() if name in config}
    together = last_state(solver, configs, 7, 6)

    for n, config in enumerate(configs):
        alone = last_state(solver, [config], 7, 6)
        for name in vars(alone):
            torch.testing.assert_close(
                getattr(together, name)[n], getattr(alone, name)[0], rtol=1e-12, atol=1e-14
            )


def _config(solver: type[Solver[Any]], **changed: Any) -> dict[str, Any]:
    return random_config(solver, 12) | changed


def _packed(solver: type[Solver[Any]], *configs: dict[str, Any]) -> Any:
    return solver.pack(configs, CPU, F64)


@pytest.mark.parametrize(
    ("solver", "start"), [(AidGd, 0.0), (AccBio, 0.0), (Stocbio, -1.0), (StocbioNeumann, -1e150)]
)
def test_a_system_that_is_not_finite_is_its_start(solver: type[Solver[Any]], start: float) -> None:
    """z = start * f_y; the steps are so long that all others overflow."""
    config = _config(solver, system_steps=5, system_step_size=1e150)
    literal = Nested(config | {"batch_size": config.get("batch_size", LOWER)}, 3)
    state = last_state(solver, [config], 3, 1)
    y = state.y[0].numpy()
    f_x, f_y = literal.f(X0, y, literal.upper_rows(0))
    cross = literal.cross_rows(0) if "cross_batches" in config else np.arange(LOWER)
    x = literal.project(X0, f_x + literal.g_xy(X0, y, cross) @ (start * f_y))

    np.testing.assert_allclose(state.x[0].numpy(), x, rtol=0, atol=1e-10)


def _same(
    one: type[Solver[Any]], its: dict[str, Any], two: type[Solver[Any]], others: dict[str, Any]
) -> None:
    left, right = last_state(one, [its], 3, 8), last_state(two, [others], 3, 8)
    torch.testing.assert_close(left.x, right.x, rtol=0, atol=1e-12)


# --- relatives


def test_aid_gd_with_the_lower_step_size_is_aid_fp() -> None:
    config = _config(AidFp)
    _same(AidFp, config, AidGd, config | {"system_step_size": config["lower_step_size"]})


@pytest.mark.parametrize("steps", [1, 4])
def test_aid_n_is_aid_fp_with_one_step_more(steps: int) -> None:
    """On full batches."""
    config = _config(AidN, batch_size=LOWER, system_steps=steps)
    _same(AidN, config, AidFp, config | {"system_steps": steps + 1})


def test_stocbio_with_the_series_in_the_lower_step_size_is_aid_n() -> None:
    config = _config(AidN)
    _same(AidN, config, StocbioNeumann, config | {"system_step_size": config["lower_step_size"]})


def test_ttsa_on_full_batches_is_alset_with_the_series_and_falling_steps() -> None:
    config = _config(Ttsa, batch_size=LOWER)
    _same(Ttsa, config, AlsetNeumann, config | {"lower_steps": 1})


def test_the_random_series_is_in_the_mean_the_sum_of_its_terms() -> None:
    """With k = 5 each p in 0, ..., 4 gives a term; ALSET's hypergradient at x0 over many seeds."""
    k, eta = 5, 0.4
    config = {"system_steps": k, "batch_size": LOWER, "upper_batch_size": 0, "lower_steps": 1}
    config |= {"upper_step_size": 1e-3, "lower_step_size": 0.2, "system_step_size": eta}
    literal = Nested(config | {"lower_decay": 0.0}, 0)
    y = literal.descend(0, X0, Y0)
    f_x, f_y = literal.f(X0, y, slice(None))
    factor = np.eye(DIM_Y) - eta * literal.g_yy(X0, y, np.arange(LOWER))
    terms = [-k * eta * np.linalg.matrix_power(factor, p) @ f_y for p in range(k)]
    exact = [f_x + literal.g_xy(X0, y, np.arange(LOWER)) @ z for z in terms]
    found = [(X0 - last_state(AlsetNeumann, [config], seed, 1).x[0].numpy()) / 1e-3 for seed in range(60)]
    met = [min(range(k), key=lambda p: float(np.abs(h - exact[p]).max())) for h in found]

    assert max(float(np.abs(h - exact[p]).max()) for h, p in zip(found, met, strict=True)) < 1e-10
    assert sorted(set(met)) == list(range(k)) and max(map(met.count, range(k))) < 25


@pytest.mark.parametrize("back", [0, 5, 9])
def test_reverse_through_all_steps_is_itd(back: int) -> None:
    config = _config(Itd, lower_steps=5)
    _same(Itd, config, Reverse, config | {"system_steps": back})


def test_reverse_keeps_and_pays_for_the_steps_it_goes_back_through() -> None:
    config = _config(Reverse, lower_steps=7, system_steps=3, batch_size=5, upper_batch_size=0)
    *_, (_, ledger) = trajectory(Reverse, [config], 1, 1)
    held = _packed(Reverse, config, config | {"system_steps": 0}).held(first_place(crooked(), 1, 5))

    assert ledger[0].tolist() == [15 + 20, 11, 15, 15, 0]
    assert torch.as_tensor(held.y).tolist() == [3 + 6, 7 + 6]


def test_ba_and_bsa_take_more_lower_steps_as_they_go() -> None:
    """And the longest series of BSA grows with the logarithm."""
    grows = {"growth": 0.5, "growth_exponent": 0.25}
    ba = _packed(Ba, _config(Ba, **grows), _config(Ba, growth=2.0, growth_exponent=0.5))
    bsa = _packed(Bsa, _config(Bsa, system_steps=3, system_growth=1.5), _config(Bsa, system_growth=0.0))
    place = first_place(crooked(), 1, 5)
    at = [place.at(s) for s in (0, 1, 15, 16, 255, 256)]

    assert [ba.lower_steps(p).tolist() for p in at] == [[1, 2], [1, 3], [1, 8], [2, 9], [2, 32], [3, 33]]
    assert [int(bsa.longest(p)[0]) for p in at] == [3, 5, 8, 8, 12, 12]
    assert len({int(bsa.longest(p)[1]) for p in at}) == 1


def test_ba_pays_for_a_whole_hessian_and_its_hypergradient_is_exact_at_its_y() -> None:
    """As if conjugate gradients had solved the system at the same y."""
    config = {"growth": 4.0, "growth_exponent": 0.0, "lower_step_size": 0.2, "upper_step_size": 0.1}
    *_, (state, ledger) = trajectory(Ba, [config], 1, 3)
    nested = {"lower_steps": 4, "system_steps": DIM_Y, "cross_batches": 1, "batch_size": LOWER}
    same = last_state(AidCgWs, [nested | {"lower_step_size": 0.2, "upper_step_size": 0.1}], 1, 3)

    torch.testing.assert_close(state.x, same.x, rtol=0, atol=1e-10)
    assert ledger[0].tolist() == [3 * 4 * LOWER, 3 * UPPER, 3 * DIM_Y * LOWER, 3 * LOWER, 0]


def test_accbio_falls_by_its_rate_in_every_upper_iteration() -> None:
    """L(x) - L* + mu / 4 |u - x*|^2 falls by 1 - q / 2 where the hypergradient is exact, alpha = 1 / (2 L_x)
    and q = sqrt(alpha mu), mu a little less than the least curvature of L."""
    problem = ExactQuartic()
    problem.setup(None, 0, CPU, F64)
    curvature = torch.func.jacrev(lambda x: problem.hypergradient(x.unsqueeze(0))[0])(problem.solution)
    mu, alpha = 0.8 * float(torch.linalg.eigvalsh(curvature)[0]), 0.5 / problem.upper_smoothness
    q, eta = math.sqrt(alpha * mu), 1 / problem.smoothness
    config = {"lower_steps": 60, "system_steps": 60, "momentum": 0.3, "upper_rate": q}
    config |= {"upper_step_size": alpha, "lower_step_size": eta, "system_step_size": eta}
    solver = _packed(AccBio, config)
    accountant = Accountant(1, 1e9, {})
    meter = Meter(problem, Streams(0, 23, 11, CPU), accountant, tuple(v.to(F64) for v in problem.initial(0)))
    state, potential = solver.init(Oracle.of(meter)), []
    for s in range(25):
        meter.begin(s)
        accountant.open(meter.live, solver.cost(meter.place).table(1))
        state = solver.step(Oracle.of(meter), state)
        accountant.close()
        away = float(((state.u[0] - problem.solution) ** 2).sum())
        above = problem._upper_value(state.x[0]) - problem._optimum
        potential.append(above + mu / 4 * away)

    assert all(new <= (1 - q / 2) * old for old, new in itertools.pairwise(potential))
