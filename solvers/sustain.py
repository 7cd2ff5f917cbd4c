"""SUSTAIN and MRBO: recursive momentum on both levels, one step of each per upper iteration.

For s = 0, 1, ..., with k = s + 1 and the same samples (and the same p) at both points
    u <- d_y g(x, y; B) + (1 - eta_k) * (u - d_y g(x', y'; B))
    d <- h(x, y) + (1 - eta_k) * (d - h(x', y'))
    x' <- x,  y' <- y;   y <- y - alpha_k * u,   x <- P(x - gamma_k * d)        (both from the old x, y)
where x', y' are the x, y of the upper iteration before; the first one has none: u = d_y g, d = h. The
hypergradient is h(x, y) = d_x f(x, y; B') + C(x, y; B_c) z with a Neumann series,
    SUSTAIN:  z = -N / L * prod_{i = 1..p} (I - H(x, y; B_i) / L) d_y f(x, y; B'),  p uniform on 0, ..., N - 1
    MRBO:     z = -1 / L * sum_{q = 0..N} prod_{i = 1..q} (I - H(x, y; B_i) / L) d_y f(x, y; B')

Symbols: N = system_steps, 1 / L = system_step_size (L bounds the curvature of g), alpha_k =
lower_step_size * k^(-1/3), gamma_k = upper_step_size * k^(-1/3), eta_k = momentum * k^(-2/3); B, B_i and
B_c are independent batches of batch_size examples, B' has upper_batch_size.
Cost per upper iteration: 2 * ((2 + p) * batch_size + upper_batch_size) samples, half of it at the first
one; p is N for MRBO, and floor(v * N) for SUSTAIN with one uniform v per upper iteration, (N - 1) / 2 on
average.

References: P. Khanduri, S. Zeng, M. Hong, H.-T. Wai, Z. Wang, Z. Yang, "A Near-Optimal Algorithm for
Stochastic Bilevel Optimization via Double-Momentum", NeurIPS 2021, Algorithm 1 (SUSTAIN); J. Yang, K. Ji,
Y. Liang, "Provably Faster Algorithms for Bilevel Optimization", NeurIPS 2021, Algorithm 1 (MRBO).
Differs from the paper: SUSTAIN's draws single examples and has x unconstrained; step sizes fall with
(m + k)^(-1/3) for a constant m, here 0 as in the public bilevel benchmark, where MRBO's authors use some
hundreds (steps that hardly fall: upper_decay = lower_decay = 0); MRBO has a factor of the momentum's weight
for each level, here one for both, as in the public codes; v is common to the trials of a seed; a series
that is not finite falls back to its first term. Where the lower level falls apart by example, u and y'
would be those of the last time that the example was met, but x' and d of the upper iteration before, so that
the recursion would not be the papers' there.
"""

import dataclasses
from typing import ClassVar, final

import torch
from torch import Tensor

from harness.api import Cost, Needs, NeumannEstimates, Oracle, Place, State, decayed, real, recursive_momentum

THIRD = 1 / 3


@dataclasses.dataclass(frozen=True)
class RecursiveState(State):
    """old_x (N, dim_x), old_y (N, dim_y): the upper iteration before. u (N, dim_y), d (N, dim_x): momenta."""

    old_x: Tensor
    old_y: Tensor
    u: Tensor
    d: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Recursive(NeumannEstimates[RecursiveState]):
    warm_starts = ("y", "old_y", "u")
    needs = Needs(one_lower_problem=True)
    random: ClassVar[bool]

    momentum: Tensor = real("first weight of the new gradients", symbol="eta", default=0.5, high=1.0)
    upper_decay: Tensor = real("exponent of the decay of x's step size", symbol="e_x", default=THIRD)
    lower_decay: Tensor = real("exponent of the decay of y's step size", symbol="e_y", default=THIRD)

    def cost(self, place: Place) -> Cost:
        return self.estimates_cost(place, 2 if place.iteration else 1, self.random)

    def init(self, oracle: Oracle) -> RecursiveState:
        x, y = oracle.x0, oracle.y0
        return RecursiveState(x=x, y=y, old_x=x, old_y=y, u=torch.zeros_like(y), d=torch.zeros_like(x))

    def step(self, oracle: Oracle, state: RecursiveState) -> RecursiveState:
        x, y, place = state.x, state.y, oracle.place
        u, d = self.estimates(oracle, x, y, self.random)
        if place.iteration:
            weight = decayed(self.momentum, 2 * THIRD, place.iteration)
            old_u, old_d = self.estimates(oracle, state.old_x, state.old_y, self.random)
            u = recursive_momentum(state.u, u, old_u, weight)
            d = recursive_momentum(state.d, d, old_d, weight)
        return RecursiveState(
            x=oracle.projected_step(x, d, self.upper_step(place)),
            y=y - self.lower_step(place) * u,
            old_x=x,
            old_y=y,
            u=u,
            d=d,
        )


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sustain(_Recursive):
    """One step of each level by recursive momenta, a randomly truncated Neumann series at two points."""

    label = "SUSTAIN"
    reference = "Khanduri, Zeng, Hong, Wai, Wang and Yang 2021, Algorithm 1"
    random = True


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Mrbo(_Recursive):
    """One step of each level by recursive momenta, a whole Neumann series at two points."""

    label = "MRBO"
    reference = "Yang, Ji and Liang 2021, Algorithm 1"
    random = False
