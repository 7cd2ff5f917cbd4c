"""Batched derivatives from the losses (or the map) of one trial.

vmap makes them those of a pack, and autograd differentiates their sum, whose derivative by a trial's variable
is that of its own loss.

Both kinds of lower level are a residual R(x, y) that vanishes at y*(x): R = d_y g, or R = y - Phi(x, y).
The system is (d_y R)^T z + d_y f = 0 and the hypergradient d_x f + (d_x R)^T z, so all three lower
derivatives follow from R.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.func import vmap

from harness.batch import Batch

_recording = torch.inference_mode(False)
"""With autograd on, whatever the caller has turned off."""
OfTrial = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of x, y and the weights of the examples."""


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


def _lower(problem: Losses, batch: Batch) -> OfTrial:
    """g(x, y) of one trial, from weights w."""

    def loss(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return (w * problem.lower_loss(x, y, batch.rows)).sum()

    return loss


def _upper(problem: Losses, batch: Batch) -> OfTrial:
    """f(x, y) of one trial, from weights w."""

    def mean(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return (w * problem.upper_loss(x, y, batch.rows)).sum()

    return mean


def _gap(problem: Losses, batch: Batch) -> OfTrial:
    """y - Phi(x, y) of one trial."""

    def gap(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        image = problem.lower_map(x, y, batch.rows)
        return y - (image.flatten() if problem.by_example else w @ image)

    return gap


def _own(values: Tensor) -> Tensor:
    """The same, for autograd to record: it takes none that was made in inference mode."""
    return values.clone() if values.is_inference() else values.detach()


def _leaf(values: Tensor) -> Tensor:
    return _own(values).requires_grad_()


def _pulled(
    results: Tensor, by: Sequence[Tensor], v: Tensor | None = None, again: bool = False
) -> tuple[Tensor, ...]:
    """(d results / d by)^T v, v = 1 where there is none. again: can be differentiated in turn."""
    if not results.requires_grad:  # they depend on nothing that could change
        return tuple(map(torch.zeros_like, by))
    v = torch.ones_like(results) if v is None else v
    return torch.autograd.grad(results, by, v, create_graph=again, allow_unused=True, materialize_grads=True)


def _residual(problem: Losses, x: Tensor, y: Tensor, batch: Batch, again: bool = False) -> Tensor:
    """R(x, y), shape (N, dim_y), of a leaf y. again: can be differentiated, by x and by y."""
    weights = _weights(batch, y, problem.by_example)
    if problem.is_map():
        return vmap(_gap(problem, batch))(x, y, weights)
    return _pulled(vmap(_lower(problem, batch))(x, y, weights), [y], again=again)[0]


@_recording
def lower_gradient(problem: Losses, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
    return _residual(problem, _own(x), _leaf(y), batch).detach()


@_recording
def joint_lower_gradient(problem: Losses, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    x, y = _leaf(x), _leaf(y)
    by_x, by_y = _pulled(lower_value(problem, x, y, batch), [x, y])
    return by_x, by_y


@_recording
def hessian_vector(problem: Losses, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
    x, y = _own(x), _leaf(y)
    return _pulled(_residual(problem, x, y, batch, again=True), [y], v)[0]


@_recording
def cross(problem: Losses, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
    x, y = _leaf(x), _leaf(y)
    return _pulled(_residual(problem, x, y, batch, again=True), [x], v)[0]


@_recording
def upper_gradient(problem: Losses, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    x, y = _leaf(x), _leaf(y)
    by_x, by_y = _pulled(upper_value(problem, x, y, batch), [x, y])
    return by_x, by_y


def lower_value(problem: Losses, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
    found: Tensor = vmap(_lower(problem, batch))(x, y, _weights(batch, y, problem.by_example))
    return found


def upper_value(problem: Losses, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
    found: Tensor = vmap(_upper(problem, batch))(x, y, _weights(batch, y, summed=False))
    return found
