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

from harness.api import Cost, Oracle, Place, SingleLoop, SystemState, start_with_system


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Soba(SingleLoop[SystemState]):
    label = "SOBA"
    reference = "Dagréou, Ablin, Vaiter and Moreau 2022"
    warm_starts = ("y", "z")

    def cost(self, place: Place) -> Cost:
        once = self.lower_samples(place, phase="epochs")
        return Cost(once, self.upper_samples(place), once, once)

    def init(self, oracle: Oracle) -> SystemState:
        return start_with_system(oracle)

    def step(self, oracle: Oracle, state: SystemState) -> SystemState:
        x, y, z, rho = state.x, state.y, state.z, self.lower_step(oracle.place)
        lower = self.lower_batch(oracle, "epochs")
        f_x, f_y = self.upper_gradient(oracle, x, y)
        d_y = oracle.lower_gradient(x, y, lower)
        d_z = oracle.hessian_vector(x, y, z, lower) + f_y
        d_x = f_x + oracle.cross(x, y, z, lower)
        return SystemState(
            x=oracle.projected_step(x, d_x, self.upper_step(oracle.place)),
            y=y - rho * d_y,
            z=oracle.or_start(z - rho * d_z, z),
        )
