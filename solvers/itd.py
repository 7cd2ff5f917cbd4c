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

from harness.api import Cost, Held, MiniBatch, MiniBatches, Oracle, Place, State, count, start


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Itd(MiniBatches[State]):
    label = "ITD"
    reference = "Franceschi et al. 2017, Algorithm 1; Grazzi et al. 2020, Section 2"
    warm_starts = ("y",)

    lower_steps: Tensor = count("lower steps per upper iteration", symbol="t")

    def cost(self, place: Place) -> Cost:
        drawn = self.lower_samples(place, self.lower_steps)
        return Cost(drawn, self.upper_samples(place), drawn, drawn)

    def held(self, place: Place) -> Held:
        return Held(x=4, y=self.lower_steps + 6)

    def init(self, oracle: Oracle) -> State:
        return start(oracle)

    def step(self, oracle: Oracle, state: State) -> State:
        x, trail = state.x, list[tuple[MiniBatch, Tensor, Tensor, Tensor]]()

        def forward(batch: MiniBatch, y: Tensor, x: Tensor, eta: Tensor) -> Tensor:
            trail.append((batch, y, x, eta))
            return y - eta * oracle.lower_gradient(x, y, batch)

        steps, eta = self.lower_steps, self.lower_step_size
        y = oracle.loop("lower", steps, forward, state.y, x, eta, batch_size=self.batch_size)
        f_x, f_y = self.upper_gradient(oracle, x, y)
        adjoint, through = f_y.clone(), torch.zeros_like(x)
        for batch, y_i, x_i, eta_i in reversed(trail):
            a = adjoint[batch.trials]
            through[batch.trials] -= eta_i * oracle.cross(x_i, y_i, a, batch)
            adjoint[batch.trials] = a - eta_i * oracle.hessian_vector(x_i, y_i, a, batch)
        return State(x=self.move(oracle, x, f_x + through), y=y)
