"""Data poisoning: closed forms against the derived oracles, the splits, the feasible set, the evaluation."""

import copy

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness import derive
from harness.batch import Batch
from problems._balls import BALLS, nearest, norms
from problems.data_poisoning import DataPoisoning


@pytest.fixture(scope="module")
def problem() -> DataPoisoning:
    problem = DataPoisoning(dataset="digits")
    problem.setup(None, 2, torch.device("cpu"), torch.float64)
    return problem


def _point(problem: DataPoisoning, trials: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    normal = [
        torch.randn(trials, d, generator=draw, dtype=torch.float64) for d in (problem.dim_x, problem.dim_y)
    ]
    return (
        0.3 * normal[0],
        0.1 * normal[1],
        torch.randn(trials, problem.dim_y, generator=draw, dtype=torch.float64),
    )


def _batches(problem: DataPoisoning, trials: int, seed: int) -> list[Batch]:
    draw = torch.Generator().manual_seed(seed)
    some = torch.randperm(problem.lower_examples, generator=draw)[:50].sort().values
    counts = torch.randint(0, 3, (trials, 50), generator=draw)
    counts[:, 0] = 1
    every = torch.arange(problem.lower_examples)
    return [
        Batch(some),
        Batch(every, full=True),
        Batch(some, counts=counts),
    ]


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), trials=st.integers(1, 4), kind=st.sampled_from([0, 1, 2]))
def test_closed_forms_equal_the_derived_oracles(
    problem: DataPoisoning, seed: int, trials: int, kind: int
) -> None:
    """To 1e-10 in float64, on a mini-batch, the full set and repeated draws."""
    x, y, v = _point(problem, trials, seed)
    batch = _batches(problem, trials, seed)[kind]

    torch.testing.assert_close(
        problem.lower_gradient(x, y, batch),
        derive.lower_gradient(problem, x, y, batch),
        rtol=1e-10,
        atol=1e-12,
    )
    torch.testing.assert_close(
        problem.hessian_vector(x, y, v, batch),
        derive.hessian_vector(problem, x, y, v, batch),
        rtol=1e-10,
        atol=1e-12,
    )
    torch.testing.assert_close(
        problem.cross(x, y, v, batch), derive.cross(problem, x, y, v, batch), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("full", [True, False])
def test_the_upper_gradient_equals_the_derived_one(problem: DataPoisoning, full: bool) -> None:
    x, y, _ = _point(problem, 3, 0)
    rows = torch.arange(problem.upper_examples if full else 30)
    batch = Batch(rows, full=full)
    by_x, by_y = problem.upper_gradient(x, y, batch)
    derived_x, derived_y = derive.upper_gradient(problem, x, y, batch)

    assert not derived_x.any() and not by_x.any()
    torch.testing.assert_close(by_y, derived_y, rtol=1e-10, atol=1e-12)


DUAL = {"l2": 2.0, "l1": float("inf"), "linf": 1.0}


@example(
    ball="l2", radius=3.7576795518935024, scale=1.0, seed=0, width=1
)  # a number times its inverse is not 1
@settings(max_examples=60, deadline=None)
@given(
    ball=st.sampled_from(BALLS),
    radius=st.floats(0.01, 20),
    scale=st.floats(0, 50),
    seed=st.integers(0, 10_000),
    width=st.integers(1, 40),
)
def test_no_point_of_the_ball_is_nearer(
    ball: str, radius: float, scale: float, seed: int, width: int
) -> None:
    """P is nearest to v where <v - P, z - P> <= 0 for all z of the ball; the largest <v - P, z> is the radius
    times the dual norm."""
    draw = torch.Generator().manual_seed(seed)
    rows = scale * torch.randn(5, width, generator=draw, dtype=torch.float64).round(decimals=1)
    found = nearest(rows, ball, radius)
    left = rows - found
    most = radius * torch.linalg.vector_norm(left, DUAL[ball], dim=1)

    assert float(norms(found, ball).max()) <= radius + 1e-13 * (radius + scale * width)
    assert float((most - (left * found).sum(1)).max()) <= 1e-10 * (1 + scale * scale * width)
    inside = norms(rows, ball) <= radius
    assert torch.equal(found[inside], rows[inside])


@pytest.mark.parametrize(("ball", "radius"), [("l2", 5.0), ("l1", 8.0), ("linf", 0.3)])
@pytest.mark.parametrize("box", [True, False])
def test_the_projection_is_feasible_idempotent_and_moves_only_touched_rows(
    box: bool, ball: str, radius: float
) -> None:
    problem = DataPoisoning(dataset="digits", box=box, ball=ball, radius=radius)
    problem.setup(None, 0, torch.device("cpu"), torch.float64)
    x, _, _ = _point(problem, 2, 1)
    direction = torch.zeros_like(x)
    direction[:, : problem.pixels] = 1.0
    inside = problem.project(20 * x)
    stepped = problem.projected_step(inside, direction, torch.tensor([[1e3], [1.0]], dtype=torch.float64))

    rows = inside.view(-1, problem.pixels)
    assert float(norms(rows, ball).max()) <= radius + 1e-12
    if box:
        pixels = rows + problem._poison.images.repeat(2, 1)
        assert 0 <= float(pixels.min()) and float(pixels.max()) <= 1
    torch.testing.assert_close(problem.project(inside), inside, rtol=0, atol=1e-14)
    assert torch.equal(stepped[:, problem.pixels :], inside[:, problem.pixels :])
    expected = problem.project(inside - torch.tensor([[1e3], [1.0]]) * direction)
    torch.testing.assert_close(stepped, expected, rtol=0, atol=1e-14)


def test_the_retraining_equals_a_literal_one() -> None:
    """torch's SGD with momentum on the poisoned set by autograd gives the same accuracies and losses,
    whatever y the method held."""
    problem = DataPoisoning(dataset="digits")
    problem.setup(None, 3, torch.device("cpu"), torch.float64)
    x, y, _ = _point(problem, 2, 5)
    x = problem.project(x)
    every = torch.arange(problem.lower_examples)
    for row, found in zip(x, problem.evaluate_pack(x, y), strict=True):
        w = torch.zeros(problem.dim_y, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.SGD([w], lr=0.1, momentum=0.5)
        for _ in range(1000):
            optimiser.zero_grad()
            problem.lower_loss(row, w, every).mean().backward()
            optimiser.step()
        expected = problem.metrics(row.unsqueeze(0), w.detach().unsqueeze(0))[0]

        assert expected == pytest.approx(found, rel=1e-9)


def test_the_paper_regulariser_is_ten_times_the_codes() -> None:
    code, paper = DataPoisoning(dataset="digits"), DataPoisoning(dataset="digits", regulariser="paper")
    for problem in (code, paper):
        problem.setup(None, 0, torch.device("cpu"), torch.float64)

    assert paper._rho == pytest.approx(10 * code._rho)


def test_splits_are_stratified_and_depend_on_the_data_seed_only() -> None:
    first, again, other = (DataPoisoning(dataset="digits") for _ in range(3))
    for problem, seed in ((first, 1), (again, 1), (other, 2)):
        problem.setup(None, seed, torch.device("cpu"), torch.float64)

    assert torch.equal(first._poison.images, again._poison.images)
    assert not torch.equal(first._poison.images, other._poison.images)
    assert first.lower_examples == 1077 and first.upper_examples == 360
    assert set(first._poison.labels.tolist()) == set(range(10))


def test_trials_in_stacks_as_on_a_device_are_those_one_by_one(problem: DataPoisoning) -> None:
    """Stacks of two of three trials; batches in which they drew different rows, among them."""
    stacked = copy.copy(problem)
    stacked._stacked, stacked._own_rows = True, 2 * len(problem._poison.images)
    x, y, z = _point(problem, 3, seed=4)
    pairs = [
        one.cross(x, y, z, batch) for batch in _batches(problem, 3, seed=4) for one in (problem, stacked)
    ]

    for alone, together in zip(pairs[::2], pairs[1::2], strict=True):
        torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-15)
    alone, together = (one._retrain(x, steps=5) for one in (problem, stacked))
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-15)
