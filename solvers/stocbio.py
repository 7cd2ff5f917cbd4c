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

from harness.blocks import NestedLoops, lower_sgd, system_sgd
from harness.oracle import Oracle
from harness.solver import State


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Stocbio(NestedLoops[State]):
    label = "StochBiO"
    reference = "Ji, Yang and Liang 2021, Algorithm 2, as run by Grazzi, Pontil and Salzo 2023"
    warm_starts = ("y",)

    def init(self, oracle: Oracle) -> State:
        return State(x=oracle.x0, y=oracle.y0)

    def step(self, oracle: Oracle, state: State) -> State:
        x, size = state.x, self.batch_size
        y = lower_sgd(oracle, x, state.y, self.lower_steps, self.lower_step_size, size)
        f_x, f_y = oracle.upper_gradient(x, y)
        z = system_sgd(oracle, x, y, f_y, -f_y, self.system_steps, self.system_step_size, size)
        h = f_x + oracle.cross(x, y, z, oracle.batches("cross", self.cross_batches, size))
        return State(x=oracle.projected_step(x, h, self.upper_step_size), y=y)
