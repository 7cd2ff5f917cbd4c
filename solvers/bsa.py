"""BA and BSA: bilevel approximation, exact and stochastic, with lower steps that grow in number.

For s = 0, 1, ...,   t_s = ceil(c * (s + 1)^e)
    BA, on full batches:
        y <- y0;   t_s times   y <- y - eta_LL * d_y g(x, y)
        z = -H(x, y)^-1 d_y f(x, y),   the whole H(x, y) computed
        h = d_x f(x, y) + C(x, y) z
    BSA:
        y <- y0 (BSA+WS: the last y);
        for i = 0, ..., t_s - 1    y <- y - eta_LL * gamma / (gamma + i) * d_y g(x, y; batch_i)
        N_s = ceil(k + c_N * log(s + 1)),   p uniform in 0, ..., N_s - 1
        z = -N_s * eta_LS * prod_{i = 1..p} (I - eta_LS * H(x, y; batch_i)) d_y f(x, y)
        h = d_x f(x, y) + C(x, y; batch) z
    x <- P(x - alpha * h)

Symbols: c = growth, e = growth_exponent (1/4 in BA, 1/2 in BSA), k = system_steps, c_N = system_growth,
gamma = decay, alpha = upper_step_size, eta_LL = lower_step_size, eta_LS = system_step_size = 1 / L, L a bound
of g's curvature.
Cost per upper iteration: BA (t_s + dim_y + 1) * n_lower + n_upper samples, as H is dim_y Hessian-vector
products; BSA (t_s + p + 1) * batch_size + n_upper, p = floor(v * N_s) with one uniform v per upper iteration,
on average (N_s - 1) / 2.

Reference: S. Ghadimi, M. Wang, "Approximation Methods for Bilevel Programming", arXiv 1802.02246, 2018,
Algorithms 1 and 2; the steps and counts of BSA as in Grazzi, Pontil and Salzo, JMLR 24(167), 2023, Table 1:
t_s of the order sqrt(s), a series of the order log(s), lower steps of the order 1 / i.
Differs from the paper: for a non-convex problem Ghadimi and Wang take t_s = ceil((s + 1)^(1/4) / 2) in BA, so
c = 1/2; here c is free, as are the constants of BSA's orders, which hold unknown curvatures. BSA draws single
examples there, batches here. Its upper step is a constant of the order 1 / sqrt(S) for S upper iterations,
hence constant here. Ghadimi and Wang restart y; the public bilevel benchmark and Arbel and Mairal (2022)
compare with a warm-started BSA, which is BSA+WS (the benchmark's takes the same number of lower steps
throughout, as growth_exponent = 0, and steps x before y). v is common to the trials of a seed. A series that
is not finite falls back to its first term; a singular H ends a trial as diverged.
"""

import dataclasses
import math
from typing import final

import torch
from torch import Tensor

from harness.api import (
    Cost,
    Held,
    MiniBatch,
    MiniBatches,
    Needs,
    Oracle,
    Place,
    State,
    TwoLevels,
    count,
    lower_sgd,
    random_neumann,
    real,
    start,
    truncation,
    whole,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _GrowingSteps(TwoLevels[State]):
    """t_s lower steps."""

    growth: Tensor = real("lower steps of the first upper iteration", symbol="c")
    growth_exponent: Tensor = real("exponent of the growth of the lower steps", symbol="e", default=0.25)

    def lower_steps(self, place: Place) -> Tensor:
        """t_s, shape (N,); in double precision on every device, so that counts agree."""
        exponent = self.growth_exponent.cpu().double()
        return whole(self.growth.cpu().double() * (place.iteration + 1) ** exponent)

    def init(self, oracle: Oracle) -> State:
        return start(oracle)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Ba(_GrowingSteps):
    """More and more lower steps from y0 on all examples; the Hessian itself inverted."""

    label = "BA"
    reference = "Ghadimi and Wang 2018, Algorithm 1"
    needs = Needs(loss=True, one_lower_problem=True, dim_y=500)

    def cost(self, place: Place) -> Cost:
        once = place.lower_samples(1, None)
        descent = place.lower_samples(self.lower_steps(place), None)
        return Cost(descent, self.upper_samples(place), place.dim_y * once, once)

    def held(self, place: Place) -> Held:
        return Held(x=4, y=6 + 3 * place.dim_y)

    def step(self, oracle: Oracle, state: State) -> State:
        x, steps = state.x, self.lower_steps(oracle.place)
        y = lower_sgd(oracle, x, oracle.y0, steps, self.lower_step_size, None)
        f_x, f_y = self.upper_gradient(oracle, x, y)
        full = self.lower_batch(oracle, "system")
        z, _ = torch.linalg.solve_ex(oracle.hessian(x, y, full), -f_y)
        return State(x=self.move(oracle, x, f_x + oracle.cross(x, y, z, full)), y=y)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Bsa(_GrowingSteps, MiniBatches[State]):
    growth_exponent: Tensor = real("exponent of the growth of the lower steps", symbol="e", default=0.5)
    decay: Tensor = real("lower steps after which their size has halved", symbol="gamma")
    system_steps: Tensor = count("longest Neumann series of the first upper iteration", symbol="k")
    system_growth: Tensor = real("growth of that by log(s + 1)", symbol="c_N", default=1.0)
    system_step_size: Tensor = real("step size of the Neumann series", symbol="1/L")

    def longest(self, place: Place) -> Tensor:
        """N_s, shape (N,)."""
        growth = self.system_growth.cpu().double() * math.log(place.iteration + 1)
        return whole(self.system_steps.unsqueeze(1) + growth)

    def cost(self, place: Place) -> Cost:
        descent = self.lower_samples(place, self.lower_steps(place))
        series = self.lower_samples(place, truncation(place, self.longest(place)))
        return Cost(descent, self.upper_samples(place), series, self.lower_samples(place))

    def after(self, oracle: Oracle, x: Tensor, y: Tensor) -> State:
        """One upper iteration from x, the lower steps starting at y."""

        def lower(batch: MiniBatch, y: Tensor, x: Tensor, eta: Tensor, gamma: Tensor) -> Tensor:
            return y - eta * gamma / (gamma + batch.step) * oracle.lower_gradient(x, y, batch)

        place, size = oracle.place, self.batch_size
        operands = (x, self.lower_step_size, self.decay)
        y = oracle.loop("lower", self.lower_steps(place), lower, y, *operands, batch_size=size)
        f_x, f_y = self.upper_gradient(oracle, x, y)
        z = random_neumann(oracle, x, y, f_y, self.longest(place), self.system_step_size, size)
        h = f_x + oracle.cross(x, y, z, self.lower_batch(oracle, "cross"))
        return State(x=self.move(oracle, x, h), y=y)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Bsa(_Bsa):
    """More and more falling lower steps from y0; a randomly truncated Neumann series that grows."""

    label = "BSA"
    reference = "Ghadimi and Wang 2018, Algorithm 2"

    def step(self, oracle: Oracle, state: State) -> State:
        return self.after(oracle, state.x, oracle.y0)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class BsaWs(_Bsa):
    """BSA+WS: BSA with the lower level warm-started. Same cost."""

    label = "BSA+WS"
    reference = "Ghadimi and Wang 2018, Algorithm 2, as compared with by Arbel and Mairal 2022"
    warm_starts = ("y",)

    def step(self, oracle: Oracle, state: State) -> State:
        return self.after(oracle, state.x, state.y)
