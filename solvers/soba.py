"""SOBA: a single loop in which y, z and x step at the same time, all from the same point.

For s = 0, 1, ...   (B a batch of lower examples, B' one of upper examples)
    D_y = d_y g(x, y; B)
    D_z = H(x, y; B) z + d_y f(x, y; B')
    D_x = d_x f(x, y; B') + C(x, y; B) z
    y <- y - rho * D_y,   z <- z - rho * D_z   (z = 0 at first),   x <- P(x - gamma * D_x)

Symbols: rho = lower_step_size, the step size of both y and z; gamma = upper_step_size; B has batch_size
examples, B' upper_batch_size.
Cost per upper iteration: 3 * batch_size + upper_batch_size samples.

Reference: M. Dagréou, P. Ablin, S. Vaiter, T. Moreau, "A Framework for Bilevel Optimization that Enables
Stochastic and Global Variance Reduction Algorithms", NeurIPS 2022, Section 2. The paper writes z, v and x
for y, z and x, and draws single examples.
Differs from the paper: step sizes are constant (one of its two choices, for a known horizon; the other
falls with s); x may be projected; a z that is not finite falls back to the last one.
"""

import dataclasses
from typing import final

import torch
from torch import Tensor

from harness.budget import Cost
from harness.oracle import Oracle
from harness.params import real, shared
from harness.solver import Solver, State


@dataclasses.dataclass(frozen=True)
class SobaState(State):
    """z (N, dim_y): the system variable."""

    z: Tensor


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Soba(Solver[SobaState]):
    label = "SOBA"
    reference = "Dagréou, Ablin, Vaiter and Moreau 2022"
    warm_starts = ("y", "z")

    upper_step_size: Tensor = real("step size of x, 1e3 to 1e9 in data poisoning", symbol="gamma")
    lower_step_size: Tensor = real("step size of y and z, 1e-4 to 10", symbol="rho")
    batch_size: int = shared("lower examples per upper iteration", symbol="B", default=64)
    upper_batch_size: int = shared("upper examples per upper iteration", symbol="B'", default=64)

    def cost(self, oracle: Oracle) -> Cost:
        once = oracle.lower_samples(1, self.batch_size)
        return Cost(once, oracle.upper_samples(self.upper_batch_size), once, once)

    def init(self, oracle: Oracle) -> SobaState:
        return SobaState(x=oracle.x0, y=oracle.y0, z=torch.zeros_like(oracle.y0))

    def step(self, oracle: Oracle, state: SobaState) -> SobaState:
        x, y, z, rho = state.x, state.y, state.z, self.lower_step_size
        lower = oracle.batch("lower", self.batch_size)
        f_x, f_y = oracle.upper_gradient(x, y, oracle.batch("upper", self.upper_batch_size))
        d_y = oracle.lower_gradient(x, y, lower)
        d_z = oracle.hessian_vector(x, y, z, lower) + f_y
        d_x = f_x + oracle.cross(x, y, z, lower)
        return SobaState(
            x=oracle.projected_step(x, d_x, self.upper_step_size),
            y=y - rho * d_y,
            z=oracle.or_start(z - rho * d_z, z),
        )
