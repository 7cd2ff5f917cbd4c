"""StochBiO: the lower level warm-started, the system not.

For s = 0, 1, ...
    t times   y <- y - eta_LL * d_y g(x, y; batch)                      (from the last y)
    z <- -d_y f(x, y);  k times   z <- z - eta_LS * (H(x, y; batch) z + d_y f(x, y))
    h = d_x f(x, y) + mean over J batches of C(x, y; batch) z
    x <- P(x - alpha * h)

Symbols: t = lower_steps, k = system_steps, J = cross_batches, alpha = upper_step_size, eta_LL =
lower_step_size, eta_LS = system_step_size.
Cost per upper iteration: (t + k + J) * batch_size + n_upper samples.

Reference: K. Ji, J. Yang, Y. Liang, "Bilevel Optimization: Convergence Analysis and Enhanced Design", ICML
2021, Algorithm 2, as run by Grazzi, Pontil and Salzo, JMLR 24(167), 2023, Section 7.3 (with J = k).
Differs from the paper: Ji et al. truncate a Neumann series over batches of decreasing size; Grazzi et al.
run stochastic gradient steps on the system from v_0 = d_y f, which is what this file does.
"""

import dataclasses
from typing import final

from torch import Tensor

from harness.blocks import lower_sgd, system_sgd
from harness.budget import Cost
from harness.oracle import Oracle
from harness.params import count, real, shared
from harness.solver import Solver, State


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Stocbio(Solver[State]):
    label = "StochBiO"
    reference = "Ji, Yang and Liang 2021, Algorithm 2, as run by Grazzi, Pontil and Salzo 2023"

    lower_steps: Tensor = count("lower steps per upper iteration, 10 to 10000", symbol="t")
    system_steps: Tensor = count("system steps per upper iteration, 10 to 10000", symbol="k")
    cross_batches: Tensor = count("batches of the cross product, usually k", symbol="J")
    upper_step_size: Tensor = real("step size of x, 1e3 to 1e9 in data poisoning", symbol="alpha")
    lower_step_size: Tensor = real("step size of y, 1e-4 to 10", symbol="eta_LL")
    system_step_size: Tensor = real("step size of z, 1e-4 to 10", symbol="eta_LS")
    batch_size: int = shared("examples per lower, system and cross batch", symbol="B", default=90)

    def cost(self, oracle: Oracle) -> Cost:
        return Cost(
            lower_gradient=oracle.lower_samples(self.lower_steps, self.batch_size),
            upper_gradient=oracle.upper_samples,
            hessian_vector=oracle.lower_samples(self.system_steps, self.batch_size),
            cross=oracle.lower_samples(self.cross_batches, self.batch_size),
        )

    def init(self, oracle: Oracle) -> State:
        return State(x=oracle.x0, y=oracle.y0)

    def step(self, oracle: Oracle, state: State) -> State:
        x, size = state.x, self.batch_size
        y = lower_sgd(oracle, x, state.y, self.lower_steps, self.lower_step_size, size)
        f_x, f_y = oracle.upper_gradient(x, y)
        z = system_sgd(oracle, x, y, f_y, -f_y, self.system_steps, self.system_step_size, size)
        h = f_x + oracle.cross(x, y, z, self.cross_batches, size)
        return State(x=oracle.projected_step(x, h, self.upper_step_size), y=y)
