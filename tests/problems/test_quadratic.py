"""The quadratic: closed forms, exact solutions, spectra, noise of known mean and variance, and search
spaces."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness import derive
from harness.batch import Batch
from harness.draws import GridDraws, RandomDraws, grid_size
from harness.errors import HarnessError
from harness.plugins import Plugins
from harness.rules import Rules
from harness.runner import first_cost, run_pack
from harness.space import find_space
from problems.quadratic import Quadratic

CPU, F64 = torch.device("cpu"), torch.float64


def make(data_seed: int = 0, **options: Any) -> Quadratic:
    problem = Quadratic(**{"upper_dim": 9, "lower_dim": 6, **options})
    problem.setup(None, data_seed, CPU, F64)
    return problem


def close(found: Tensor, expected: Tensor, rtol: float = 1e-12, atol: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


def point(problem: Quadratic, trials: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and a direction v shaped like y."""
    draw = torch.Generator().manual_seed(seed)
    sizes = (problem.dim_x, problem.dim_y, problem.dim_y)
    x, y, v = (torch.randn(trials, size, generator=draw, dtype=F64) for size in sizes)
    return x, y, v


def every(problem: Quadratic) -> Batch:
    return Batch(torch.arange(problem.samples), full=True)


NOISY = make(samples=12, noise=0.3)


def batches(trials: int, seed: int) -> list[Batch]:
    """Some examples, all, some with counts, all with counts."""
    draw = torch.Generator().manual_seed(seed)
    some = torch.randperm(12, generator=draw)[:5].sort().values
    counts = torch.randint(1, 4, (trials, 12), generator=draw)
    return [
        Batch(some),
        every(NOISY),
        Batch(some, counts=counts[:, :5]),
        Batch(torch.arange(12), counts=counts, full=True),
    ]


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), trials=st.integers(1, 4), kind=st.integers(0, 3))
def test_closed_forms_equal_the_derived_oracles(seed: int, trials: int, kind: int) -> None:
    (x, y, v), batch = point(NOISY, trials, seed), batches(trials, seed)[kind]
    pairs = [
        (NOISY.lower_gradient(x, y, batch), derive.lower_gradient(NOISY, x, y, batch)),
        (NOISY.hessian_vector(x, y, v, batch), derive.hessian_vector(NOISY, x, y, v, batch)),
        (NOISY.cross(x, y, v, batch), derive.cross(NOISY, x, y, v, batch)),
        *zip(NOISY.upper_gradient(x, y, batch), derive.upper_gradient(NOISY, x, y, batch), strict=True),
    ]
    for closed, derived in pairs:
        close(closed, derived)


def test_closed_forms_equal_differences_of_the_losses() -> None:
    """Central differences are exact on quadratics, but for rounding."""
    (x, y, v), batch = point(NOISY, 1, 3), batches(1, 3)[0]

    def slopes(loss: Any, at: Tensor) -> Tensor:
        moves = torch.eye(len(at), dtype=F64)
        return torch.stack([(loss(at + move) - loss(at - move)) / 2 for move in moves])

    def lower(x: Tensor, y: Tensor) -> Tensor:
        return NOISY.lower_loss(x, y, batch.rows).mean()

    def upper(x: Tensor, y: Tensor) -> Tensor:
        return NOISY.upper_loss(x, y, batch.rows).mean()

    def along(x: Tensor, y: Tensor) -> Tensor:
        return slopes(lambda y: lower(x, y), y) @ v[0]

    by_x, by_y = NOISY.upper_gradient(x, y, batch)
    for closed, differences in [
        (NOISY.lower_gradient(x, y, batch), slopes(lambda y: lower(x[0], y), y[0])),
        (NOISY.hessian_vector(x, y, v, batch), slopes(lambda y: along(x[0], y), y[0])),
        (NOISY.cross(x, y, v, batch), slopes(lambda x: along(x, y[0]), x[0])),
        (by_x, slopes(lambda x: upper(x, y[0]), x[0])),
        (by_y, slopes(lambda y: upper(x[0], y), y[0])),
    ]:
        close(closed[0], differences, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("condition", [1.0, 10.0, 1e4])
def test_the_exact_solutions_solve_the_problem(condition: float) -> None:
    """y* and z* solve both linear systems; the implicit hypergradient made of them is the gradient of L, by
    automatic differentiation too, and vanishes at x*, where L = 0; L - L* is the quadratic form."""
    problem = make(lower_condition=condition)
    x, batch = torch.cat([point(problem, 3, 1)[0], problem.x_star.unsqueeze(0)]), every(problem)
    y, z = problem.y_star(x), problem.z_star.repeat(4, 1)
    by_x, by_y = problem.upper_gradient(x, y, batch)

    def reached(x: Tensor) -> Tensor:
        return problem.upper_loss(x, problem.y_star(x), batch.rows).mean()

    implicit = by_x + problem.cross(x, y, z, batch)
    values = torch.stack([reached(row) for row in x])
    start = reached(problem.initial(0)[0])
    near = 1e-15 * condition + 1e-11
    close(problem.lower_gradient(x, y, batch), torch.zeros_like(y), rtol=0, atol=near)
    close(problem.hessian_vector(x, y, z, batch) + by_y, torch.zeros_like(y), rtol=0, atol=near)
    close(implicit, problem.hypergradient(x), rtol=0, atol=near)
    close(implicit, torch.stack([torch.func.grad(reached)(row) for row in x]), rtol=0, atol=near)
    close(implicit[3], torch.zeros_like(implicit[3]), rtol=0, atol=near)
    close(values[3], torch.zeros_like(values[3]), rtol=0, atol=near)
    errors = torch.tensor([found["relative_error"] for found in problem.evaluate_pack(x, y)], dtype=F64)
    close(errors, values / start, rtol=1e-10)


def test_metrics_are_ratios_to_the_start_and_see_errors_far_below_rounding() -> None:
    problem = make()
    x0, y0 = (value.unsqueeze(0) for value in problem.initial(0))
    away = x0 - problem.x_star
    (start,), (near,) = problem.metrics(x0, y0), problem.metrics(problem.x_star + 1e-11 * away, y0)
    (solved,) = problem.metrics(x0, problem.y_star(x0))

    assert start == pytest.approx({**dict.fromkeys(problem.metric_names, 1.0), "lower_error": 0}, abs=1e-6)
    expected = {"relative_error": 1e-22, "distance": 1e-11, "gradient": 1e-11}
    assert problem.evaluate(problem.x_star + 1e-11 * away[0], y0[0]) == pytest.approx(expected, rel=1e-3)
    assert {name: near[name] for name in expected} == pytest.approx(expected, rel=1e-3)
    assert near["lower_error"] == pytest.approx(1, rel=1e-6) and solved["lower_error"] == 0


def test_gradient_steps_reach_1e_20_at_kappa_1e4() -> None:
    """With the implicit hypergradient, step size 1 / L and kappa_L = 10."""
    problem = make(upper_dim=60, lower_dim=40, lower_condition=1e4)
    x, batch = problem.initial(0)[0].unsqueeze(0), every(problem)
    z = problem.z_star.unsqueeze(0)
    for _ in range(230):
        x = x - problem.upper_gradient(x, z, batch)[0] - problem.cross(x, z, z, batch)

    assert problem.evaluate(x[0], z[0])["relative_error"] < 1e-20


@pytest.mark.parametrize("condition", [1.0, 10.0, 1e7])
def test_spectra_touch_both_ends(condition: float) -> None:
    problem = make(upper_dim=30, lower_dim=20, lower_condition=condition, upper_condition=condition)
    for matrix in (problem.a_f, problem.a_g):
        values = torch.linalg.eigvalsh(matrix)

        assert torch.equal(matrix, matrix.T)
        assert float(values[0] * condition) == pytest.approx(1, rel=1e-7)
        assert float(values[-1]) == pytest.approx(1, rel=1e-12)
        if condition == 1:
            assert torch.equal(matrix, torch.eye(len(matrix), dtype=F64))


def test_the_spectrum_has_the_marchenko_pastur_shape() -> None:
    """Of a square matrix, the support scaled to [0, 1], the law has mass 1/3 + sqrt(3) / (2 pi) up to 1/4."""
    values = torch.linalg.eigvalsh(make(lower_dim=300, lower_condition=1e7).a_g)

    assert float((values < 0.25).double().mean()) == pytest.approx(1 / 3 + 3**0.5 / (2 * np.pi), abs=0.02)


def test_the_problem_depends_on_the_data_seed_and_only_a_g_on_the_lower_conditioning() -> None:
    first, again, other, worse = make(1), make(1), make(2), make(1, lower_condition=1e6)

    assert torch.equal(first.b_g, again.b_g) and not torch.equal(first.b_g, other.b_g)
    assert not torch.equal(first.c_f, first._u.flatten()[:6])  # each part has a stream of its own
    assert torch.equal(first.x_star, worse.x_star) and not torch.equal(first.a_g, worse.a_g)


def test_over_all_examples_the_noise_is_exactly_zero() -> None:
    """The full batch equals the problem without noise bit for bit, and the mean over single examples, and
    over any partition into equal batches, equals it to rounding."""
    quiet, (x, y, v) = make(), point(NOISY, 2, 0)

    def derivatives(problem: Quadratic, batch: Batch) -> list[Tensor]:
        return [
            problem.lower_gradient(x, y, batch),
            problem.hessian_vector(x, y, v, batch),
            problem.cross(x, y, v, batch),
            *problem.upper_gradient(x, y, batch),
        ]

    exact = derivatives(quiet, every(quiet))
    assert all(map(torch.equal, derivatives(NOISY, every(NOISY)), exact))
    for size in (1, 3):
        order = torch.randperm(12, generator=torch.Generator().manual_seed(size))
        parts = order.view(-1, size)
        found = [derivatives(NOISY, Batch(rows.sort().values)) for rows in parts]
        assert not torch.allclose(found[0][0], exact[0])
        for mean, wanted in zip(map(torch.stack, zip(*found, strict=True)), exact, strict=True):
            close(mean.mean(0), wanted)


def test_the_variance_of_one_example_is_the_documented_one() -> None:
    x, y, v = point(NOISY, 1, 4)
    single = [Batch(torch.tensor([i])) for i in range(12)]
    a_y, b_x, a_v, b_v, a_x = y @ NOISY.a_g, x @ NOISY.b_g.T, v @ NOISY.a_g, v @ NOISY.b_g, x @ NOISY.a_f

    def total(found: list[Tensor]) -> float:
        return float(torch.cat(found).var(0, correction=0).sum()) / 0.3**2

    def square(value: Tensor) -> float:
        return float((value**2).sum())

    by_x, by_y = zip(*(NOISY.upper_gradient(x, y, batch) for batch in single), strict=True)
    found = [
        total([NOISY.lower_gradient(x, y, batch) for batch in single]),
        total([NOISY.hessian_vector(x, y, v, batch) for batch in single]),
        total([NOISY.cross(x, y, v, batch) for batch in single]),
        total(list(by_x)),
        total(list(by_y)),
    ]
    expected = [square(a_y) + square(b_x) + 6, square(a_v), square(b_v), square(a_x) + 9, 6]
    assert found == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lower_condition": 0.5}, "lower_condition must be at least 1, but got 0.5"),
        ({"lower_dim": 1}, "lower_dim must be at least 2, but got 1"),
        ({"samples": 0}, "samples must be at least 1, but got 0"),
        ({"noise": -0.1}, "noise must be at least 0, but got -0.1"),
        ({"noise": 0.1}, "samples must be at least 4 where there is noise, but got 1"),
    ],
)
def test_options_that_make_no_problem_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(HarnessError, match=said):
        make(**options)


def test_the_grids_are_the_papers() -> None:
    """T, N in {1, 10, 100, 1000}, all step sizes 1."""
    plugins, shipped = Plugins(), find_space("quadratic", None)
    for name, searched in {
        "amigo": {"lower_steps", "system_steps"},
        "amigo_cg": {"lower_steps", "system_steps"},
        "aid_fp": {"lower_steps", "system_steps"},
        "aid_gd": {"lower_steps", "system_steps"},
        "aid_cg": {"lower_steps", "system_steps"},
        "aid_cg_ws": {"lower_steps", "system_steps"},
        "aid_n": {"lower_steps", "system_steps"},
        "itd": {"lower_steps"},
    }.items():
        space = shipped.space(name, plugins.solver(name))
        configs = [space.resolve(GridDraws(space).draw(n)) for n in range(grid_size(space))]

        assert set(space.searched()) == searched and len(configs) == 4 ** len(searched)
        assert {config[p] for config in configs for p in searched} == {1, 10, 100, 1000}
        assert {c[p] for c in configs for p in c if p.endswith("step_size")} == {1.0}


@pytest.mark.parametrize("name", find_space("quadratic", None).solvers())
def test_every_table_fits_its_solver_and_the_upper_error_falls(name: str) -> None:
    """At the best of eight random places of the space, on the deterministic problem, kappa_g = 10: a space
    that is wide enough to search holds configurations that diverge."""
    solver = Plugins().solver(name)
    space = find_space("quadratic", None).space(name, solver)
    draws = RandomDraws(3, space)
    problem = make(lower_condition=10.0)
    found = []
    for n in range(8):
        config = space.resolve(draws.draw(n))
        budget = 6 * float(first_cost(problem, solver, [config], seed=0)[0])
        found += run_pack(problem, solver, [config], Rules(budget, {}, seed=0), CPU, problem.dtype)
    best = min((r for r in found if r.state == "completed"), key=lambda r: r.objective)

    assert best.upper_iterations >= 2
    assert best.objective < 1
