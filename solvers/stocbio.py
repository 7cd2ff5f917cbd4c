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

from harness.api import Oracle, SgdSystem, State, start


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Stocbio(SgdSystem[State]):
    label = "StochBiO"
    reference = "Ji, Yang and Liang 2021, Algorithm 2, as run by Grazzi, Pontil and Salzo 2023"
    warm_starts = ("y",)

    def init(self, oracle: Oracle) -> State:
        return start(oracle)

    def step(self, oracle: Oracle, state: State) -> State:
        x = state.x
        y = self.descend(oracle, x, state.y)
        f_x, f_y = self.upper_gradient(oracle, x, y)
        z = self.solve(oracle, x, y, f_y, -f_y)
        h = self.hypergradient(oracle, x, y, z, f_x)
        return State(x=self.move(oracle, x, h), y=y)
