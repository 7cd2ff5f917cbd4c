"""BOME: gradients of both levels only; a penalty that is just large enough for the lower level to improve.

For s = 0, 1, ...   (B one batch of lower examples, B' one of upper examples)
    y_hat <- y;   T times   y_hat <- y_hat - eta_LL * d_y g(x, y_hat; batch)
    (f_x, f_y) = gradient of f(x, y; B')
    (q_x, q_y) = gradient of q = g(x, y; B) - g(x, y_hat; B), with y_hat held
    phi = eta * (|q_x|^2 + |q_y|^2),   or   eta * q
    lambda = max(phi - <f_x, q_x> - <f_y, q_y>, 0) / (|q_x|^2 + |q_y|^2)
    x <- P(x - alpha * (f_x + lambda * q_x)),   y <- y - beta * (f_y + lambda * q_y)
all from the same x and y. At a fixed x the direction of x is the hypergradient up to a bias of order 1 / eta;
where x comes to rest, lambda grows without a bound and the bias vanishes.

Symbols: T = lower_steps, eta_LL = lower_step_size, alpha = upper_step_size, beta = penalised_step_size, eta =
control, the choice of phi = target; B and the batches of the loop have batch_size examples, B'
upper_batch_size; 0 is all.
Cost per upper iteration: (T + 2) * batch_size + upper_batch_size samples, and with target = "value" two
values of g on batch_size examples.

Reference: M. Ye, B. Liu, S. Wright, P. Stone, Q. Liu, "BOME! Bilevel Optimization Made Easy: A Simple
First-Order Approach", NeurIPS 2022, Algorithm 1; it writes v, theta for x, y and xi for alpha and beta.
Differs from the paper: it has one step size of x and y, and full batches, which are the default here; its
published code has two and so has this file; there |q_x|^2 + |q_y|^2 is raised by 1e-8 in the quotient, here
lambda = 0 where it is 0. eta = 0.5 with phi of the squared norm is the paper's choice and the public bilevel
benchmark's; the published code of the experiments has phi = eta * q with eta = 1 or 0.1.
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
    choice,
    count,
    lower_sgd,
    real,
    shared,
    start,
    value_gap,
)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Bome(MiniBatches[State]):
    """Descent of f plus a penalty on the lower level's gap that is as small as its descent allows."""

    label = "BOME"
    reference = "Ye, Liu, Wright, Stone and Liu 2022, Algorithm 1"
    warm_starts = ("y",)
    needs = Needs(loss=True)
    bias = Bias("control", rate=-1, stiff=("penalised_step_size",))

    lower_steps: Tensor = count("steps of y_hat per upper iteration", symbol="T")
    penalised_step_size: Tensor = real("step size of y", symbol="beta")
    lower_step_size: Tensor = real("step size of y_hat", symbol="eta_LL")
    control: Tensor = real("how fast the lower level must improve", symbol="eta", default=0.5)
    target: str = choice("phi: of the norm or of the value of q", default="norm", choices=("norm", "value"))
    batch_size: int = shared("examples of a lower mini-batch; 0: all", symbol="B", default=0, low=0)

    def cost(self, place: Place) -> Cost:
        once = self.lower_samples(place, phase="epochs")
        lower = self.lower_samples(place, self.lower_steps) + 2 * once
        values = 2 * once if self.target == "value" else 0
        return Cost(lower_gradient=lower, upper_gradient=self.upper_samples(place), value=values)

    def held(self, place: Place) -> Held:
        return Held(x=6, y=8)

    def init(self, oracle: Oracle) -> State:
        return start(oracle)

    def step(self, oracle: Oracle, state: State) -> State:
        x, y = state.x, state.y
        y_hat = lower_sgd(oracle, x, y, self.lower_steps, self.lower_step_size, self.size_of("lower"))
        batch = self.lower_batch(oracle, "epochs")
        f_x, f_y = self.upper_gradient(oracle, x, y)
        q_x, q_y = value_gap(oracle, x, y, y_hat, batch)
        norm = _inner(q_x, q_x) + _inner(q_y, q_y)
        phi = self.control * norm
        if self.target == "value":
            phi = self.control * (oracle.lower_value(x, y, batch) - oracle.lower_value(x, y_hat, batch))
        missing = torch.clamp(phi - _inner(f_x, q_x) - _inner(f_y, q_y), min=0)
        penalty = torch.where(norm == 0, 0, missing / norm)
        return State(
            x=self.move(oracle, x, f_x + penalty * q_x),
            y=y - self.penalised_step_size * (f_y + penalty * q_y),
        )


def _inner(u: Tensor, v: Tensor) -> Tensor:
    return (u * v).sum(1, keepdim=True)
