"""PZOBO: the lower solution's response to x by differences along random directions; lower gradients only.

For s = 0, 1, ...
    y' = T steps   y <- y - eta_LL * d_y g(x, y; batch)                    (from the last y)
    for i = 1, ..., Q:   u_i standard normal in the space of x
        y_i = the same T steps, of the same batches and from the same y, at x + mu * u_i
    h = d_x f(x, y') + mean over i of u_i * <(y_i - y') / mu, d_y f(x, y')>
    x <- P(x - alpha * h);   y <- y'
The mean of h over the directions is the derivative of f(x, y'(x)) up to a bias of order mu^2 where y' is
smooth in x (mu in general); the variance falls like 1 / Q and grows with the dimension of x.

Symbols: T = lower_steps, Q = directions, mu = smoothing, eta_LL = lower_step_size, alpha = upper_step_size;
the batches have batch_size examples (0: all), f upper_batch_size.
Cost per upper iteration: (1 + Q) * T * batch_size + upper_batch_size samples.

Reference: D. Sow, K. Ji, Y. Liang, "On the Convergence Theory for Hessian-Free Bilevel Algorithms", NeurIPS
2022, Algorithms 1 (full batches, the default here) and 2 (PZOBO-S).
Differs from the paper: x may be projected; x + mu * u_i is not; the directions are common to the trials of a
seed. The public bilevel benchmark has Q = 1, the paper Q = 10, T = 10 and mu = 0.1 or less.
"""

import dataclasses
from typing import final

import torch
from torch import Tensor

from harness.api import (
    Bias,
    Cost,
    Held,
    MiniBatches,
    Oracle,
    Place,
    State,
    count,
    lower_sgd,
    real,
    shared,
    start,
)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Pzobo(MiniBatches[State]):
    """Differences of lower solutions along random directions of x."""

    label = "PZOBO"
    reference = "Sow, Ji and Liang 2022, Algorithms 1 and 2"
    warm_starts = ("y",)
    bias = Bias("smoothing", rate=2)

    lower_steps: Tensor = count("lower steps of every run", symbol="T")
    smoothing: Tensor = real("length of a difference", symbol="mu", default=0.1)
    directions: int = shared("random directions", symbol="Q")
    batch_size: int = shared("examples of a lower mini-batch; 0: all", symbol="B", default=0, low=0)

    def cost(self, place: Place) -> Cost:
        lower = (1 + self.directions) * self.lower_samples(place, self.lower_steps)
        return Cost(lower_gradient=lower, upper_gradient=self.upper_samples(place))

    def held(self, place: Place) -> Held:
        return Held(x=6, y=7)

    def init(self, oracle: Oracle) -> State:
        return start(oracle)

    def step(self, oracle: Oracle, state: State) -> State:
        def descend(x: Tensor) -> Tensor:
            """The same batches at every call."""
            size = self.size_of("lower")
            return lower_sgd(oracle, x, state.y, self.lower_steps, self.lower_step_size, size)

        x = state.x
        y = descend(x)
        f_x, f_y = self.upper_gradient(oracle, x, y)
        total = torch.zeros_like(x)
        for i in range(self.directions):
            u = oracle.normal("direction", x, i)
            response = (descend(x + self.smoothing * u) - y) / self.smoothing
            total = total + u * (response * f_y).sum(1, keepdim=True)
        return State(x=self.move(oracle, x, f_x + total / self.directions), y=y)
