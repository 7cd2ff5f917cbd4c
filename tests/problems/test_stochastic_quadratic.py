"""The stochastic quadratic: closed forms, exact answers, the law of its examples."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.batch import Batch
from harness.draws import RandomDraws
from harness.errors import HarnessError
from harness.plugins import Plugins
from harness.rules import Rules
from harness.runner import first_cost, run_pack
from harness.space import find_space
from problems.stochastic_quadratic import StochasticQuadratic
from tests.problems.closed_forms import F64, assert_closed_forms, assert_dense_forms, batches, close, normal

CPU = torch.device("cpu")


def made(data_seed: int = 0, **options: Any) -> StochasticQuadratic:
    sizes = {"upper_dim": 3, "lower_dim": 6, "lower_samples": 300, "upper_samples": 80}
    problem = StochasticQuadratic(**{**sizes, **options})
    problem.setup(None, data_seed, CPU, F64)
    return problem


SMALL = made()


@pytest.fixture(scope="module")
def public() -> StochasticQuadratic:
    """Of the public benchmark's size."""
    problem = StochasticQuadratic()
    problem.setup(None, 0, CPU, F64)
    return problem


def point(problem: StochasticQuadratic, trials: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    sizes = (problem.dim_x, problem.dim_y, problem.dim_y)
    x, y, v = (normal(trials, size, seed + n) for n, size in enumerate(sizes))
    return x, y, v


def every(problem: StochasticQuadratic) -> tuple[Batch, Batch]:
    sizes = (problem.lower_examples, problem.upper_examples)
    lower, upper = (Batch(torch.arange(size), full=True) for size in sizes)
    return lower, upper


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), trials=st.integers(1, 4), kind=st.integers(0, 3))
def test_closed_forms_equal_the_derived_oracles(seed: int, trials: int, kind: int) -> None:
    (x, y, v), lower = point(SMALL, trials, seed), batches(300, 20, trials, seed)[kind]
    assert_closed_forms(SMALL, x, y, v, lower, batches(80, 15, trials, seed)[kind])
    assert_dense_forms(SMALL, x, y, lower)


def test_the_exact_solutions_solve_the_problem() -> None:
    """y* solves the lower level; the implicit hypergradient is the gradient of L, by automatic
    differentiation too; L is what f is at y*; at x* nothing is left."""
    x = torch.cat([point(SMALL, 3, 1)[0], SMALL.x_star.unsqueeze(0)])
    lower, upper = every(SMALL)
    y = SMALL.y_star(x)
    f_x, f_y = SMALL.upper_gradient(x, y, upper)
    z = -torch.linalg.solve(SMALL.hessian(x, y, lower), f_y)

    def value(x: Tensor) -> Tensor:
        return SMALL.upper_loss(x, SMALL.y_star(x.unsqueeze(0))[0], upper.rows).mean()

    found = SMALL.evaluate_pack(x, 0 * y)
    close(SMALL.lower_gradient(x, y, lower), torch.zeros_like(y))
    close(f_x + SMALL.cross(x, y, z, lower), SMALL.hypergradient(x))
    close(torch.stack([torch.func.grad(value)(row) for row in x]), SMALL.hypergradient(x))
    for row, metrics in zip(x, found, strict=True):
        gradient = SMALL.hypergradient(row.unsqueeze(0))
        assert metrics["value_function"] == pytest.approx(float(value(row)), rel=1e-10)
        assert metrics["gradient_norm_squared"] == pytest.approx(float((gradient**2).sum()), rel=1e-12)
    assert found[3]["gradient_norm_squared"] < 1e-25
    assert found[3]["value_function"] < min(metrics["value_function"] for metrics in found[:3])
    assert SMALL.metrics(x, y) == found == [SMALL.evaluate(*one) for one in zip(x, y, strict=True)]


def test_examples_follow_the_public_law(public: StochasticQuadratic) -> None:
    """Spectra of H and B, singular values of C, and the two levels' H close to each other."""
    g, f = public._g, public._f
    geometric = torch.logspace(-1, 0, 100, dtype=F64)
    h, b = torch.linalg.eigvalsh(g.h), torch.linalg.eigvalsh(g.b)
    a = g.rows(torch.arange(1000)).a

    torch.testing.assert_close(h, geometric, rtol=0.1, atol=0)
    torch.testing.assert_close(b[1:], torch.logspace(-1, 0, 9, dtype=F64), rtol=0.1, atol=0)
    assert abs(float(b[0])) < 1e-12
    torch.testing.assert_close(torch.linalg.svdvals(g.c), torch.full((10,), 0.1, dtype=F64), rtol=0.3, atol=0)
    assert float((a**2).sum(1).mean()) == pytest.approx(float(geometric.sum()), rel=0.05)
    assert float((g.h - f.h).norm() / g.h.norm()) < 0.5
    assert not torch.equal(g.table[:1024], f.table)
    assert float(g.p.norm()) < 0.1


def test_it_starts_and_ends_about_where_the_published_one_does(public: StochasticQuadratic) -> None:
    """L(x0) = 8.7072, |grad L(x0)|^2 = 11.6 and L* = -0.0353 there, of another draw."""
    x0, y0 = public.initial(3)
    start, end = public.evaluate(x0, y0), public.evaluate(public.x_star, y0)

    assert (x0 == -2).all() and not y0.any()
    assert 5 < start["value_function"] < 12 and 5 < start["gradient_norm_squared"] < 16
    assert -0.2 < end["value_function"] < 0.05 and end["gradient_norm_squared"] < 1e-28


def test_the_draw_follows_the_data_seed() -> None:
    again, other = made(), made(1)

    assert torch.equal(again._g.table, SMALL._g.table) and torch.equal(again._f.table, SMALL._f.table)
    assert not torch.equal(other._g.table, SMALL._g.table)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lower_dim": 1}, "lower_dim must be at least 2, but got 1"),
        ({"lower_samples": 11}, "lower_samples must be at least 12, but got 11"),
        ({"upper_samples": 0}, "upper_samples must be at least 1, but got 0"),
        ({"curvature": 0.0}, "curvature must be above 0 and at most 1, but got 0"),
        ({"curvature": 2.0}, "curvature must be above 0 and at most 1, but got 2"),
        ({"coupling": 0.0}, "coupling must be above 0, but got 0"),
        ({"upper_samples": 1, "coupling": 100.0}, "not strictly convex in any of 20 draws"),
    ],
)
def test_options_that_make_no_problem_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(HarnessError, match=f"stochastic_quadratic: .*{said}"):
        made(**options)


@pytest.mark.parametrize("name", find_space("stochastic_quadratic", None).solvers())
def test_every_table_fits_its_solver_and_the_gradient_falls(name: str) -> None:
    """At the best of three random places of the space."""
    solver = Plugins().solver(name)
    space = find_space("stochastic_quadratic", None).space(name, solver)
    draws = RandomDraws(3, space)
    start = SMALL.evaluate(*SMALL.initial(0))["gradient_norm_squared"]
    found = []
    for n in range(3):
        config = space.resolve(draws.draw(n))
        budget = 4 * float(first_cost(SMALL, solver, [config], seed=0)[0])
        found += run_pack(SMALL, solver, [config], Rules(budget, {}, seed=0, curves=0), CPU, SMALL.dtype)
    best = min((r for r in found if r.state == "completed"), key=lambda r: r.objective)

    assert best.upper_iterations >= 2
    assert best.objective < start


def test_variance_reduction_goes_on_where_soba_stalls() -> None:
    """The published picture, in small and well conditioned: SABA to rounding, SOBA of the same constant steps
    to its noise."""
    problem = made(curvature=1.0, coupling=1.0)
    config = dict(upper_step_size=0.2, lower_step_size=0.2, batch_size=100, upper_batch_size=40)
    rules, still = Rules(600 * 340, {}, seed=0, curves=0), {"upper_decay": 0.0, "lower_decay": 0.0}
    (saba,) = run_pack(problem, Plugins().solver("saba"), [config], rules, CPU, F64)
    (soba,) = run_pack(problem, Plugins().solver("soba"), [config | still], rules, CPU, F64)

    assert saba.upper_iterations == soba.upper_iterations == 600
    assert saba.objective < 1e-25 and soba.objective > 1e-6
