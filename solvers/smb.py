"""SMB: moving averages of the gradients of both levels, one step of each per upper iteration.

For s = 0, 1, ...
    u <- (1 - a) * u + a * d_y g(x, y; B),   d <- (1 - a) * d + a * h(x, y)       (at first u = d_y g, d = h)
    y <- y - alpha * u,   x <- P(x - gamma * d)                                   (both from the old x, y)
with h(x, y) = d_x f(x, y; B') + C(x, y; B_c) z and a Neumann series,
    series = "random":  z = -N / L * prod_{i = 1..p} (I - H(x, y; B_i) / L) d_y f(x, y; B'),
                        p uniform on {0, ..., N - 1}
    series = "whole":   z = -1 / L * sum_{q = 0..N} prod_{i = 1..q} (I - H(x, y; B_i) / L) d_y f(x, y; B')

Symbols: N = system_steps, 1 / L = system_step_size (L bounds the curvature of g), a = momentum, alpha =
lower_step_size, gamma = upper_step_size, falling with s where upper_decay or lower_decay says so; B, B_i
and B_c are independent batches of batch_size examples, B' has upper_batch_size.
Cost per upper iteration: (2 + p) * batch_size + upper_batch_size samples, p = N for the whole series.

Reference: Z. Guo, Y. Xu, W. Yin, R. Jin, T. Yang, "A Novel Convergence Analysis for Algorithms of the Adam
Family and Beyond" (at first "On Stochastic Moving-Average Estimators for Non-Convex Optimization"),
arXiv:2104.14840, 2021, the algorithm SMB.
Differs from the paper: it has a weight for each level, here one for both; the averages start from the first
gradients; p comes from one uniform number per upper iteration, common to the trials of a seed; a series
that is not finite falls back to its first term. Sources disagree on the series: the paper draws its
length, which is the default; a script by an author of FSLA sums it whole. Where the lower level falls apart
by example, u would start from the first gradient for the first mini-batch only.
"""

import dataclasses
from typing import final

import torch
from torch import Tensor

from harness.api import Cost, Needs, NeumannEstimates, Oracle, Place, State, choice, real


@dataclasses.dataclass(frozen=True)
class SmbState(State):
    """u (N, dim_y), d (N, dim_x): moving averages."""

    u: Tensor
    d: Tensor


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Smb(NeumannEstimates[SmbState]):
    """One step of each level along moving averages; a Neumann series."""

    label = "SMB"
    reference = "Guo, Xu, Yin, Jin and Yang 2021"
    warm_starts = ("y", "u")
    needs = Needs(one_lower_problem=True)

    momentum: Tensor = real("weight of the new gradients", symbol="a", default=0.1, high=1.0)
    series: str = choice("Neumann series", default="random", choices=("random", "whole"))

    def cost(self, place: Place) -> Cost:
        return self.estimates_cost(place, 1, self.series == "random")

    def init(self, oracle: Oracle) -> SmbState:
        x, y = oracle.x0, oracle.y0
        return SmbState(x=x, y=y, u=torch.zeros_like(y), d=torch.zeros_like(x))

    def step(self, oracle: Oracle, state: SmbState) -> SmbState:
        x, y, place = state.x, state.y, oracle.place
        u, d = self.estimates(oracle, x, y, self.series == "random")
        if place.iteration:
            u = state.u + self.momentum * (u - state.u)
            d = state.d + self.momentum * (d - state.d)
        return SmbState(
            x=oracle.projected_step(x, d, self.upper_step(place)), y=y - self.lower_step(place) * u, u=u, d=d
        )
