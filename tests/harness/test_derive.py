"""Derivatives of losses and maps at the edges: what depends on nothing, what is not finite, autograd's modes.

Elsewhere they are held against torch.func and against every closed form."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from harness import derive
from harness.batch import Batch
from harness.check import F64

TRIALS, ROWS = 3, torch.arange(4)
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Two:
    """Losses of two variables alike for all examples; of a map where one is given."""

    lower: Loss
    upper: Loss = lambda x, y: (x * y).sum()
    map: Loss | None = None
    by_example: bool = False

    def is_map(self) -> bool:
        return self.map is not None

    def lower_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return self.lower(x, y).expand(len(rows))

    def upper_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return self.upper(x, y).expand(len(rows))

    def lower_map(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        assert self.map is not None
        return self.map(x, y).expand(len(rows), -1)


def all_of(problem: Two, x: Tensor, y: Tensor, v: Tensor) -> list[Tensor]:
    batch = Batch(ROWS)
    lower = [derive.lower_gradient(problem, x, y, batch)]
    if not problem.is_map():
        lower += derive.joint_lower_gradient(problem, x, y, batch)
    products = [oracle(problem, x, y, v, batch) for oracle in (derive.hessian_vector, derive.cross)]
    return [*lower, *products, *derive.upper_gradient(problem, x, y, batch)]


def points() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, y, v = torch.randn(3, TRIALS, 2, dtype=F64, generator=generator)
    return x, y, v


def test_what_a_loss_does_not_depend_on_has_the_derivative_zero() -> None:
    """y alone, linearly; and nothing at all."""
    x, y, v = points()
    one, zero = torch.ones_like(y), torch.zeros_like(y)
    linear = Two(lambda x, y: y.sum(), upper=lambda x, y: y.sum())
    constant = Two(lambda x, y: torch.ones((), dtype=F64), upper=lambda x, y: torch.ones((), dtype=F64))

    torch.testing.assert_close(all_of(linear, x, y, v), [one, zero, one, zero, zero, zero, one])
    torch.testing.assert_close(all_of(constant, x, y, v), [zero] * 7)


def test_a_map_that_depends_on_neither_has_the_identity_as_its_system() -> None:
    x, y, v = points()
    fixed = Two(lambda x, y: y.sum(), map=lambda x, y: torch.full((2,), 0.25, dtype=F64))

    torch.testing.assert_close(all_of(fixed, x, y, v), [y - 0.25, v, torch.zeros_like(x), y, x])


CURVED = Two(lambda x, y: (x**2 * y**3).sum() + y.sum().exp())
MAPPED = Two(CURVED.lower, map=lambda x, y: 0.1 * (x * y).sin())


@pytest.mark.parametrize("problem", [CURVED, MAPPED], ids=["loss", "map"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_trial_that_is_not_finite_leaves_its_neighbours_as_they_are(problem: Two, bad: float) -> None:
    x, y, v = points()
    before = all_of(problem, x, y, v)
    y[1, 0] = bad
    after = all_of(problem, x, y, v)

    assert any(not value[1].isfinite().all() for value in after)
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old[[0, 2]], new[[0, 2]])


@pytest.mark.parametrize("problem", [CURVED, MAPPED], ids=["loss", "map"])
def test_derivatives_are_plain_tensors_whatever_the_caller_does_with_autograd(problem: Two) -> None:
    x, y, v = points()
    plain = all_of(problem, x, y, v)
    with torch.no_grad():
        silent = all_of(problem, x, y, v)
    with torch.inference_mode():
        inferred, made_there = all_of(problem, x, y, v), all_of(problem, x + 0, y + 0, v + 0)
    watched = all_of(problem, x.requires_grad_(), y.requires_grad_(), v)

    for first, *others in zip(plain, silent, inferred, made_there, watched, strict=True):
        assert not any(value.requires_grad for value in (first, *others))
        for other in others:
            assert torch.equal(first, other)
