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

from harness.blocks import lower_sgd, system_sgd
from harness.budget import Cost
from harness.oracle import Oracle
from harness.params import count, real, shared
from harness.solver import Solver, State


@dataclasses.dataclass(frozen=True)
class AmigoState(State):
    """z (N, dim_y): the system variable."""

    z: Tensor


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Amigo(Solver[AmigoState]):
    label = "Amigo"
    reference = "Arbel and Mairal 2022, Algorithms 1 to 3"

    lower_steps: Tensor = count("lower steps per upper iteration, 10 to 10000", symbol="t")
    system_steps: Tensor = count("system steps per upper iteration, usually t", symbol="k")
    cross_batches: Tensor = count("batches of the cross product, usually t", symbol="J")
    upper_step_size: Tensor = real("step size of x, 1e3 to 1e9 in data poisoning", symbol="alpha")
    lower_step_size: Tensor = real("step size of y, 1e-4 to 10", symbol="eta_LL")
    system_step_size: Tensor = real("step size of z, usually eta_LL", symbol="eta_LS")
    batch_size: int = shared("examples per lower, system and cross batch", symbol="B", default=90)

    def cost(self, oracle: Oracle) -> Cost:
        return Cost(
            lower_gradient=oracle.lower_samples(self.lower_steps, self.batch_size),
            upper_gradient=oracle.upper_samples,
            hessian_vector=oracle.lower_samples(self.system_steps, self.batch_size),
            cross=oracle.lower_samples(self.cross_batches, self.batch_size),
        )

    def init(self, oracle: Oracle) -> AmigoState:
        return AmigoState(x=oracle.x0, y=oracle.y0, z=torch.zeros_like(oracle.y0))

    def step(self, oracle: Oracle, state: AmigoState) -> AmigoState:
        x, size = state.x, self.batch_size
        y = lower_sgd(oracle, x, state.y, self.lower_steps, self.lower_step_size, size)
        f_x, f_y = oracle.upper_gradient(x, y)
        z = system_sgd(oracle, x, y, f_y, state.z, self.system_steps, self.system_step_size, size)
        h = f_x + oracle.cross(x, y, z, self.cross_batches, size)
        return AmigoState(x=oracle.projected_step(x, h, self.upper_step_size), y=y, z=z)
