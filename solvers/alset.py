"""ALSET: few lower steps per upper iteration, as it was run, with a warm-started system, and as its authors
define it.

For s = 0, 1, ...
    y <- y - eta_LL * d_y g(x, y; batch)                                (from the last y)
    ALSET:   z <- -d_y f(x, y);  k times  z <- z - eta_LS * (H(x, y; batch) z + d_y f(x, y))
    ALSET+:                      once     the same from the last z (z = 0 at first)
    h = d_x f(x, y) + C(x, y; batch) z
    x <- P(x - alpha * h)
ALSET+-DET is ALSET+ with the full set as every batch. (The dagger of the paper is written + here.)
ALSET (Neumann) takes t lower steps, and its system is a randomly truncated series:
    t times   y <- y - eta_LL * d_y g(x, y; batch)                      (from the last y)
    z = -k * eta_LS * prod_{i = 1..p} (I - eta_LS * H(x, y; batch_i)) d_y f(x, y),  p uniform in 0, ..., k - 1

Symbols: t = lower_steps, k = system_steps, alpha = upper_step_size, eta_LL = lower_step_size, eta_LS =
system_step_size; of the series eta_LS = 1 / L, L a bound of g's curvature, and Chen et al. write N for k.
Cost per upper iteration: (2 + k) * batch_size + n_upper samples, k = 1 for ALSET+; ALSET (Neumann)
(t + p + 1) * batch_size + n_upper, p = floor(v * k) with one uniform v per upper iteration, on average
(k - 1) / 2.

References: T. Chen, Y. Sun, W. Yin, "Closing the Gap: Tighter Analysis of Alternating Stochastic Gradient
Methods for Bilevel Problems", NeurIPS 2021 (ALSET); R. Grazzi, M. Pontil, S. Salzo, JMLR 24(167), 2023,
Section 7.3 (the three without the series, as run here).
Differs from the paper: Chen et al. estimate the inverse by the random series, Grazzi et al. by stochastic
gradient steps on the system with constant steps, which is what ALSET is here. Chen et al. print p in 1, ...,
k; that misses the first term of the series however long it is, so this file draws p in 0, ..., k - 1, as
Ghadimi and Wang (2018). Their steps are constants of the order 1 / sqrt(S) for S upper iterations, hence
constant here, and fall only if upper_decay and lower_decay are given; v is common to the trials of a seed. A
diverged system solve falls back to its start, the series to its first term.
"""

import dataclasses
from typing import final

from torch import Tensor

from harness.api import (
    Cost,
    MiniBatches,
    Oracle,
    Place,
    SingleLoop,
    State,
    SystemState,
    TwoLevels,
    count,
    lower_sgd,
    random_neumann,
    real,
    start,
    start_with_system,
    system_sgd,
    truncation,
)

REFERENCE = "Chen, Sun and Yin 2021, as run by Grazzi, Pontil and Salzo 2023, Section 7.3"


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Alset(MiniBatches[State]):
    """One lower step; gradient steps on the system from -d_y f; one cross batch."""

    label = "ALSET"
    reference = REFERENCE
    warm_starts = ("y",)

    system_steps: Tensor = count("system steps per upper iteration", symbol="k")
    system_step_size: Tensor = real("step size of z", symbol="eta_LS")

    def cost(self, place: Place) -> Cost:
        once, system = self.lower_samples(place), self.lower_samples(place, self.system_steps)
        return Cost(once, self.upper_samples(place), system, once)

    def init(self, oracle: Oracle) -> State:
        return start(oracle)

    def step(self, oracle: Oracle, state: State) -> State:
        x = state.x
        g_y = oracle.lower_gradient(x, state.y, self.lower_batch(oracle, "lower"))
        y = state.y - self.lower_step_size * g_y
        f_x, f_y = self.upper_gradient(oracle, x, y)
        z = system_sgd(oracle, x, y, f_y, -f_y, self.system_steps, self.system_step_size, self.batch_size)
        h = f_x + oracle.cross(x, y, z, self.lower_batch(oracle, "cross"))
        return State(x=self.move(oracle, x, h), y=y)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Dagger(TwoLevels[SystemState]):
    """One step of each level: y at the old x, z at the new y, then x."""

    system_step_size: Tensor = real("step size of z", symbol="eta_LS")

    def cost(self, place: Place) -> Cost:
        once = self.lower_samples(place)
        return Cost(once, self.upper_samples(place), once, once)

    def init(self, oracle: Oracle) -> SystemState:
        return start_with_system(oracle)

    def step(self, oracle: Oracle, state: SystemState) -> SystemState:
        x = state.x
        g_y = oracle.lower_gradient(x, state.y, self.lower_batch(oracle, "lower"))
        y = state.y - self.lower_step_size * g_y
        f_x, f_y = self.upper_gradient(oracle, x, y)
        residual = oracle.hessian_vector(x, y, state.z, self.lower_batch(oracle, "system")) + f_y
        z = oracle.or_start(state.z - self.system_step_size * residual, state.z)
        h = f_x + oracle.cross(x, y, z, self.lower_batch(oracle, "cross"))
        return SystemState(x=self.move(oracle, x, h), y=y, z=z)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class AlsetDagger(_Dagger, MiniBatches[SystemState]):
    """One step of each level, one after the other, y and z from their last."""

    label = "ALSET†"
    reference = REFERENCE
    warm_starts = ("y", "z")


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class AlsetDaggerDet(_Dagger):
    """ALSET† on full batches. Cost per upper iteration: 3 * n_lower + n_upper samples."""

    label = "ALSET†-DET"
    reference = REFERENCE
    warm_starts = ("y", "z")


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class AlsetNeumann(SingleLoop[State]):
    """A few lower steps; a randomly truncated Neumann series."""

    label = "ALSET (Neumann)"
    reference = "Chen, Sun and Yin 2021, Algorithm 1"
    warm_starts = ("y",)

    lower_steps: Tensor = count("lower steps per upper iteration", symbol="t", default=1)
    system_steps: Tensor = count("longest Neumann series", symbol="k")
    system_step_size: Tensor = real("step size of the Neumann series", symbol="1/L")

    def cost(self, place: Place) -> Cost:
        descent = self.lower_samples(place, self.lower_steps)
        series = self.lower_samples(place, truncation(place, self.system_steps))
        return Cost(descent, self.upper_samples(place), series, self.lower_samples(place))

    def init(self, oracle: Oracle) -> State:
        return start(oracle)

    def step(self, oracle: Oracle, state: State) -> State:
        x, place, size = state.x, oracle.place, self.batch_size
        y = lower_sgd(oracle, x, state.y, self.lower_steps, self.lower_step(place), size)
        f_x, f_y = self.upper_gradient(oracle, x, y)
        z = random_neumann(oracle, x, y, f_y, self.system_steps, self.system_step_size, size)
        h = f_x + oracle.cross(x, y, z, self.lower_batch(oracle, "cross"))
        return State(x=oracle.projected_step(x, h, self.upper_step(place)), y=y)
