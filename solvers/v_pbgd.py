"""V-PBGD: gradient descent on x and y together, of f plus a penalty on the gap to the lower level's value.

For s = 0, 1, ...   (B one batch of lower examples, B' one of upper examples)
    kappa = kappa_0 + (kappa_S - kappa_0) * min(s / S, 1)
    T times   y_hat <- y_hat - eta_LL * d_y g(x, y_hat; batch)             (from the last y_hat)
    h = d_x f(x, y; B') + kappa * (d_x g(x, y; B) - d_x g(x, y_hat; B))
    x <- P(x - alpha / max(kappa, 1) * h)
    y <- y - beta / max(kappa, 1) * (d_y f(x, y; B') + kappa * d_y g(x, y; B))       (at the old x and y)
y_hat is close to y*(x), and h is the hypergradient up to a bias of order 1 / kappa.

Symbols: kappa_S = penalty, kappa_0 = first_penalty, S = horizon; T = lower_steps, eta_LL = lower_step_size,
alpha = upper_step_size, beta = penalised_step_size. B and the batches of the loop have batch_size examples,
B' upper_batch_size; 0 is all.
Cost per upper iteration: (T + 2) * batch_size + upper_batch_size samples.

Reference: H. Shen, T. Chen, "On Penalty-based Bilevel Gradient Descent Method", ICML 2023, Algorithm 1
(V-PBGD); it writes omega for y_hat and gamma for kappa.
Differs from the paper: there kappa is a constant and one step size serves x and y. The published code of the
experiments raises kappa linearly, has two step sizes, divides both by kappa where it is above 1, and goes on
with the last y_hat, and so does this file; with kappa_0 = kappa_S kappa is constant. Its values: kappa from 0
to 0.2 over 30 000 of 40 000 upper iterations, T = 1, eta_LL = 0.01, alpha = beta = 0.1, full batches, which
are the default here.
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
    Needs,
    Oracle,
    Place,
    State,
    count,
    lower_sgd,
    real,
    shared,
    value_gap,
)


@dataclasses.dataclass(frozen=True)
class VPbgdState(State):
    """y_hat (N, dim_y): close to y*(x)."""

    y_hat: Tensor


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class VPbgd(MiniBatches[VPbgdState]):
    """Descent of f plus a rising penalty on the lower level's gap, in x and y together."""

    label = "V-PBGD"
    reference = "Shen and Chen 2023, Algorithm 1"
    warm_starts = ("y", "y_hat")
    needs = Needs(loss=True)
    bias = Bias("penalty", rate=-1)

    lower_steps: Tensor = count("steps of y_hat per upper iteration", symbol="T", default=1)
    penalised_step_size: Tensor = real("step size of y", symbol="beta")
    lower_step_size: Tensor = real("step size of y_hat", symbol="eta_LL")
    penalty: Tensor = real("last weight of g", symbol="kappa_S")
    first_penalty: Tensor = real("first weight of g", symbol="kappa_0", default=0.0)
    horizon: Tensor = count("upper iterations until the last weight", symbol="S")
    batch_size: int = shared("examples of a lower mini-batch; 0: all", symbol="B", default=0, low=0)

    def cost(self, place: Place) -> Cost:
        lower = self.lower_samples(place, self.lower_steps) + 2 * self.lower_samples(place, phase="epochs")
        return Cost(lower_gradient=lower, upper_gradient=self.upper_samples(place))

    def held(self, place: Place) -> Held:
        return Held(x=6, y=9)

    def init(self, oracle: Oracle) -> VPbgdState:
        return VPbgdState(x=oracle.x0, y=oracle.y0, y_hat=oracle.y0)

    def step(self, oracle: Oracle, state: VPbgdState) -> VPbgdState:
        x, y = state.x, state.y
        share = torch.clamp(oracle.place.iteration / self.horizon.double(), max=1)
        penalty = self.first_penalty + (self.penalty - self.first_penalty) * share.unsqueeze(1).to(
            self.penalty
        )
        scale = penalty.clamp(min=1)
        steps, size = self.lower_steps, self.size_of("lower")
        y_hat = lower_sgd(oracle, x, state.y_hat, steps, self.lower_step_size, size)
        f_x, f_y = self.upper_gradient(oracle, x, y)
        g_x, g_y = value_gap(oracle, x, y, y_hat, self.lower_batch(oracle, "epochs"))
        return VPbgdState(
            x=oracle.projected_step(x, f_x + penalty * g_x, self.upper_step_size / scale),
            y=y - self.penalised_step_size / scale * (f_y + penalty * g_y),
            y_hat=y_hat,
        )
