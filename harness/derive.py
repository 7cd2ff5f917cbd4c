"""Batched derivatives from the losses (or the map) of one trial, by torch.func (grad, vjp, vmap).

Both kinds of lower level are a residual R(x, y) that vanishes at y*(x): R = d_y g, or R = y - Phi(x, y).
The system is (d_y R)^T z + d_y f = 0 and the hypergradient d_x f + (d_x R)^T z, so all three lower
derivatives follow from R.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.func import grad, vjp, vmap

from harness.batch import Batch

Residual = Callable[[Tensor, Tensor, Tensor], Tensor]


class Losses(Protocol):
    """What the derivatives are derived from: a problem's losses of one trial (`harness.problem.Problem`)."""

    @property
    def by_example(self) -> bool: ...

    def is_map(self) -> bool: ...

    def lower_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor: ...

    def lower_map(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor: ...

    def upper_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor: ...


def _weights(batch: Batch, like: Tensor, summed: bool) -> Tensor:
    """Weights of the examples, shape (N, B): their share of the draws, or 1 each where they are summed."""
    weights = None if summed else batch.weights(like)
    if weights is None:
        size = len(batch.rows)
        each = 1.0 if summed else 1 / size
        weights = torch.full((len(like), size), each, dtype=like.dtype, device=like.device)
    return weights


def _lower(problem: Losses, batch: Batch) -> Residual:
    """g(x, y) of one trial, from weights w."""

    def loss(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return (w * problem.lower_loss(x, y, batch.rows)).sum()

    return loss


def _upper(problem: Losses, batch: Batch) -> Residual:
    """f(x, y) of one trial, from weights w."""

    def mean(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return (w * problem.upper_loss(x, y, batch.rows)).sum()

    return mean


def _residual(problem: Losses, batch: Batch) -> Residual:
    """R(x, y, w) of one trial, shape of y."""

    def gap(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        image = problem.lower_map(x, y, batch.rows)
        return y - (image.flatten() if problem.by_example else w @ image)

    return gap if problem.is_map() else grad(_lower(problem, batch), argnums=1)


def lower_gradient(problem: Losses, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
    found: Tensor = vmap(_residual(problem, batch))(x, y, _weights(batch, y, problem.by_example))
    return found


def joint_lower_gradient(problem: Losses, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    weights = _weights(batch, y, problem.by_example)
    by_x, by_y = vmap(grad(_lower(problem, batch), argnums=(0, 1)))(x, y, weights)
    return by_x, by_y


def hessian_vector(problem: Losses, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
    residual = _residual(problem, batch)

    def along(x: Tensor, y: Tensor, v: Tensor, w: Tensor) -> Tensor:
        product: Tensor = vjp(lambda y: residual(x, y, w), y)[1](v)[0]
        return product

    found: Tensor = vmap(along)(x, y, v, _weights(batch, y, problem.by_example))
    return found


def cross(problem: Losses, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
    residual = _residual(problem, batch)

    def along(x: Tensor, y: Tensor, v: Tensor, w: Tensor) -> Tensor:
        product: Tensor = vjp(lambda x: residual(x, y, w), x)[1](v)[0]
        return product

    found: Tensor = vmap(along)(x, y, v, _weights(batch, y, problem.by_example))
    return found


def upper_gradient(problem: Losses, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    weights = _weights(batch, y, summed=False)
    by_x, by_y = vmap(grad(_upper(problem, batch), argnums=(0, 1)))(x, y, weights)
    return by_x, by_y


def lower_value(problem: Losses, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
    found: Tensor = vmap(_lower(problem, batch))(x, y, _weights(batch, y, problem.by_example))
    return found


def upper_value(problem: Losses, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
    found: Tensor = vmap(_upper(problem, batch))(x, y, _weights(batch, y, summed=False))
    return found
