"""MEHA: a single loop on the gap to the lower level's Moreau envelope, gradients of both levels only.

For s = 0, 1, ...   (B one batch of lower examples, B' one of upper examples), with c = c_0 * (s + 1)^p
    theta <- theta - eta_LL * (d_y g(x, theta; B) + rho * (theta - y))
    y <- y - beta * (d_y f(x, y; B') / c + d_y g(x, y; B) - rho * (y - theta))
    h = d_x f(x, y; B') + c * (d_x g(x, y; B) - d_x g(x, theta; B))
    x <- P(x - alpha / c * h)
theta is close to the minimiser of g(x, .) + rho / 2 |. - y|^2, and h is the hypergradient up to a bias of
order 1 / c.

Symbols: c_0 = penalty, p = penalty_exponent, rho = proximal (the paper's 1 / gamma), eta_LL =
lower_step_size, beta = penalised_step_size, alpha = upper_step_size; theta = y_hat in the state. B has
batch_size examples, B' upper_batch_size; 0 is all.
Cost per upper iteration: 4 * batch_size + 2 * upper_batch_size samples: each level at both values of y.

Reference: R. Liu, Z. Liu, W. Yao, S. Zeng, J. Zhang, "Moreau Envelope for Nonconvex Bi-Level Optimization: A
Single-loop and Hessian-free Solution Strategy", ICML 2024, Algorithm 1; p < 1/2, p = 1/4 in the code.
Differs from the paper: y moves before x, as in the authors' published toolbox (BOAT), where the paper moves
x first, at the same cost. The toolbox's examples have c_0 = 0.2, rho = 0.01, eta_LL = 0.001 and beta = 0.1.
Batches are full in both, and by default here; a nonsmooth part of the lower level, with a proximal step, is
left out.
"""

import dataclasses
from typing import final

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
    real,
    shared,
    value_gap,
)


@dataclasses.dataclass(frozen=True)
class MehaState(State):
    """y_hat (N, dim_y): theta, close to the proximal point of y."""

    y_hat: Tensor


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Meha(MiniBatches[MehaState]):
    """One step of y and of a proximal point; x moves by the gap of the Moreau envelope."""

    label = "MEHA"
    reference = "Liu, Liu, Yao, Zeng and Zhang 2024, Algorithm 1"
    warm_starts = ("y", "y_hat")
    needs = Needs(loss=True)
    bias = Bias("penalty", rate=-1)

    penalised_step_size: Tensor = real("step size of y", symbol="beta")
    lower_step_size: Tensor = real("step size of theta", symbol="eta_LL")
    penalty: Tensor = real("first weight of the gap", symbol="c_0")
    penalty_exponent: Tensor = real("growth of the weight", symbol="p", default=0.25)
    proximal: Tensor = real("pull of theta to y", symbol="rho", default=0.01)
    batch_size: int = shared("examples of a lower mini-batch; 0: all", symbol="B", default=0, low=0)

    def cost(self, place: Place) -> Cost:
        lower = 4 * self.lower_samples(place, phase="epochs")
        return Cost(lower_gradient=lower, upper_gradient=2 * self.upper_samples(place))

    def held(self, place: Place) -> Held:
        return Held(x=6, y=9)

    def init(self, oracle: Oracle) -> MehaState:
        return MehaState(x=oracle.x0, y=oracle.y0, y_hat=oracle.y0)

    def step(self, oracle: Oracle, state: MehaState) -> MehaState:
        x, y, theta, rho = state.x, state.y, state.y_hat, self.proximal
        penalty = self.penalty * (oracle.place.iteration + 1.0) ** self.penalty_exponent
        batch = self.lower_batch(oracle, "epochs")
        theta = theta - self.lower_step_size * (oracle.lower_gradient(x, theta, batch) + rho * (theta - y))
        f_y = self.upper_gradient(oracle, x, y)[1]
        slope = f_y / penalty + oracle.lower_gradient(x, y, batch) - rho * (y - theta)
        y = y - self.penalised_step_size * slope
        f_x = self.upper_gradient(oracle, x, y)[0]
        h = f_x + penalty * value_gap(oracle, x, y, theta, batch)[0]
        return MehaState(x=oracle.projected_step(x, h, self.upper_step_size / penalty), y=y, y_hat=theta)
