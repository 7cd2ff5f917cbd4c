"""ALSET and its variants with a warm-started system: one lower step per upper iteration.

For s = 0, 1, ...
    y <- y - eta_LL * d_y g(x, y; batch)                                (from the last y)
    ALSET:   z <- -d_y f(x, y);  k times  z <- z - eta_LS * (H(x, y; batch) z + d_y f(x, y))
    ALSET+:                      once     the same from the last z (z = 0 at first)
    h = d_x f(x, y) + C(x, y; batch) z
    x <- P(x - alpha * h)
ALSET+-DET is ALSET+ with the full set as every batch. (The dagger of the paper is written + here.)

Symbols: k = system_steps, alpha = upper_step_size, eta_LL = lower_step_size, eta_LS = system_step_size.
Cost per upper iteration: (2 + k) * batch_size + n_upper samples.

References: T. Chen, Y. Sun, W. Yin, "Closing the Gap: Tighter Analysis of Alternating Stochastic Gradient
Methods for Bilevel Problems", NeurIPS 2021 (ALSET); R. Grazzi, M. Pontil, S. Salzo, JMLR 24(167), 2023,
Section 7.3 (all three as run here).
Differs from the paper: Chen et al. estimate the inverse by a randomly truncated Neumann series with step
sizes that fall with the number of iterations; Grazzi et al. run stochastic gradient steps on the system
with constant steps, which is what this file does; a diverged system solve falls back to its start.
"""

import dataclasses
from typing import final

import torch
from torch import Tensor

from harness.blocks import system_sgd
from harness.budget import Cost
from harness.oracle import Oracle
from harness.params import count, real, shared
from harness.solver import Solver, State

REFERENCE = "Chen, Sun and Yin 2021, as run by Grazzi, Pontil and Salzo 2023, Section 7.3"


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Alset(Solver[State]):
    label = "ALSET"
    reference = REFERENCE
    warm_starts = ("y",)

    system_steps: Tensor = count("system steps per upper iteration, 10 to 10000", symbol="k")
    upper_step_size: Tensor = real("step size of x, 1e3 to 1e9 in data poisoning", symbol="alpha")
    lower_step_size: Tensor = real("step size of y, 1e-4 to 10", symbol="eta_LL")
    system_step_size: Tensor = real("step size of z, 1e-4 to 10", symbol="eta_LS")
    batch_size: int = shared("examples per lower, system and cross batch", symbol="B", default=90)

    def cost(self, oracle: Oracle) -> Cost:
        once = oracle.lower_samples(1, self.batch_size)
        system = oracle.lower_samples(self.system_steps, self.batch_size)
        return Cost(once, oracle.upper_samples(), system, once)

    def init(self, oracle: Oracle) -> State:
        return State(x=oracle.x0, y=oracle.y0)

    def step(self, oracle: Oracle, state: State) -> State:
        x, size = state.x, self.batch_size
        y = state.y - self.lower_step_size * oracle.lower_gradient(x, state.y, oracle.batch("lower", size))
        f_x, f_y = oracle.upper_gradient(x, y)
        z = system_sgd(oracle, x, y, f_y, -f_y, self.system_steps, self.system_step_size, size)
        h = f_x + oracle.cross(x, y, z, oracle.batch("cross", size))
        return State(x=oracle.projected_step(x, h, self.upper_step_size), y=y)


@dataclasses.dataclass(frozen=True)
class AlsetState(State):
    """z (N, dim_y): the system variable."""

    z: Tensor


def _single_loop(
    oracle: Oracle, state: AlsetState, alpha: Tensor, eta: Tensor, mu: Tensor, size: int | None
) -> AlsetState:
    """One step of each level: y at the old x, z at the new y, then x."""
    x = state.x
    y = state.y - eta * oracle.lower_gradient(x, state.y, oracle.batch("lower", size))
    f_x, f_y = oracle.upper_gradient(x, y)
    residual = oracle.hessian_vector(x, y, state.z, oracle.batch("system", size)) + f_y
    z = oracle.or_start(state.z - mu * residual, state.z)
    h = f_x + oracle.cross(x, y, z, oracle.batch("cross", size))
    return AlsetState(x=oracle.projected_step(x, h, alpha), y=y, z=z)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class AlsetDagger(Solver[AlsetState]):
    label = "ALSET†"
    reference = REFERENCE
    warm_starts = ("y", "z")

    upper_step_size: Tensor = real("step size of x, 1e3 to 1e9 in data poisoning", symbol="alpha")
    lower_step_size: Tensor = real("step size of y, 1e-4 to 10", symbol="eta_LL")
    system_step_size: Tensor = real("step size of z, 1e-4 to 10", symbol="eta_LS")
    batch_size: int = shared("examples per lower, system and cross batch", symbol="B", default=90)

    def cost(self, oracle: Oracle) -> Cost:
        once = oracle.lower_samples(1, self.batch_size)
        return Cost(once, oracle.upper_samples(), once, once)

    def init(self, oracle: Oracle) -> AlsetState:
        return AlsetState(x=oracle.x0, y=oracle.y0, z=torch.zeros_like(oracle.y0))

    def step(self, oracle: Oracle, state: AlsetState) -> AlsetState:
        sizes = (self.upper_step_size, self.lower_step_size, self.system_step_size)
        return _single_loop(oracle, state, *sizes, self.batch_size)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class AlsetDaggerDet(Solver[AlsetState]):
    """ALSET† on full batches. Cost per upper iteration: 3 * n_lower + n_upper samples."""

    label = "ALSET†-DET"
    reference = REFERENCE
    warm_starts = ("y", "z")

    upper_step_size: Tensor = real("step size of x, 1e3 to 1e9 in data poisoning", symbol="alpha")
    lower_step_size: Tensor = real("step size of y, 1e-4 to 10", symbol="eta_LL")
    system_step_size: Tensor = real("step size of z, usually eta_LL", symbol="eta_LS")

    def cost(self, oracle: Oracle) -> Cost:
        once = oracle.lower_samples(1)
        return Cost(once, oracle.upper_samples(), once, once)

    def init(self, oracle: Oracle) -> AlsetState:
        return AlsetState(x=oracle.x0, y=oracle.y0, z=torch.zeros_like(oracle.y0))

    def step(self, oracle: Oracle, state: AlsetState) -> AlsetState:
        return _single_loop(
            oracle, state, self.upper_step_size, self.lower_step_size, self.system_step_size, None
        )
