"""Equilibrium model: closed forms against the derived oracles, the fixed point, Lambda, the evaluation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness import derive
from harness.batch import Batch
from harness.errors import HarnessError
from problems.equilibrium import CONTRACTION, Equilibrium, clip_spectrum, onto_l1_ball

CPU, F64 = torch.device("cpu"), torch.float64


def _made(**options: object) -> Equilibrium:
    problem = Equilibrium(dataset="digits", width=5, **options)  # type: ignore[arg-type]
    problem.setup(None, 3, CPU, F64)
    return problem


@pytest.fixture(scope="module")
def problem() -> Equilibrium:
    return _made()


def _point(problem: Equilibrium, trials: int, examples: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A feasible x with the bound on A active, and any y and v of some examples."""
    draw = torch.Generator().manual_seed(seed)
    sizes = (problem.dim_x, examples * problem.dim_y, examples * problem.dim_y)
    x, y, v = (torch.randn(trials, size, generator=draw, dtype=F64) for size in sizes)
    return problem.project(0.5 * x), y, v


def _rows(problem: Equilibrium, number: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randperm(problem.lower_examples, generator=draw)[:number].sort().values


def _close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def _assert_closed_forms(problem: Equilibrium, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> None:
    _close(problem.lower_gradient(x, y, batch), derive.lower_gradient(problem, x, y, batch))
    _close(problem.hessian_vector(x, y, v, batch), derive.hessian_vector(problem, x, y, v, batch))
    _close(problem.cross(x, y, v, batch), derive.cross(problem, x, y, v, batch))
    for found, expected in zip(
        problem.upper_gradient(x, y, batch), derive.upper_gradient(problem, x, y, batch), strict=True
    ):
        _close(found, expected)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), trials=st.integers(1, 4))
def test_closed_forms_equal_the_derived_oracles(problem: Equilibrium, seed: int, trials: int) -> None:
    """To 1e-10 in float64."""
    x, y, v = _point(problem, trials, 40, seed)
    _assert_closed_forms(problem, x, y, v, Batch(_rows(problem, 40, seed)))


def test_closed_forms_equal_the_derived_oracles_on_the_full_set(problem: Equilibrium) -> None:
    n = problem.lower_examples
    x, y, v = _point(problem, 2, n, 0)
    _assert_closed_forms(problem, x, y, v, Batch(torch.arange(n), full=True))


def test_nothing_computed_earlier_shows(problem: Equilibrium) -> None:
    """The same tensors, fewer trials, more, others, other rows, part of the rows, tensors written to and
    tensors of freed memory: always what the derived oracle says."""
    x, y, v = _point(problem, 4, 40, 7)
    rows = _rows(problem, 60, 7)
    some, others = rows[:40], rows[20:]

    def check(x: Tensor, y: Tensor, v: Tensor, rows: Tensor) -> None:
        _assert_closed_forms(problem, x, y, v, Batch(rows))

    check(x, y, v, some)
    check(x, y, v, some)
    check(x[:2], y[:2], v[:2], some)
    check(x, y, v, some)
    check(x[1:3], y[1:3], v[1:3], some)
    check(x[::2], y[::2], v[::2], others)
    check(x[:2], y[:2], v[:2], others)
    check(x, y, v, others)
    fewer = 10 * problem.dim_y
    check(x, y[:, :fewer], v[:, :fewer], others[:10])
    check(x, y, v, some)
    x[0].mul_(0.5)
    check(x, y, v, some)
    y.view(-1)[3] = 0.25
    check(x, y, v, some)
    some[0] = 0 if some[0] else 1
    check(x, y, v, some)
    for scale in (0.1, 0.2, 0.3):
        check(scale * x, scale * y, v, some)


# --- the levels


def _solved(problem: Equilibrium, x: Tensor, batch: Batch, steps: int = 60) -> Tensor:
    y = x.new_zeros(len(x), len(batch.rows) * problem.dim_y)
    for _ in range(steps):
        y = y - problem.lower_gradient(x, y, batch)
    return y


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_every_lower_step_halves_the_distance_in_lambda(problem: Equilibrium, seed: int) -> None:
    x, y, _ = _point(problem, 2, 9, seed)
    batch = Batch(_rows(problem, 9, seed))
    solution = _solved(problem, x, batch)
    _close(problem.lower_gradient(x, solution, batch), torch.zeros_like(solution))
    stepped = y - problem.lower_gradient(x, y, batch)
    before, after = ((point - solution).view(2, 9, -1).norm(dim=2) for point in (y, stepped))

    assert (after <= CONTRACTION * before * (1 + 1e-9)).all()


def test_the_system_is_that_of_a_dense_solve(problem: Equilibrium) -> None:
    """(I - diag(1 - w^2) A)^T z = -d_y f, one small system per example."""
    x, _, _ = _point(problem, 1, 9, 11)
    batch = Batch(_rows(problem, 9, 11))
    y = _solved(problem, x, batch)
    _, f_y = problem.upper_gradient(x, y, batch)
    z = torch.zeros_like(f_y)
    for _ in range(60):
        z = z - problem.hessian_vector(x, y, z, batch) - f_y
    matrix = problem._parts(x).A[0].numpy()
    for w, right, found in zip(*(array.view(9, -1).numpy() for array in (y[0], f_y[0], z[0])), strict=True):
        jacobian = (1 - w**2)[:, None] * matrix
        expected = np.linalg.solve((np.eye(len(w)) - jacobian).T, -right)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_hypergradient_is_the_slope_of_the_true_objective(problem: Equilibrium, seed: int) -> None:
    """Central differences of f(x, y*(x)) along random directions, to 1e-7."""
    x, _, _ = _point(problem, 1, 1, seed)
    direction, _, _ = _point(problem, 1, 1, seed + 1)
    direction = direction / direction.norm()
    rows = _rows(problem, 30, seed)
    batch = Batch(rows)

    def objective(x: Tensor) -> float:
        return float(problem.upper_loss(x[0], _solved(problem, x, batch)[0], rows).mean())

    slope = (objective(x + 1e-5 * direction) - objective(x - 1e-5 * direction)) / 2e-5
    y = _solved(problem, x, batch)
    f_x, f_y = problem.upper_gradient(x, y, batch)
    z = -f_y
    for _ in range(60):
        z = z - problem.hessian_vector(x, y, z, batch) - f_y
    h = f_x + problem.cross(x, y, z, batch)

    assert float((h * direction).sum()) == pytest.approx(slope, abs=1e-7)


# --- Lambda


def _svd_clipped(matrix: np.ndarray, bound: float) -> np.ndarray:
    u, s, v = np.linalg.svd(matrix)
    return np.asarray(u @ np.diag(np.minimum(s, bound)) @ v)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.integers(1, 30),
    scale=st.floats(1e-3, 1e5),
    dtype=st.sampled_from([torch.float32, F64]),
)
def test_the_clip_is_that_of_a_singular_value_decomposition(
    seed: int, size: int, scale: float, dtype: torch.dtype
) -> None:
    """To 1e-6 (float32) or 1e-12 (float64) of the bound and the rounding of M^T M; feasible matrices and
    projections bit for bit."""
    draw = torch.Generator().manual_seed(seed)
    matrices = torch.randn(3, size, size, generator=draw, dtype=F64)
    matrices = matrices / torch.linalg.matrix_norm(matrices, ord=2).view(3, 1, 1)
    matrices = (matrices * torch.tensor([scale, 0.499, 0.51]).view(3, 1, 1)).to(dtype)
    clipped = clip_spectrum(matrices, 0.5)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12

    for matrix, found in zip(matrices.double().numpy(), clipped.double().numpy(), strict=True):
        norm = np.linalg.norm(matrix, 2)
        error = max(tolerance, 1e-15 * (norm / 0.5) ** 2)
        np.testing.assert_allclose(found, _svd_clipped(matrix, 0.5), rtol=0, atol=0.5 * error)
        assert np.linalg.norm(found, 2) <= 0.5 * (1 + 1.001 * tolerance)
    assert torch.equal(clipped[1], matrices[1])
    assert torch.equal(clip_spectrum(clipped, 0.5), clipped)


def test_a_trial_that_is_not_finite_is_left_alone_by_the_clip() -> None:
    matrices = torch.eye(4).repeat(3, 1, 1)
    matrices[1, 0, 0] = float("nan")
    clipped = clip_spectrum(matrices, 0.5)

    torch.testing.assert_close(clipped[[0, 2]], 0.5 * matrices[[0, 2]])
    assert not torch.isfinite(clipped[1]).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 12), scale=st.floats(1e-2, 1e2))
def test_the_l1_projection_is_the_nearest_point(seed: int, size: int, scale: float) -> None:
    """Feasible, and the optimality condition <r - P r, u - P r> <= 0 for every vertex u of the ball."""
    draw = torch.Generator().manual_seed(seed)
    rows = scale * torch.randn(4, size, generator=draw, dtype=F64)
    projected = onto_l1_ball(rows)
    normals = rows - projected
    vertices = torch.cat([torch.eye(size, dtype=F64), -torch.eye(size, dtype=F64)])

    assert (projected.abs().sum(1) <= 1 + 1e-12).all()
    reach = (normals @ vertices.T).amax(1) - (normals * projected).sum(1)
    assert (reach <= 1e-9 * scale).all()
    inside = 0.99 * projected
    torch.testing.assert_close(onto_l1_ball(inside), inside, rtol=0, atol=1e-15)


@pytest.mark.parametrize("bound", ["entrywise", "row_sums"])
def test_the_projection_is_feasible_idempotent_and_never_stretches(bound: str) -> None:
    problem = _made(theta_bound=bound)
    draw = torch.Generator().manual_seed(0)
    u, v = (2 * torch.randn(6, problem.dim_x, generator=draw, dtype=F64) for _ in range(2))
    nearer = u + 0.01 * v
    projected = problem.project(u)
    parts, free = problem._parts(projected), problem._parts(u)

    assert float(torch.linalg.matrix_norm(parts.A, ord=2).max()) <= CONTRACTION * (1 + 1e-12)
    size = parts.theta.abs() if bound == "entrywise" else parts.theta.abs().sum(2)
    assert float(size.max()) <= 1 + 1e-12
    for name in ("b", "B", "a"):
        assert torch.equal(getattr(parts, name), getattr(free, name))
    torch.testing.assert_close(problem.project(projected), projected, rtol=0, atol=1e-14)
    for other in (v, nearer):
        stretched = (projected - problem.project(other)).norm(dim=1) / (u - other).norm(dim=1)
        assert float(stretched.max()) <= 1 + 1e-12


# --- start and evaluation


def test_the_start_is_small_normal_and_depends_on_the_seed_only() -> None:
    problem = Equilibrium(dataset="digits", width=60)
    problem.setup(None, 0, CPU, F64)
    x, y = problem.initial(1)
    parts = problem._parts(x)

    assert not y.any() and not parts.b.any()
    for name in ("theta", "A", "B", "a"):
        entries = getattr(parts, name).flatten()
        assert abs(float(entries.mean())) < 4 * 0.01 / len(entries) ** 0.5
        assert float(entries.std()) == pytest.approx(0.01, abs=4 * 0.01 / (2 * len(entries)) ** 0.5)
    assert torch.equal(problem.initial(1)[0], x)
    assert not torch.equal(problem.initial(2)[0], x)


def _literal(problem: Equilibrium, x: Tensor, train: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """The evaluation in NumPy: exact fixed points by Newton, dense systems, a full SVD."""
    theta, b, A, B, a = (part.numpy() for part in problem._parts(x))
    images, labels = problem._images.numpy(), problem._labels.numpy()
    eye, found = np.eye(len(a)), {}
    gradient = [np.zeros_like(part) for part in (theta, b, A, B, a)]
    for split, rows in (("train", train), ("test", test)):
        losses, hits = [], []
        for i in rows:
            w = np.zeros_like(a)
            for _ in range(50):
                image = np.tanh(A @ w + B @ images[i] + a)
                w = w - np.linalg.solve(eye - (1 - image**2)[:, None] * A, w - image)
            logits = theta @ w + b
            shares = np.exp(logits - logits.max())
            shares = shares / shares.sum()
            losses.append(-np.log(shares[labels[i]]))
            hits.append(logits.argmax() == labels[i])
            if split == "train":
                r = (shares - np.eye(10)[labels[i]]) / len(rows)
                z = np.linalg.solve((eye - (1 - w**2)[:, None] * A).T, -theta.T @ r)
                s = -(1 - w**2) * z
                terms = (np.outer(r, w), r, np.outer(s, w), np.outer(s, images[i]), s)
                gradient = [total + term for total, term in zip(gradient, terms, strict=True)]
        found[f"{split}_loss"], found[f"{split}_accuracy"] = (
            float(np.mean(losses)),
            100 * float(np.mean(hits)),
        )
    theta_gap = theta - np.clip(theta - gradient[0], -1, 1)
    a_gap = A - _svd_clipped(A - gradient[2], 0.5)
    gaps = (theta_gap, gradient[1], a_gap, gradient[3], gradient[4])
    return found | {"prox_map_norm": float(np.sqrt(sum((gap**2).sum() for gap in gaps)))}


def test_the_evaluation_equals_a_literal_one() -> None:
    """Of two trials at once; the twenty steps of the protocol leave 1e-6."""
    problem = _made(evaluation_examples=50)
    x, _, _ = _point(problem, 2, 1, 5)
    train, test = problem._evaluation.numpy(), problem._test.numpy()

    assert len(set(train.tolist())) == 50 and train.max() < problem.lower_examples == 1437
    assert len(test) == 360 and test.min() == 1437
    held = x.new_empty(2, 0)
    for row, found in zip(x, problem.evaluate_pack(x, held), strict=True):
        assert found == pytest.approx(_literal(problem, row, train, test), rel=1e-5)
        assert problem.evaluate(row, held[0]) == pytest.approx(found, rel=1e-12)


def test_a_curve_takes_the_first_of_the_evaluation_examples() -> None:
    problem = _made(evaluation_examples=50, curve_examples=20)
    x, y, _ = _point(problem, 1, 1, 6)
    expected = _literal(problem, x[0], problem._evaluation[:20].numpy(), problem._test[:20].numpy())

    assert problem.metrics(x, y)[0] == pytest.approx(expected, rel=1e-5)


def test_the_evaluation_examples_depend_on_the_data_seed_only() -> None:
    first, again = _made(evaluation_examples=50), _made(evaluation_examples=50)
    other = Equilibrium(dataset="digits", width=5, evaluation_examples=50)
    other.setup(None, 4, CPU, F64)

    assert torch.equal(first._evaluation, again._evaluation)
    assert not torch.equal(first._evaluation, other._evaluation)
    assert len(_made()._evaluation) == 1437


@pytest.mark.parametrize("option", ["width", "evaluation_examples", "curve_examples"])
def test_nothing_less_than_one_is_taken(option: str) -> None:
    problem = Equilibrium(dataset="digits", **{option: 0})  # type: ignore[arg-type]
    with pytest.raises(HarnessError, match=f"{option} must be at least 1, but got 0"):
        problem.setup(None, 0, CPU, F64)
