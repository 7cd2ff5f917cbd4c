"""BSGM: stochastic bilevel gradient descent with neither level warm-started.

For s = 0, 1, ...
    y <- y0;          t_s times   y <- y - eta_LL * d_y g(x, y; batch)
    z <- -d_y f(x, y); k_s times  z <- z - eta_LS * (H(x, y; batch) z + d_y f(x, y))
    h = d_x f(x, y) + mean over J_s batches of C(x, y; batch) z
    x <- P(x - alpha * h)

Symbols: t = lower_steps, k = system_steps, J = cross_batches, alpha = upper_step_size, eta_LL =
lower_step_size, eta_LS = system_step_size; the paper writes lambda = x, w = y, v = -z.
Cost per upper iteration: (t + k + J) * batch_size + n_upper samples.

Reference: R. Grazzi, M. Pontil, S. Salzo, "Bilevel Optimization with a Lower-level Contraction: Optimal
Sample Complexity without Warm-Start", JMLR 24(167), 2023, Algorithms 1 and 2, Theorem 7.
Differs from the paper: the system starts at -d_y f (v_0 = d_y f), as in the published code, not at 0; a
system solve that is not finite falls back to that start, as in the published code.
"""

import dataclasses
from typing import final

import torch
from torch import Tensor

from harness.api import (
    Cost,
    MiniBatch,
    MiniBatches,
    Oracle,
    Place,
    SgdSystem,
    State,
    count,
    lower_sgd,
    real,
    start,
    system_sgd,
    whole,
)

REFERENCE = "Grazzi, Pontil and Salzo 2023, Algorithms 1 and 2"


def _step(bsgm: SgdSystem[State], oracle: Oracle, x: Tensor, y: Tensor) -> State:
    """One upper iteration from x, the lower steps starting at y."""
    y = bsgm.descend(oracle, x, y)
    f_x, f_y = bsgm.upper_gradient(oracle, x, y)
    z = bsgm.solve(oracle, x, y, f_y, -f_y)
    h = bsgm.hypergradient(oracle, x, y, z, f_x)
    return State(x=bsgm.move(oracle, x, h), y=y)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Bsgm(SgdSystem[State]):
    """Lower steps from y0, gradient steps on the system from -d_y f."""

    label = "BSGM"
    reference = REFERENCE

    def init(self, oracle: Oracle) -> State:
        return start(oracle)

    def step(self, oracle: Oracle, state: State) -> State:
        return _step(self, oracle, state.x, oracle.y0)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class BsgmWs(SgdSystem[State]):
    """BSGM+WS: BSGM, but y starts from where the lower steps left it when the same examples were last met;
    the system never does. Where the lower level is one problem for all examples that is the last y.

    Same cost. Grazzi et al. 2023, Section 7.1, with t = k = 2 and step sizes 1 for the equilibrium models'
    contraction; as published, an example's stored y is of the x it was computed at."""

    label = "BSGM+WS"
    reference = "Grazzi, Pontil and Salzo 2023, Section 7.1"
    warm_starts = ("y",)

    def init(self, oracle: Oracle) -> State:
        return start(oracle)

    def step(self, oracle: Oracle, state: State) -> State:
        return _step(self, oracle, state.x, state.y)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class BsgmDecreasing(SgdSystem[State]):
    """BSGM with step sizes eta * gamma / (gamma + i) at lower step i from 0 on and, as in the published
    code, at system step i = 1, 2, ..."""

    label = "BSGM (decreasing steps)"
    reference = REFERENCE

    decay: Tensor = real("steps after which a step size has halved", symbol="gamma")

    def init(self, oracle: Oracle) -> State:
        return start(oracle)

    def step(self, oracle: Oracle, state: State) -> State:
        def lower(batch: MiniBatch, y: Tensor, x: Tensor, eta: Tensor, gamma: Tensor) -> Tensor:
            return y - eta * gamma / (gamma + batch.step) * oracle.lower_gradient(x, y, batch)

        def system(
            batch: MiniBatch, z: Tensor, x: Tensor, y: Tensor, f_y: Tensor, mu: Tensor, gamma: Tensor
        ) -> Tensor:
            residual = oracle.hessian_vector(x, y, z, batch) + f_y
            return z - mu * gamma / (gamma + batch.step + 1) * residual

        x, size, gamma = state.x, self.batch_size, self.decay
        steps = (self.lower_step_size, gamma)
        y = oracle.loop("lower", self.lower_steps, lower, oracle.y0, x, *steps, batch_size=size)
        f_x, f_y = self.upper_gradient(oracle, x, y)
        operands = (x, y, f_y, self.system_step_size, gamma)
        z = oracle.loop("system", self.system_steps, system, -f_y, *operands, batch_size=size)
        h = self.hypergradient(oracle, x, y, oracle.or_start(z, -f_y), f_x)
        return State(x=self.move(oracle, x, h), y=y)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class BsgmGrowing(MiniBatches[State]):
    """BSGM with t_s = k_s = J_s = ceil(c (s + 1)), or ceil(c S) at every s where a horizon S is given
    (Theorem 7)."""

    label = "BSGM (growing counts)"
    reference = "Grazzi, Pontil and Salzo 2023, Theorem 7"

    growth: Tensor = real("steps gained per upper iteration", symbol="c")
    system_step_size: Tensor = real("step size of z", symbol="eta_LS")
    horizon: Tensor = count(
        "upper iterations S of the constant variant; 0: growing", symbol="S", default=0, low=0
    )

    def steps(self, place: Place) -> Tensor:
        """t_s, shape (N,)."""
        factor = torch.where(self.horizon > 0, self.horizon, place.iteration + 1)
        return whole(self.growth.cpu().squeeze(1).double() * factor)

    def cost(self, place: Place) -> Cost:
        drawn = self.lower_samples(place, self.steps(place))
        return Cost(drawn, self.upper_samples(place), drawn, drawn)

    def init(self, oracle: Oracle) -> State:
        return start(oracle)

    def step(self, oracle: Oracle, state: State) -> State:
        x, size, steps = state.x, self.batch_size, self.steps(oracle.place)
        y = lower_sgd(oracle, x, oracle.y0, steps, self.lower_step_size, size)
        f_x, f_y = self.upper_gradient(oracle, x, y)
        z = system_sgd(oracle, x, y, f_y, -f_y, steps, self.system_step_size, size)
        h = f_x + oracle.cross(x, y, z, oracle.lower_batches("cross", steps, size))
        return State(x=self.move(oracle, x, h), y=y)
