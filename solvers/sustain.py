"""SUSTAIN: recursive momentum on both levels, one step of each per upper iteration.

For s = 0, 1, ..., with k = s + 1 and the same samples and the same p at both points
    u <- d_y g(x, y; B) + (1 - eta_k) * (u - d_y g(x', y'; B))
    d <- h(x, y) + (1 - eta_k) * (d - h(x', y'))
    x' <- x,  y' <- y;   y <- y - alpha_k * u,   x <- P(x - gamma_k * d)        (both from the old x, y)
where x', y' are the x, y of the upper iteration before; the first one has none: u = d_y g, d = h. The
hypergradient is estimated by a randomly truncated Neumann series, p uniform on {0, ..., N - 1}:
    z = -N / L * prod_{i = 1..p} (I - H(x, y; B_i) / L) d_y f(x, y; B')
    h(x, y) = d_x f(x, y; B') + C(x, y; B_c) z

Symbols: N = system_steps, 1 / L = system_step_size (L bounds the curvature of g), alpha_k =
lower_step_size * k^(-1/3), gamma_k = upper_step_size * k^(-1/3), eta_k = momentum * k^(-2/3); B, B_i and
B_c are independent batches of batch_size examples, B' has upper_batch_size.
Cost per upper iteration: 2 * ((2 + p) * batch_size + upper_batch_size) samples, half of it at the first
one; p is floor(v * N) with one uniform v per upper iteration, on average (N - 1) / 2.

Reference: P. Khanduri, S. Zeng, M. Hong, H.-T. Wai, Z. Wang, Z. Yang, "A Near-Optimal Algorithm for
Stochastic Bilevel Optimization via Double-Momentum", NeurIPS 2021, Algorithm 1.
Differs from the paper: it draws single examples and has x unconstrained; its step sizes fall with
(w + k)^(-1/3) for a constant w, here 0 as in the public bilevel benchmark; v is common to the trials of a
seed; a truncated series that is not finite falls back to its first term. Where the lower level falls apart
by example, u and y' are those of the last time that the example was met, but x' and d are of the upper
iteration before, so that the recursion is not the paper's there.
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
    State,
    count,
    random_neumann,
    real,
    recursive_momentum,
    truncation,
)

THIRD = 1 / 3


@dataclasses.dataclass(frozen=True)
class SustainState(State):
    """old_x (N, dim_x), old_y (N, dim_y): the upper iteration before. u (N, dim_y), d (N, dim_x): momenta."""

    old_x: Tensor
    old_y: Tensor
    u: Tensor
    d: Tensor


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sustain(SingleLoop[SustainState]):
    label = "SUSTAIN"
    reference = "Khanduri, Zeng, Hong, Wai, Wang and Yang 2021, Algorithm 1"
    warm_starts = ("y", "old_y", "u")
    needs = Needs(one_lower_problem=True)

    system_steps: Tensor = count("longest Neumann series", symbol="N")
    system_step_size: Tensor = real("step size of the Neumann series", symbol="1/L")
    momentum: Tensor = real("first weight of the new gradient", symbol="eta", default=0.5, high=1.0)
    upper_decay: Tensor = real("exponent of the decay of x's step size", symbol="e_x", default=THIRD)
    lower_decay: Tensor = real("exponent of the decay of y's step size", symbol="e_y", default=THIRD)

    def cost(self, place: Place) -> Cost:
        points = 2 if place.iteration else 1
        once = points * self.lower_samples(place)
        series = points * self.lower_samples(place, truncation(place, self.system_steps))
        return Cost(once, points * self.upper_samples(place), series, once)

    def init(self, oracle: Oracle) -> SustainState:
        x, y = oracle.x0, oracle.y0
        return SustainState(x=x, y=y, old_x=x, old_y=y, u=torch.zeros_like(y), d=torch.zeros_like(x))

    def _lower(self, oracle: Oracle, x: Tensor, y: Tensor) -> Tensor:
        return oracle.lower_gradient(x, y, self.lower_batch(oracle, "lower"))

    def _hypergradient(self, oracle: Oracle, x: Tensor, y: Tensor) -> Tensor:
        """h(x, y): its batches and its p depend on the upper iteration only."""
        f_x, f_y = self.upper_gradient(oracle, x, y)
        z = random_neumann(oracle, x, y, f_y, self.system_steps, self.system_step_size, self.batch_size)
        return f_x + oracle.cross(x, y, z, self.lower_batch(oracle, "cross"))

    def step(self, oracle: Oracle, state: SustainState) -> SustainState:
        x, y, place = state.x, state.y, oracle.place
        u, d = self._lower(oracle, x, y), self._hypergradient(oracle, x, y)
        if place.iteration:
            weight = self.momentum * (place.iteration + 1) ** (-2 / 3)
            u = recursive_momentum(state.u, u, self._lower(oracle, state.old_x, state.old_y), weight)
            d = recursive_momentum(state.d, d, self._hypergradient(oracle, state.old_x, state.old_y), weight)
        return SustainState(
            x=oracle.projected_step(x, d, self.upper_step(place)),
            y=y - self.lower_step(place) * u,
            old_x=x,
            old_y=y,
            u=u,
            d=d,
        )
