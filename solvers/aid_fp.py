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

from harness.blocks import lower_sgd, system_sgd
from harness.budget import Cost
from harness.oracle import Oracle
from harness.params import count, real, shared
from harness.solver import Solver, State


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class AidFp(Solver[State]):
    label = "AID-FP"
    reference = "Grazzi, Franceschi, Pontil and Salzo 2020, Section 2"
    warm_starts = ("y",)

    lower_steps: Tensor = count("lower steps per upper iteration, 1 to 1000", symbol="t")
    system_steps: Tensor = count("fixed-point steps per upper iteration, 1 to 1000", symbol="k")
    cross_batches: Tensor = count("batches of the cross product", symbol="J")
    upper_step_size: Tensor = real("step size of x, 1e3 to 1e9 in data poisoning", symbol="alpha")
    lower_step_size: Tensor = real("step size of y and z, 1e-4 to 10", symbol="eta_LL")
    batch_size: int = shared("examples per lower, system and cross batch", symbol="B", default=90)

    def cost(self, oracle: Oracle) -> Cost:
        return Cost(
            lower_gradient=oracle.lower_samples(self.lower_steps, self.batch_size),
            upper_gradient=oracle.upper_samples(),
            hessian_vector=oracle.lower_samples(self.system_steps, self.batch_size),
            cross=oracle.lower_samples(self.cross_batches, self.batch_size),
        )

    def init(self, oracle: Oracle) -> State:
        return State(x=oracle.x0, y=oracle.y0)

    def step(self, oracle: Oracle, state: State) -> State:
        x, eta, size = state.x, self.lower_step_size, self.batch_size
        y = lower_sgd(oracle, x, state.y, self.lower_steps, eta, size)
        f_x, f_y = oracle.upper_gradient(x, y)
        z = system_sgd(oracle, x, y, f_y, torch.zeros_like(y), self.system_steps, eta, size)
        h = f_x + oracle.cross(x, y, z, oracle.batches("cross", self.cross_batches, size))
        return State(x=oracle.projected_step(x, h, self.upper_step_size), y=y)
