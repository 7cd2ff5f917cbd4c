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

from harness.api import Oracle, SgdSystem, SystemState, start_with_system


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Amigo(SgdSystem[SystemState]):
    label = "Amigo"
    reference = "Arbel and Mairal 2022, Algorithms 1 to 3"
    warm_starts = ("y", "z")

    def init(self, oracle: Oracle) -> SystemState:
        return start_with_system(oracle)

    def step(self, oracle: Oracle, state: SystemState) -> SystemState:
        x = state.x
        y = self.descend(oracle, x, state.y)
        f_x, f_y = self.upper_gradient(oracle, x, y)
        z = self.solve(oracle, x, y, f_y, state.z)
        h = self.hypergradient(oracle, x, y, z, f_x)
        return SystemState(x=self.move(oracle, x, h), y=y, z=z)
