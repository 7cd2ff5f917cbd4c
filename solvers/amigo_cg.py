"""AmIGO-CG: lower level and system both warm-started, the system solved by conjugate gradients.

For s = 0, 1, ...
    t times   y <- y - eta_LL * d_y g(x, y; batch)                      (from the last y)
    H = d2_yy g(x, y; batch), the same batch throughout the solve
    r = -d_y f(x, y) - H z,  p = r                                      (from the last z; z = 0 at first)
    k times   a = |r|^2 / <p, H p>;  z <- z + a p;  r' = r - a H p;  p <- r' + |r'|^2 / |r|^2 p;  r <- r'
    h = d_x f(x, y) + mean over J batches of C(x, y; batch) z
    x <- P(x - alpha * h)

Symbols: t = lower_steps, k = system_steps, J = cross_batches, alpha = upper_step_size, eta_LL =
lower_step_size; the paper writes alpha, gamma for the step sizes of y and x, and T, N for t, k. H must be
symmetric and positive definite, so the method is not for a fixed-point lower level.
Cost per upper iteration: (t + k + 1 + J) * batch_size + n_upper samples; the one more is the first
residual, computed at every upper iteration, also from z = 0.

Reference: M. Arbel, J. Mairal, "Amortized Implicit Differentiation for Stochastic Bilevel Optimization",
ICLR 2022, Algorithms 1 to 3 and Section 5.
Differs from the paper: it refers to Shewchuk (1994) for conjugate gradients, without a listing or a word on
mini-batches; here all of a solve is on one batch, as the recursion needs one operator, and each upper
iteration draws another; x may be projected; the cross product is averaged over J batches, as for AmIGO in
Grazzi, Pontil and Salzo 2023, Section 7.3; a system solve that is not finite falls back to its start.
"""

import dataclasses
from typing import final

import torch
from torch import Tensor

from harness.blocks import lower_sgd
from harness.budget import Cost
from harness.oracle import Oracle
from harness.params import count, real, shared
from harness.problem import Batch
from harness.solver import Solver, State


@dataclasses.dataclass(frozen=True)
class AmigoCgState(State):
    """z (N, dim_y): the system variable."""

    z: Tensor


def _dot(u: Tensor, v: Tensor) -> Tensor:
    return (u * v).sum(1, keepdim=True)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """above / below; 0 where below is 0, so that a solved trial stays where it is."""
    return torch.where(below == 0, 0, above / below)


def _conjugate_gradients(
    oracle: Oracle, x: Tensor, y: Tensor, f_y: Tensor, z: Tensor, steps: Tensor, batch_size: int | None
) -> Tensor:
    """`steps` iterations on H(x, y; batch) z = -f_y from z, all on one batch."""

    def body(batch: Batch, value: tuple[Tensor, ...], x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        z, r, p = value
        h_p = oracle.hessian_vector(x, y, p, batch)
        a = _ratio(_dot(r, r), _dot(p, h_p))
        r_next = r - a * h_p
        return z + a * p, r_next, r_next + _ratio(_dot(r_next, r_next), _dot(r, r)) * p

    r = -f_y - oracle.hessian_vector(x, y, z, oracle.batch("system", batch_size))
    solved, *_ = oracle.loop("system", steps, body, (z, r, r), x, y, batch_size=batch_size, fixed=True)
    return oracle.or_start(solved, z)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class AmigoCg(Solver[AmigoCgState]):
    label = "AmIGO-CG"
    reference = "Arbel and Mairal 2022, Algorithms 1 to 3 with conjugate gradients"
    warm_starts = ("y", "z")

    lower_steps: Tensor = count("lower steps per upper iteration, 1 to 1000", symbol="t")
    system_steps: Tensor = count("conjugate gradient steps per upper iteration, 1 to 1000", symbol="k")
    cross_batches: Tensor = count("batches of the cross product", symbol="J")
    upper_step_size: Tensor = real("step size of x, 1e3 to 1e9 in data poisoning", symbol="alpha")
    lower_step_size: Tensor = real("step size of y, 1e-4 to 10", symbol="eta_LL")
    batch_size: int = shared("examples per lower, system and cross batch", symbol="B", default=90)

    def cost(self, oracle: Oracle) -> Cost:
        return Cost(
            lower_gradient=oracle.lower_samples(self.lower_steps, self.batch_size),
            upper_gradient=oracle.upper_samples(),
            hessian_vector=(self.system_steps + 1) * oracle.lower_samples(1, self.batch_size),
            cross=oracle.lower_samples(self.cross_batches, self.batch_size),
        )

    def init(self, oracle: Oracle) -> AmigoCgState:
        return AmigoCgState(x=oracle.x0, y=oracle.y0, z=torch.zeros_like(oracle.y0))

    def step(self, oracle: Oracle, state: AmigoCgState) -> AmigoCgState:
        x, size = state.x, self.batch_size
        y = lower_sgd(oracle, x, state.y, self.lower_steps, self.lower_step_size, size)
        f_x, f_y = oracle.upper_gradient(x, y)
        z = _conjugate_gradients(oracle, x, y, f_y, state.z, self.system_steps, size)
        h = f_x + oracle.cross(x, y, z, oracle.batches("cross", self.cross_batches, size))
        return AmigoCgState(x=oracle.projected_step(x, h, self.upper_step_size), y=y, z=z)
