"""AmIGO: lower level and system both warm-started, both solved by gradient steps.

For s = 0, 1, ...
    t times   y <- y - eta_LL * d_y g(x, y; batch)                      (from the last y)
    k times   z <- z - eta_LS * (H(x, y; batch) z + d_y f(x, y))        (from the last z; z = 0 at first)
    h = d_x f(x, y) + mean over J batches of C(x, y; batch) z
    x <- P(x - alpha * h)

Symbols: t = lower_steps, k = system_steps, J = cross_batches, alpha = upper_step_size, eta_LL =
lower_step_size, eta_LS = system_step_size; the paper writes alpha, beta, gamma for the step sizes of
y, z and x, and T, N for t, k.
Cost per upper iteration: (t + k + J) * batch_size + n_upper samples (equation 8).

Reference: M. Arbel, J. Mairal, "Amortized Implicit Differentiation for Stochastic Bilevel Optimization",
ICLR 2022, Algorithms 1 to 3.
Differs from the paper: x may be projected; the cross product is averaged over J batches, as in Grazzi,
Pontil and Salzo 2023, Section 7.3; a system solve that is not finite falls back to its start.
"""

import dataclasses
from typing import final

import torch
from torch import Tensor

from harness.blocks import NestedLoops, lower_sgd, system_sgd
from harness.oracle import Oracle
from harness.solver import State


@dataclasses.dataclass(frozen=True)
class AmigoState(State):
    """z (N, dim_y): the system variable."""

    z: Tensor


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Amigo(NestedLoops[AmigoState]):
    label = "Amigo"
    reference = "Arbel and Mairal 2022, Algorithms 1 to 3"
    warm_starts = ("y", "z")

    def init(self, oracle: Oracle) -> AmigoState:
        return AmigoState(x=oracle.x0, y=oracle.y0, z=torch.zeros_like(oracle.y0))

    def step(self, oracle: Oracle, state: AmigoState) -> AmigoState:
        x, size = state.x, self.batch_size
        y = lower_sgd(oracle, x, state.y, self.lower_steps, self.lower_step_size, size)
        f_x, f_y = oracle.upper_gradient(x, y)
        z = system_sgd(oracle, x, y, f_y, state.z, self.system_steps, self.system_step_size, size)
        h = f_x + oracle.cross(x, y, z, oracle.batches("cross", self.cross_batches, size))
        return AmigoState(x=oracle.projected_step(x, h, self.upper_step_size), y=y, z=z)
