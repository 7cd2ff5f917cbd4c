"""saBiAdam and VR-saBiAdam: Adam's scales on both levels, one step of each per upper iteration.

For s = 0, 1, ..., with k = s + 1, eta_k = k^-1/2 (VR: k^-1/3), all at the old x, y
    saBiAdam:     u <- (1 - a * eta_k) * u + a * eta_k * d_y g(x, y; B)
                  d <- (1 - a * eta_k) * d + a * eta_k * h(x, y)
    VR-saBiAdam:  u <- d_y g(x, y; B) + (1 - a * eta_k^2) * (u - d_y g(x', y'; B))
                  d <- h(x, y) + (1 - a * eta_k^2) * (d - h(x', y'))    (same samples and p at both points)
    s_x <- tau * s_x + (1 - tau) * h(x, y)^2,   r_x = sqrt(s_x) + rho           (by coordinate, as all of x)
    lower_scale = "norm":         s_y <- tau * s_y + (1 - tau) * |d_y g(x, y; B)|,   r_y = s_y + rho
    lower_scale = "coordinates":  s_y <- tau * s_y + (1 - tau) * d_y g(x, y; B)^2,   r_y = sqrt(s_y) + rho
    y <- y - lambda * eta_k * u / r_y,   x <- x + eta_k * (P(x - gamma * d / r_x) - x)
At first u = d_y g, d = h and s_x = s_y = 0; x', y' are the x, y of the upper iteration before. The
hypergradient is h(x, y) = d_x f(x, y; B') + C(x, y; B_c) z with a Neumann series,
    series = "random":  z = -N / L * prod_{i = 1..p} (I - H(x, y; B_i) / L) d_y f(x, y; B'),
                        p uniform on {0, ..., N - 1}
    series = "whole":   z = -1 / L * sum_{q = 0..N} prod_{i = 1..q} (I - H(x, y; B_i) / L) d_y f(x, y; B')

Symbols: N = system_steps, 1 / L = system_step_size (L bounds the curvature of g), a = momentum, gamma =
upper_step_size, lambda = lower_step_size, tau = retention, rho = least_scale; the exponent of eta_k is
upper_decay for d and x, lower_decay for u and y; B, B_i and B_c are independent batches of batch_size
examples, B' has upper_batch_size.
Cost per upper iteration at one point, by kind: lower gradients batch_size, upper gradients upper_batch_size,
Hessian-vector products p * batch_size, cross products batch_size, with p = N for the whole series and
floor(v * N), v uniform, for the random one. VR-saBiAdam takes all of it twice but at s = 0.

Reference: F. Huang, H. Huang, "BiAdam: Fast Adaptive Bilevel Optimization Methods", arXiv:2106.11396, 2021,
the algorithms saBiAdam and VR-saBiAdam ("sa": stochastic approximated, by a series for the inverse).
Differs from the paper: eta_k = c / (m + k)^e there, here c = 1 and m = 0, as for the project's other methods:
c is a factor of the step sizes and of a, and a large m keeps eta_k from falling (decays of 0). One a for both
levels, where it has c_1 and c_2. P is the nearest point, where it has the nearest in the norm of r_x: for a
box the same. p comes from one uniform number per upper iteration, common to the trials of a seed; a series
that is not finite falls back to its first term. rho has no default, as it is measured in gradients of the
problem: no step size is above gamma / rho or lambda / rho. A reading: a momentum's weight has the eta_k of
the step that it is for, not of the one before.
Sources disagree: a script by an author of later versions scales y by coordinate, sums the series whole, keeps
eta_k at 1 (decays of 0), adds 1e-6 under the root in place of rho, and makes s_x and s_y of d and u; here
they are of h and d_y g, as in the paper. Where the lower level falls apart by example, u, s_y and y' would be
of other upper iterations than d, s_x and x'.
"""

import dataclasses
from typing import ClassVar, final

import torch
from torch import Tensor

from harness.api import (
    Cost,
    Held,
    Needs,
    NeumannEstimates,
    Oracle,
    Place,
    S,
    State,
    choice,
    decayed,
    real,
    recursive_momentum,
)

HALF, THIRD = 1 / 2, 1 / 3


@dataclasses.dataclass(frozen=True)
class ScaledState(State):
    """u, s_y (N, dim_y), d, s_x (N, dim_x): momenta, and means of what the scales are made of."""

    u: Tensor
    d: Tensor
    s_x: Tensor
    s_y: Tensor


@dataclasses.dataclass(frozen=True)
class RecursiveScaledState(ScaledState):
    """old_x (N, dim_x), old_y (N, dim_y): the upper iteration before."""

    old_x: Tensor
    old_y: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class _BiAdam(NeumannEstimates[S]):
    needs = Needs(one_lower_problem=True)
    adaptive = True
    points: ClassVar[int]

    upper_step_size: Tensor = real("scale of x's steps", symbol="gamma")
    lower_step_size: Tensor = real("scale of y's steps", symbol="lambda")
    momentum: Tensor = real("first weight of the new gradients", symbol="a", default=0.5, high=1.0)
    retention: Tensor = real("weight of the old squares (norms)", symbol="tau", default=0.99, high=1.0)
    least_scale: Tensor = real("what is added to every scale", symbol="rho", low=1e-30)
    lower_scale: str = choice("scale of y's steps", default="norm", choices=("norm", "coordinates"))
    series: str = choice("Neumann series", default="random", choices=("random", "whole"))

    def cost(self, place: Place) -> Cost:
        return self.estimates_cost(place, self.points if place.iteration else 1, self.series == "random")

    def held(self, place: Place) -> Held:
        return Held(x=7 + 2 * self.points, y=7 + 2 * self.points)

    def both(self, oracle: Oracle, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """(d_y g, h) at a point."""
        return self.estimates(oracle, x, y, self.series == "random")

    def etas(self, place: Place) -> tuple[Tensor, Tensor]:
        """eta_k of y and of x."""
        one, s = torch.ones_like(self.momentum), place.iteration
        return decayed(one, self.lower_decay, s), decayed(one, self.upper_decay, s)

    def begun(self, oracle: Oracle) -> ScaledState:
        x, y = oracle.x0, oracle.y0
        zero_x, zero_y = torch.zeros_like(x), torch.zeros_like(y)
        return ScaledState(x=x, y=y, u=zero_y, d=zero_x, s_x=zero_x, s_y=zero_y)

    def moved(
        self, oracle: Oracle, state: ScaledState, g_y: Tensor, h: Tensor, u: Tensor, d: Tensor
    ) -> ScaledState:
        """One step of both levels along u and d, scaled by what g_y and h add to the means."""
        tau, rho, (eta_y, eta_x) = self.retention, self.least_scale, self.etas(oracle.place)
        s_x = tau * state.s_x + (1 - tau) * h**2
        if self.lower_scale == "norm":
            s_y = tau * state.s_y + (1 - tau) * torch.linalg.vector_norm(g_y, dim=1, keepdim=True)
            scale = s_y + rho
        else:
            s_y = tau * state.s_y + (1 - tau) * g_y**2
            scale = s_y.sqrt() + rho
        x = oracle.projected_step(state.x, d, self.upper_step_size / (s_x.sqrt() + rho))
        y = state.y - self.lower_step_size * eta_y / scale * u
        return ScaledState(x=torch.lerp(state.x, x, eta_x), y=y, u=u, d=d, s_x=s_x, s_y=s_y)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class SaBiAdam(_BiAdam[ScaledState]):
    """One step of each level along moving averages, scaled as in Adam; a Neumann series."""

    label = "saBiAdam"
    reference = "Huang and Huang 2021, saBiAdam"
    warm_starts = ("y", "u", "s_y")
    points = 1

    upper_decay: Tensor = real("exponent of the decay of x's eta", symbol="e_x", default=HALF)
    lower_decay: Tensor = real("exponent of the decay of y's eta", symbol="e_y", default=HALF)

    def init(self, oracle: Oracle) -> ScaledState:
        return self.begun(oracle)

    def step(self, oracle: Oracle, state: ScaledState) -> ScaledState:
        u, d = g_y, h = self.both(oracle, state.x, state.y)
        if oracle.place.iteration:
            eta_y, eta_x = self.etas(oracle.place)
            u = state.u + self.momentum * eta_y * (g_y - state.u)
            d = state.d + self.momentum * eta_x * (h - state.d)
        return self.moved(oracle, state, g_y, h, u, d)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class VrSaBiAdam(_BiAdam[RecursiveScaledState]):
    """One step of each level by recursive momenta, scaled as in Adam; a Neumann series at two points."""

    label = "VR-saBiAdam"
    reference = "Huang and Huang 2021, VR-saBiAdam"
    warm_starts = ("y", "old_y", "u", "s_y")
    points = 2

    upper_decay: Tensor = real("exponent of the decay of x's eta", symbol="e_x", default=THIRD)
    lower_decay: Tensor = real("exponent of the decay of y's eta", symbol="e_y", default=THIRD)

    def init(self, oracle: Oracle) -> RecursiveScaledState:
        return RecursiveScaledState(**vars(self.begun(oracle)), old_x=oracle.x0, old_y=oracle.y0)

    def step(self, oracle: Oracle, state: RecursiveScaledState) -> RecursiveScaledState:
        u, d = g_y, h = self.both(oracle, state.x, state.y)
        if oracle.place.iteration:
            eta_y, eta_x = self.etas(oracle.place)
            old_u, old_d = self.both(oracle, state.old_x, state.old_y)
            u = recursive_momentum(state.u, g_y, old_u, self.momentum * eta_y**2)
            d = recursive_momentum(state.d, h, old_d, self.momentum * eta_x**2)
        moved = self.moved(oracle, state, g_y, h, u, d)
        return RecursiveScaledState(**vars(moved), old_x=state.x, old_y=state.y)
