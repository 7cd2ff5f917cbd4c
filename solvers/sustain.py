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

from harness.budget import Cost
from harness.oracle import Oracle
from harness.params import count, real, shared
from harness.problem import Batch
from harness.solver import Solver, State


@dataclasses.dataclass(frozen=True)
class SustainState(State):
    """old_x (N, dim_x), old_y (N, dim_y): the upper iteration before. u (N, dim_y), d (N, dim_x): momenta."""

    old_x: Tensor
    old_y: Tensor
    u: Tensor
    d: Tensor


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sustain(Solver[SustainState]):
    label = "SUSTAIN"
    reference = "Khanduri, Zeng, Hong, Wai, Wang and Yang 2021, Algorithm 1"
    warm_starts = ("y", "old_y", "u")

    system_steps: Tensor = count("longest Neumann series, 1 to 10000", symbol="N")
    upper_step_size: Tensor = real("first step size of x, 1e3 to 1e9 in data poisoning", symbol="gamma")
    lower_step_size: Tensor = real("first step size of y, 1e-4 to 10", symbol="alpha")
    system_step_size: Tensor = real("step size of the Neumann series, 1e-4 to 10", symbol="1/L")
    momentum: Tensor = real("first weight of the new gradient, 0 to 1", symbol="eta", default=0.5)
    batch_size: int = shared("examples per lower, system and cross batch", symbol="B", default=64)
    upper_batch_size: int = shared("upper examples per upper iteration", symbol="B'", default=64)

    def truncation(self, oracle: Oracle) -> Tensor:
        """p of this upper iteration, shape (N,)."""
        return (oracle.uniform("truncation") * self.system_steps.double()).long()

    def cost(self, oracle: Oracle) -> Cost:
        points = 2 if oracle.iteration else 1
        once = points * oracle.lower_samples(1, self.batch_size)
        series = points * oracle.lower_samples(self.truncation(oracle), self.batch_size)
        return Cost(once, points * oracle.upper_samples(self.upper_batch_size), series, once)

    def init(self, oracle: Oracle) -> SustainState:
        x, y = oracle.x0, oracle.y0
        return SustainState(x=x, y=y, old_x=x, old_y=y, u=torch.zeros_like(y), d=torch.zeros_like(x))

    def _lower(self, oracle: Oracle, x: Tensor, y: Tensor) -> Tensor:
        return oracle.lower_gradient(x, y, oracle.batch("lower", self.batch_size))

    def _hypergradient(self, oracle: Oracle, x: Tensor, y: Tensor) -> Tensor:
        """h(x, y): its batches and its p depend on the upper iteration only."""
        size = self.batch_size

        def factor(batch: Batch, z: Tensor, x: Tensor, y: Tensor, inverse: Tensor) -> Tensor:
            return z - inverse * oracle.hessian_vector(x, y, z, batch)

        f_x, f_y = oracle.upper_gradient(x, y, oracle.batch("upper", self.upper_batch_size))
        scale = self.system_step_size * self.system_steps.unsqueeze(1).to(f_y)
        operands = (x, y, self.system_step_size)
        z = oracle.loop("system", self.truncation(oracle), factor, -scale * f_y, *operands, batch_size=size)
        z = oracle.or_start(z, -scale * f_y)
        return f_x + oracle.cross(x, y, z, oracle.batch("cross", size))

    def step(self, oracle: Oracle, state: SustainState) -> SustainState:
        x, y = state.x, state.y
        decay = (oracle.iteration + 1) ** (-1 / 3)
        u, d = self._lower(oracle, x, y), self._hypergradient(oracle, x, y)
        if oracle.iteration:
            kept = 1 - self.momentum * decay**2
            u = u + kept * (state.u - self._lower(oracle, state.old_x, state.old_y))
            d = d + kept * (state.d - self._hypergradient(oracle, state.old_x, state.old_y))
        return SustainState(
            x=oracle.projected_step(x, d, self.upper_step_size * decay),
            y=y - self.lower_step_size * decay * u,
            old_x=x,
            old_y=y,
            u=u,
            d=d,
        )
