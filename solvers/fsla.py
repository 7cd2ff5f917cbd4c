"""FSLA: a fully single loop, with a recursive momentum on x.

For s = 0, 1, ..., with k = s + 1 and x', y', z' the point of the upper iteration before
    y <- y' - alpha_k * d_y g(x, y'; B)
    z <- z' - beta_k * (H(x, y; B_z) z' + d_y f(x, y; B'_z))                   (z = 0 at first)
    d <- h(x, y, z) + (1 - eta_k) * (d - h(x', y', z'))       (h(x, y, z) at first; the same samples)
    x <- P(x - gamma_k * d)
    where h(x, y, z) = d_x f(x, y; B') + C(x, y; B_c) z

Symbols: alpha_k = lower_step_size * k^(-e_y), beta_k = system_step_size * k^(-e_z), gamma_k =
upper_step_size * k^(-e_x), each e 1/2 unless given; eta_k = momentum * k^(-1/2), at first above 1 for a
momentum above 1. B, B_z and B_c are independent batches of batch_size examples, B' and B'_z of
upper_batch_size.
Cost per upper iteration: 4 * batch_size + 3 * upper_batch_size samples, a batch of each level less at the
first one.

Reference: J. Li, B. Gu, H. Huang, "A Fully Single Loop Algorithm for Bilevel Optimization without Hessian
Inverse", AAAI 2022, Algorithm 1. The paper writes v for -z.
Differs from the paper: x may be projected; d starts from the first h, where public codes start from 0; z has
a step size of its own and eta a factor of its own, where the public bilevel benchmark takes the step size of
y for both; a z that is not finite falls back to the last one. Where the lower level falls apart by example
the recursion would not be the paper's.
"""

import dataclasses
from typing import final

import torch
from torch import Tensor

from harness.api import (
    Cost,
    Needs,
    Oracle,
    Place,
    SingleLoop,
    SystemState,
    decayed,
    real,
    recursive_momentum,
)

HALF = 0.5


@dataclasses.dataclass(frozen=True)
class FslaState(SystemState):
    """old_x (N, dim_x): x of the upper iteration before. d (N, dim_x): the momentum."""

    old_x: Tensor
    d: Tensor


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Fsla(SingleLoop[FslaState]):
    """One step of each level; recursive momentum of x."""

    label = "FSLA"
    reference = "Li, Gu and Huang 2022, Algorithm 1"
    warm_starts = ("y", "z")
    needs = Needs(one_lower_problem=True)

    system_step_size: Tensor = real("step size of z", symbol="beta")
    momentum: Tensor = real("first weight of the new h", symbol="eta", default=0.5)
    upper_decay: Tensor = real("exponent of the decay of x's step size", symbol="e_x", default=HALF)
    lower_decay: Tensor = real("exponent of the decay of y's step size", symbol="e_y", default=HALF)
    system_decay: Tensor = real("exponent of the decay of z's step size", symbol="e_z", default=HALF)

    def cost(self, place: Place) -> Cost:
        points = 2 if place.iteration else 1
        once = self.lower_samples(place)
        upper = self.upper_samples(place)
        system = place.upper_samples(self.size_of("upper"), "system")
        return Cost(once, system + points * upper, once, points * once)

    def init(self, oracle: Oracle) -> FslaState:
        x, y = oracle.x0, oracle.y0
        return FslaState(x=x, y=y, z=torch.zeros_like(y), old_x=x, d=torch.zeros_like(x))

    def _h(self, oracle: Oracle, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        f_x, _ = self.upper_gradient(oracle, x, y)
        return f_x + oracle.cross(x, y, z, self.lower_batch(oracle, "cross"))

    def step(self, oracle: Oracle, state: FslaState) -> FslaState:
        x, place = state.x, oracle.place
        g_y = oracle.lower_gradient(x, state.y, self.lower_batch(oracle, "lower"))
        y = state.y - self.lower_step(place) * g_y
        _, f_y = oracle.upper_gradient(x, y, oracle.upper_batch("system", self.size_of("upper")))
        residual = oracle.hessian_vector(x, y, state.z, self.lower_batch(oracle, "system")) + f_y
        system_step = decayed(self.system_step_size, self.system_decay, place.iteration)
        z = oracle.or_start(state.z - system_step * residual, state.z)
        d = self._h(oracle, x, y, z)
        if place.iteration:
            weight = decayed(self.momentum, HALF, place.iteration)
            d = recursive_momentum(state.d, d, self._h(oracle, state.old_x, state.y, state.z), weight)
        return FslaState(x=oracle.projected_step(x, d, self.upper_step(place)), y=y, z=z, old_x=x, d=d)
