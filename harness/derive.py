"""Batched derivatives from the losses of one trial, by torch.func (grad, jvp, vmap)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

if TYPE_CHECKING:
    from harness.problem import Batch, Problem

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def _mean(loss: Loss, batch: Batch, like: Tensor) -> tuple[Loss, Tensor]:
    """The (weighted) mean of a loss over the batch as a function of (x, y, w), and the weights w."""
    weights = batch.weights(like)
    if weights is None:
        size = len(batch.rows)
        weights = torch.full((len(like), size), 1 / size, dtype=like.dtype, device=like.device)
    return lambda x, y, w: (w * loss(x, y, batch.rows)).sum(), weights


def lower_gradient(problem: Problem, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
    mean, weights = _mean(problem.lower_loss, batch, y)
    found: Tensor = vmap(grad(mean, argnums=1))(x, y, weights)
    return found


def hessian_vector(problem: Problem, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
    mean, weights = _mean(problem.lower_loss, batch, y)

    def along(x: Tensor, y: Tensor, v: Tensor, w: Tensor) -> Tensor:
        product: Tensor = jvp(lambda y: grad(mean, argnums=1)(x, y, w), (y,), (v,))[1]
        return product

    found: Tensor = vmap(along)(x, y, v, weights)
    return found


def cross(problem: Problem, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
    mean, weights = _mean(problem.lower_loss, batch, y)

    def along(x: Tensor, y: Tensor, v: Tensor, w: Tensor) -> Tensor:
        product: Tensor = grad(lambda x: (grad(mean, argnums=1)(x, y, w) * v).sum())(x)
        return product

    found: Tensor = vmap(along)(x, y, v, weights)
    return found


def upper_gradient(problem: Problem, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    mean, weights = _mean(problem.upper_loss, batch, y)
    by_x, by_y = vmap(grad(mean, argnums=(0, 1)))(x, y, weights)
    return by_x, by_y
