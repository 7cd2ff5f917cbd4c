"""AID-FP: the lower level warm-started, the system solved by the fixed-point map of the lower steps.

For s = 0, 1, ...
    t times   y <- y - eta_LL * d_y g(x, y; batch)                      (from the last y)
    z <- 0;   k times   z <- (I - eta_LL * H(x, y; batch)) z - eta_LL * d_y f(x, y)
    h = d_x f(x, y) + mean over J batches of C(x, y; batch) z
    x <- P(x - alpha * h)
On full batches z = -eta_LL * sum_{q < k} (I - eta_LL * H)^q d_y f(x, y).

Symbols: t = lower_steps, k = system_steps, J = cross_batches, alpha = upper_step_size, eta_LL =
lower_step_size, the step size of both y and z.
Cost per upper iteration: (t + k + J) * batch_size + n_upper samples.

Reference: R. Grazzi, L. Franceschi, M. Pontil, S. Salzo, "On the Iteration Complexity of Hypergradient
Computation", ICML 2020, Section 2 (approximate implicit differentiation, fixed-point method), as compared
with by Arbel and Mairal, ICLR 2022.
Differs from the paper: it takes full batches, which here are batch_size >= n_lower; on smaller ones each
step has a fresh batch and the cross product is averaged over J batches; the published code stops the
fixed-point iteration early at a tolerance, this file takes all k steps; a system solve that is not finite
falls back to its start, 0.
"""

import dataclasses
from typing import final

import torch
from torch import Tensor

from harness.api import NestedLoops, Oracle, Place, State, start, system_sgd


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class AidFp(NestedLoops[State]):
    label = "AID-FP"
    reference = "Grazzi, Franceschi, Pontil and Salzo 2020, Section 2"
    warm_starts = ("y",)

    def system_samples(self, place: Place) -> Tensor | int:
        return self.lower_samples(place, self.system_steps)

    def init(self, oracle: Oracle) -> State:
        return start(oracle)

    def step(self, oracle: Oracle, state: State) -> State:
        x, zero = state.x, torch.zeros_like(state.y)
        y = self.descend(oracle, x, state.y)
        f_x, f_y = self.upper_gradient(oracle, x, y)
        z = system_sgd(oracle, x, y, f_y, zero, self.system_steps, self.lower_step_size, self.batch_size)
        h = self.hypergradient(oracle, x, y, z, f_x)
        return State(x=self.move(oracle, x, h), y=y)
