"""Dataset distillation: closed forms, the condition number, the two readings of the regulariser."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness import derive
from harness.batch import Batch
from harness.errors import HarnessError
from problems.distillation import Distillation, condition_number, lower_solution

CPU, F64 = torch.device("cpu"), torch.float64


def make(data_seed: int = 0, dtype: torch.dtype = F64, **options: Any) -> Distillation:
    problem = Distillation(**{"dataset": "digits", **options})
    problem.setup(None, data_seed, CPU, dtype)
    return problem


PROBLEM = make()


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


def point(trials: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and a direction v shaped like y."""
    draw = torch.Generator().manual_seed(seed)
    sizes = (PROBLEM.dim_x, PROBLEM.dim_y, PROBLEM.dim_y)
    x, y, v = (torch.randn(trials, size, generator=draw, dtype=F64) for size in sizes)
    return x, 0.3 * y, v


def batches(level: str, trials: int, seed: int) -> list[Batch]:
    """Some examples, all, some with counts, all with counts."""
    draw = torch.Generator().manual_seed(seed)
    size, few = (10, 4) if level == "lower" else (PROBLEM.upper_examples, 70)
    some = torch.randperm(size, generator=draw)[:few].sort().values
    counts = torch.randint(0, 3, (trials, size), generator=draw)
    counts[:, 0] = 1
    return [
        Batch(some),
        Batch(torch.arange(size), full=True),
        Batch(some, counts=counts[:, :few]),
        Batch(torch.arange(size), counts=counts, full=True),
    ]


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), trials=st.integers(1, 3), kind=st.integers(0, 3))
def test_closed_forms_equal_the_derived_oracles(seed: int, trials: int, kind: int) -> None:
    x, y, v = point(trials, seed)
    lower, upper = (batches(level, trials, seed)[kind] for level in ("lower", "upper"))
    problem = PROBLEM
    joint = zip(
        problem.joint_lower_gradient(x, y, lower),
        derive.joint_lower_gradient(problem, x, y, lower),
        strict=True,
    )
    pairs = [
        (problem.lower_gradient(x, y, lower), derive.lower_gradient(problem, x, y, lower)),
        (problem.hessian_vector(x, y, v, lower), derive.hessian_vector(problem, x, y, v, lower)),
        (problem.cross(x, y, v, lower), derive.cross(problem, x, y, v, lower)),
        (problem.lower_value(x, y, lower), derive.lower_value(problem, x, y, lower)),
        (problem.upper_value(x, y, upper), derive.upper_value(problem, x, y, upper)),
        (problem.upper_gradient(x, y, upper)[1], derive.upper_gradient(problem, x, y, upper)[1]),
        *joint,
    ]
    for closed, derived in pairs:
        close(closed, derived)


def test_blocks_of_images_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, _ = point(2, 1)
    for batch in batches("upper", 2, 1):
        whole = PROBLEM.upper_gradient(x, y, batch)[1], PROBLEM.upper_value(x, y, batch)
        scores = PROBLEM.metrics(x, y)
        with monkeypatch.context() as patch:
            patch.setattr("problems.distillation.BLOCK", 33)
            close(PROBLEM.upper_gradient(x, y, batch)[1], whole[0])
            close(PROBLEM.upper_value(x, y, batch), whole[1])
            for cut, one in zip(PROBLEM.metrics(x, y), scores, strict=True):
                assert cut == pytest.approx(one)


def test_the_lower_loss_is_the_published_codes_and_the_papers_regulariser_is_twice_that() -> None:
    (x, y, _), batch = point(1, 3), batches("lower", 1, 0)[1]
    images, logarithms, w = x[0, :640].view(10, 64), x[0, 640:], y.view(10, 64)
    regulariser = 0.5 * (w**2 * logarithms.exp()).mean()
    expected = cross_entropy(images @ w.T, torch.arange(10)) + regulariser
    close(PROBLEM.lower_value(x, y, batch)[0], expected)
    close(make(regulariser="paper").lower_value(x, y, batch)[0], expected + regulariser)


@pytest.mark.parametrize("spread", [0.0, 1.0, 8.0, 20.0])
@pytest.mark.parametrize("trained", [False, True])
def test_the_condition_number_is_that_of_the_whole_hessian(spread: float, trained: bool) -> None:
    """Also where the largest curvature is above all else."""
    x, y, _ = point(1, 5)
    x[:, PROBLEM.dim_y :] *= spread
    y = y if trained else 0 * y
    every = batches("lower", 1, 0)[1]
    hessian = torch.func.hessian(lambda y: PROBLEM.lower_value(x, y.unsqueeze(0), every)[0])(y[0])
    values = torch.linalg.eigvalsh(hessian)
    found = PROBLEM.evaluate(x[0], y[0])["condition"]

    curvature = PROBLEM._curvature(x)[0, 0]
    exact = float(values[-1]) / float(curvature.min())
    assert found == pytest.approx(exact, rel=1e-9)
    assert float(values[0]) == pytest.approx(float(curvature.min()), abs=1e-13 * float(values[-1]))


def test_a_condition_number_that_overflows_is_infinite() -> None:
    images, w = torch.ones(10, 3), torch.zeros(10, 3)
    assert condition_number(images, torch.tensor([1.0, torch.inf, 1.0]), w) == np.inf
    assert condition_number(images, torch.ones(3), w * torch.nan) == np.inf
    assert condition_number(images, torch.tensor([1.0, 0.0, 1.0]), w) == np.inf  # exp(-1e4): it divided by 0


@pytest.mark.parametrize(("regulariser", "low", "high"), [("code", 6.9e4, 8.1e4), ("paper", 3.4e4, 4.1e4)])
def test_at_the_start_the_condition_number_is_of_the_order_of_the_papers(
    regulariser: str, low: float, high: float
) -> None:
    """The paper says 7e4. At lambda = 0, W = 0 it depends on u and the sizes only: here those of MNIST."""
    rho = (1 if regulariser == "code" else 2) / 7840
    for seed in range(5):
        images = torch.randn(10, 784, generator=torch.Generator().manual_seed(seed))
        assert low < condition_number(images, torch.full((784,), rho), torch.zeros(10, 784)) < high


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), spread=st.floats(0, 4), size=st.floats(0.01, 30))
def test_the_lower_solution_is_where_the_derived_gradient_vanishes(
    seed: int, spread: float, size: float
) -> None:
    """To rounding, which grows with the condition of U D^-1 U^T."""
    x, _, _ = point(1, seed)
    x[:, : PROBLEM.dim_y] *= size
    x[:, PROBLEM.dim_y :] *= spread
    curvature = PROBLEM._curvature(x)[0, 0]
    w = lower_solution(PROBLEM._parts(x).images[0], curvature).requires_grad_()
    PROBLEM.lower_loss(x[0], w.flatten(), torch.arange(10)).mean().backward()

    assert w.grad is not None and float(w.detach().norm()) > 0
    assert float(w.grad.norm()) <= 1e-6 * float((curvature * w).detach().norm())


def test_judged_by_its_x_a_method_may_hold_what_it_likes() -> None:
    problem = make(judged="trained")
    x, y, _ = point(2, 4)
    exact = [
        lower_solution(*own)
        for own in zip(problem._parts(x).images, problem._curvature(x)[:, 0], strict=True)
    ]

    assert problem.evaluate_pack(x, y) == problem.evaluate_pack(x, 0 * y)
    assert problem.evaluate_pack(x, y) == PROBLEM.evaluate_pack(x, torch.stack(exact).flatten(1))
    assert problem.metrics(x, y) == PROBLEM.metrics(x, y)
    x[0, problem.dim_y :] = -1e4  # no regulariser, no W(x)
    assert problem.evaluate_pack(x, y)[0]["train_loss"] == np.inf


def test_the_metrics_are_those_of_the_current_classifier() -> None:
    x, y, _ = point(2, 5)
    every = torch.arange(PROBLEM.upper_examples)
    for n, found in enumerate(PROBLEM.evaluate_pack(x, y)):
        train, test = (part.pixels @ y[n].view(10, -1).T for part in (PROBLEM._train, PROBLEM._test))
        expected = {
            "train_loss": float(PROBLEM.upper_loss(x[n], y[n], every).mean()),
            "train_accuracy": 100 * float((train.argmax(1) == PROBLEM._train.labels).double().mean()),
            "test_accuracy": 100 * float((test.argmax(1) == PROBLEM._test.labels).double().mean()),
        }
        assert PROBLEM.metrics(x, y)[n] == pytest.approx(expected)
        assert found == pytest.approx(expected | {"condition": found["condition"]})


def test_the_start_depends_on_the_seed_and_the_data_on_the_data_seed() -> None:
    first, again, other = (PROBLEM.initial(seed) for seed in (1, 1, 2))

    assert torch.equal(first[0], again[0]) and not torch.equal(first[0], other[0])
    assert not first[0][PROBLEM.dim_y :].any() and not first[1].any()
    assert float(first[0][: PROBLEM.dim_y].std()) == pytest.approx(1, abs=0.1)
    assert torch.equal(make(1)._test.pixels, make(1)._test.pixels)
    assert not torch.equal(make(1)._test.labels, make(2)._test.labels)
    assert float(PROBLEM._train.pixels.min()) == -1 and float(PROBLEM._train.pixels.max()) == 1


def test_missing_images_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="train-images-idx3-ubyte.gz is missing") as caught:
        Distillation().setup(tmp_path, 0, CPU, F64)
    assert "\n" not in str(caught.value)
