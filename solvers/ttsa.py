"""TTSA: two-timescale stochastic approximation, a step of each level, those of x falling faster than y's.

For s = 0, 1, ...,   k = s + 1
    y <- y - eta_k * d_y g(x, y; B)                                     (from the last y)
    p uniform in 0, ..., N - 1
    z = -N * eta_LS * prod_{i = 1..p} (I - eta_LS * H(x, y; B_i)) d_y f(x, y; B')
    h = d_x f(x, y; B') + C(x, y; B_c) z
    x <- P(x - alpha_k * h)

Symbols: N = system_steps, eta_LS = system_step_size (c_h / L in the paper, L a bound of g's curvature),
eta_k = lower_step_size * k^-lower_decay, alpha_k = upper_step_size * k^-upper_decay; B goes through the data
epoch by epoch, B_i and B_c are fresh, of batch_size examples each, B' has upper_batch_size.
Cost per upper iteration: (2 + p) * batch_size + upper_batch_size samples; p is floor(v * N) with one uniform
v per upper iteration, on average (N - 1) / 2.

Reference: M. Hong, H.-T. Wai, Z. Wang, Z. Yang, "A Two-Timescale Stochastic Algorithm Framework for Bilevel
Optimization: Complexity Analysis and Application to Actor-Critic", SIAM Journal on Optimization 33(1), 2023,
Algorithm 1 (arXiv 2007.05170, 2020).
Differs from the paper: the decays are those of its non-convex case, 2/5 for y and 3/5 for x, as falling steps
like the public bilevel benchmark's, where the paper has constants of that order in a known number of upper
iterations; 2/3 and 1 are its strongly convex case, whose offset k_0 is not here. Table 1 of Grazzi, Pontil
and Salzo (2023) has the two exponents exchanged; the step of x is the smaller. The paper draws single
examples. The benchmark takes the cross product on B, here it has a batch of its own, as in the paper's
analysis. v is common to the trials of a seed; a series that is not finite falls back to its first term.
"""

import dataclasses
from typing import final

from torch import Tensor

from harness.api import (
    Cost,
    Oracle,
    Place,
    SingleLoop,
    State,
    count,
    random_neumann,
    real,
    start,
    truncation,
)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Ttsa(SingleLoop[State]):
    """One step of each level, those of x falling faster; a randomly truncated Neumann series."""

    label = "TTSA"
    reference = "Hong, Wai, Wang and Yang 2023, Algorithm 1"
    warm_starts = ("y",)

    upper_decay: Tensor = real("exponent of the decay of x's step size", symbol="e_x", default=0.6)
    lower_decay: Tensor = real("exponent of the decay of y's step size", symbol="e_y", default=0.4)
    system_steps: Tensor = count("longest Neumann series", symbol="N")
    system_step_size: Tensor = real("step size of the Neumann series", symbol="c_h/L")

    def cost(self, place: Place) -> Cost:
        descent = self.lower_samples(place, phase="epochs")
        series = self.lower_samples(place, truncation(place, self.system_steps))
        return Cost(descent, self.upper_samples(place), series, self.lower_samples(place))

    def init(self, oracle: Oracle) -> State:
        return start(oracle)

    def step(self, oracle: Oracle, state: State) -> State:
        x, place = state.x, oracle.place
        g_y = oracle.lower_gradient(x, state.y, self.lower_batch(oracle, "epochs"))
        y = state.y - self.lower_step(place) * g_y
        f_x, f_y = self.upper_gradient(oracle, x, y)
        z = random_neumann(oracle, x, y, f_y, self.system_steps, self.system_step_size, self.batch_size)
        h = f_x + oracle.cross(x, y, z, self.lower_batch(oracle, "cross"))
        return State(x=oracle.projected_step(x, h, self.upper_step(place)), y=y)
