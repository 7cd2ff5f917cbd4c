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

from harness.blocks import NestedLoops, lower_sgd, system_sgd
from harness.budget import Cost
from harness.oracle import Oracle
from harness.params import count, real, shared
from harness.problem import Batch
from harness.solver import Solver, State

REFERENCE = "Grazzi, Pontil and Salzo 2023, Algorithms 1 and 2"


def _step(bsgm: NestedLoops[State], oracle: Oracle, x: Tensor, y: Tensor) -> State:
    """One upper iteration from x, the lower steps starting at y."""
    size = bsgm.batch_size
    y = lower_sgd(oracle, x, y, bsgm.lower_steps, bsgm.lower_step_size, size)
    f_x, f_y = oracle.upper_gradient(x, y)
    z = system_sgd(oracle, x, y, f_y, -f_y, bsgm.system_steps, bsgm.system_step_size, size)
    h = f_x + oracle.cross(x, y, z, oracle.batches("cross", bsgm.cross_batches, size))
    return State(x=oracle.projected_step(x, h, bsgm.upper_step_size), y=y)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Bsgm(NestedLoops[State]):
    label = "BSGM"
    reference = REFERENCE

    def init(self, oracle: Oracle) -> State:
        return State(x=oracle.x0, y=oracle.y0)

    def step(self, oracle: Oracle, state: State) -> State:
        return _step(self, oracle, state.x, oracle.y0)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class BsgmWs(NestedLoops[State]):
    """BSGM+WS: BSGM, but y starts from where the lower steps left it when the same examples were last met;
    the system never does. Where the lower level is one problem for all examples that is the last y.

    Same cost. Grazzi et al. 2023, Section 7.1, with t = k = 2 and step sizes 1 for the equilibrium models'
    contraction; as published, an example's stored y is of the x it was computed at."""

    label = "BSGM+WS"
    reference = "Grazzi, Pontil and Salzo 2023, Section 7.1"
    warm_starts = ("y",)

    def init(self, oracle: Oracle) -> State:
        return State(x=oracle.x0, y=oracle.y0)

    def step(self, oracle: Oracle, state: State) -> State:
        return _step(self, oracle, state.x, state.y)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class BsgmDecreasing(NestedLoops[State]):
    """BSGM with step sizes eta * gamma / (gamma + i) at lower step i = 0, 1, ... and, as in the published
    code, at system step i = 1, 2, ..."""

    label = "BSGM (decreasing steps)"
    reference = REFERENCE

    decay: Tensor = real("steps after which a step size has halved, 10 to 1e4", symbol="gamma")

    def init(self, oracle: Oracle) -> State:
        return State(x=oracle.x0, y=oracle.y0)

    def step(self, oracle: Oracle, state: State) -> State:
        x, size, eta, mu, gamma = (
            state.x,
            self.batch_size,
            self.lower_step_size,
            self.system_step_size,
            self.decay,
        )

        def lower(batch: Batch, y: Tensor, x: Tensor, eta: Tensor, gamma: Tensor) -> Tensor:
            return y - eta * gamma / (gamma + batch.step) * oracle.lower_gradient(x, y, batch)

        def system(
            batch: Batch, z: Tensor, x: Tensor, y: Tensor, f_y: Tensor, mu: Tensor, gamma: Tensor
        ) -> Tensor:
            residual = oracle.hessian_vector(x, y, z, batch) + f_y
            return z - mu * gamma / (gamma + batch.step + 1) * residual

        y = oracle.loop("lower", self.lower_steps, lower, oracle.y0, x, eta, gamma, batch_size=size)
        f_x, f_y = oracle.upper_gradient(x, y)
        z = oracle.loop("system", self.system_steps, system, -f_y, x, y, f_y, mu, gamma, batch_size=size)
        z = oracle.or_start(z, -f_y)
        h = f_x + oracle.cross(x, y, z, oracle.batches("cross", self.cross_batches, size))
        return State(x=oracle.projected_step(x, h, self.upper_step_size), y=y)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class BsgmGrowing(Solver[State]):
    """BSGM with t_s = k_s = J_s = ceil(c (s + 1)), or ceil(c S) at every s where a horizon S is given
    (Theorem 7)."""

    label = "BSGM (growing counts)"
    reference = "Grazzi, Pontil and Salzo 2023, Theorem 7"

    growth: Tensor = real("steps gained per upper iteration", symbol="c")
    upper_step_size: Tensor = real("step size of x, 1e3 to 1e9 in data poisoning", symbol="alpha")
    lower_step_size: Tensor = real("step size of y, 1e-4 to 10", symbol="eta_LL")
    system_step_size: Tensor = real("step size of z, usually eta_LL", symbol="eta_LS")
    horizon: Tensor = count(
        "upper iterations S of the constant variant; 0: growing", symbol="S", default=0, low=0
    )
    batch_size: int = shared("examples per lower, system and cross batch", symbol="B", default=90)

    def counts(self, iteration: int) -> Tensor:
        """t_s, shape (N,)."""
        place = torch.where(self.horizon > 0, self.horizon, iteration + 1)
        return torch.ceil(self.growth.cpu().squeeze(1).double() * place).long().clamp(min=1)

    def cost(self, oracle: Oracle) -> Cost:
        drawn = oracle.lower_samples(self.counts(oracle.iteration), self.batch_size)
        return Cost(drawn, oracle.upper_samples(), drawn, drawn)

    def init(self, oracle: Oracle) -> State:
        return State(x=oracle.x0, y=oracle.y0)

    def step(self, oracle: Oracle, state: State) -> State:
        x, size, steps = state.x, self.batch_size, self.counts(oracle.iteration)
        y = lower_sgd(oracle, x, oracle.y0, steps, self.lower_step_size, size)
        f_x, f_y = oracle.upper_gradient(x, y)
        z = system_sgd(oracle, x, y, f_y, -f_y, steps, self.system_step_size, size)
        h = f_x + oracle.cross(x, y, z, oracle.batches("cross", steps, size))
        return State(x=oracle.projected_step(x, h, self.upper_step_size), y=y)
