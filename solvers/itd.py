"""ITD: iterative differentiation, the gradient of f through the lower steps, in reverse mode.

For s = 0, 1, ...
    y_0 = the last y;  i = 0, ..., t - 1:      y_{i+1} = y_i - eta_LL * d_y g(x, y_i; batch_i)
    a = d_y f(x, y_t), h = d_x f(x, y_t);  i = t - 1, ..., 0, on the batch that the step forward had:
        h <- h - eta_LL * C(x, y_i; batch_i) a
        a <- a - eta_LL * H(x, y_i; batch_i) a
    x <- P(x - alpha * h),  y <- y_t
h is the gradient of x -> f(x, y_t(x)) with y_0 held fixed. No linear system is solved, so none can fail.

Symbols: t = lower_steps (T in the papers), alpha = upper_step_size, eta_LL = lower_step_size.
Cost per upper iteration: 3 * t * batch_size + n_upper samples: a gradient forward, and back a
Hessian-vector and a cross product, which is one backward pass through a step. Memory: t iterates y_i, of
dim_y numbers per trial.

References: L. Franceschi, M. Donini, P. Frasconi, M. Pontil, "Forward and Reverse Gradient-Based
Hyperparameter Optimization", ICML 2017, Algorithm 1; R. Grazzi, L. Franceschi, M. Pontil, S. Salzo, "On the
Iteration Complexity of Hypergradient Computation", ICML 2020, Section 2; warm-started as by K. Ji, J. Yang,
Y. Liang, ICML 2021, and Arbel and Mairal, ICLR 2022.
Differs from the paper: Franceschi et al. and Grazzi et al. restart y; theirs are full batches, which here
are batch_size >= n_lower; the backward sweep is written out, not left to automatic differentiation.
"""

import dataclasses
from typing import final

import torch
from torch import Tensor

from harness.budget import Cost
from harness.oracle import Oracle
from harness.params import count, real, shared
from harness.problem import Batch
from harness.solver import Solver, State


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Itd(Solver[State]):
    label = "ITD"
    reference = "Franceschi et al. 2017, Algorithm 1; Grazzi et al. 2020, Section 2"
    warm_starts = ("y",)

    lower_steps: Tensor = count("lower steps per upper iteration, 1 to 1000", symbol="t")
    upper_step_size: Tensor = real("step size of x, 1e3 to 1e9 in data poisoning", symbol="alpha")
    lower_step_size: Tensor = real("step size of y, 1e-4 to 10", symbol="eta_LL")
    batch_size: int = shared("examples per lower step", symbol="B", default=90)

    def cost(self, oracle: Oracle) -> Cost:
        drawn = oracle.lower_samples(self.lower_steps, self.batch_size)
        return Cost(drawn, oracle.upper_samples(), drawn, drawn)

    def init(self, oracle: Oracle) -> State:
        return State(x=oracle.x0, y=oracle.y0)

    def step(self, oracle: Oracle, state: State) -> State:
        x, eta, size = state.x, self.lower_step_size, self.batch_size
        trail: list[tuple[Batch, Tensor, Tensor, Tensor]] = []

        def forward(batch: Batch, y: Tensor, x: Tensor, eta: Tensor) -> Tensor:
            trail.append((batch, y, x, eta))
            return y - eta * oracle.lower_gradient(x, y, batch)

        y = oracle.loop("lower", self.lower_steps, forward, state.y, x, eta, batch_size=size)
        f_x, f_y = oracle.upper_gradient(x, y)
        adjoint, through = f_y.clone(), torch.zeros_like(x)
        for batch, y_i, x_i, eta_i in reversed(trail):
            a = adjoint[batch.trials]
            through[batch.trials] -= eta_i * oracle.cross(x_i, y_i, a, batch)
            adjoint[batch.trials] = a - eta_i * oracle.hessian_vector(x_i, y_i, a, batch)
        return State(x=oracle.projected_step(x, f_x + through, self.upper_step_size), y=y)
