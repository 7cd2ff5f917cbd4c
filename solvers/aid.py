"""AID: approximate implicit differentiation with five solvers of the system, all but one from zero.

For s = 0, 1, ...
    t times   y <- y - eta_LL * d_y g(x, y; batch)               (from the last y; AID-CG-WS: from y0)
    AID-GD:     z <- 0;        k times   z <- z - eta_LS * (H(x, y; batch) z + d_y f(x, y))
    AID-FP:     the same with eta_LL for eta_LS: the fixed-point map of the lower steps
    AID-N:      p = -eta_LL * d_y f(x, y), z <- p;
                               k times   p <- p - eta_LL * H(x, y; batch) p,  z <- z + p
    AID-CG:     z <- 0;        k conjugate-gradient steps on H(x, y; batch) z = -d_y f(x, y), all on one batch
    AID-CG-WS:  the last z (z = 0 at first);  the same
    h = d_x f(x, y) + mean over J batches of C(x, y; batch) z
    x <- P(x - alpha * h)
On full batches AID-FP's z is -eta_LL * sum_{q < k} (I - eta_LL * H)^q d_y f(x, y), and AID-N's has one term
more: q <= k.

Symbols: t = lower_steps, k = system_steps, J = cross_batches, alpha = upper_step_size, eta_LL =
lower_step_size, eta_LS = system_step_size. Conjugate gradients need a symmetric H, so AID-CG and AID-CG-WS
are not for a fixed-point lower level.
Cost per upper iteration: (t + k + J) * batch_size + n_upper samples; AID-CG-WS one batch_size more, for the
first residual.

References: R. Grazzi, L. Franceschi, M. Pontil, S. Salzo, "On the Iteration Complexity of Hypergradient
Computation", ICML 2020, Section 2 (fixed point, conjugate gradients); J. Lorraine, P. Vicol, D. Duvenaud,
"Optimizing Millions of Hyperparameters by Implicit Differentiation", AISTATS 2020, Algorithms 2 and 3
(Neumann series); all five as M. Arbel, J. Mairal, ICLR 2022, Section 5, compare with them.
Differs from the paper: the papers take full batches, which here are batch_size >= n_lower; on smaller ones
each step, but of conjugate gradients, has a fresh batch and the cross product is averaged over J batches. The
published code (prolearner/hypertorch) stops early at a tolerance, this file takes all k steps; its conjugate
gradients always start at zero, as AID-CG. Grazzi et al. and Lorraine et al. leave open where y starts: the
warm start is Arbel and Mairal's. A system solve that is not finite falls back to its start.
"""

import dataclasses
from abc import abstractmethod
from typing import final

import torch
from torch import Tensor

from harness.api import (
    Needs,
    NestedLoops,
    Oracle,
    Place,
    State,
    SystemState,
    conjugate_gradients,
    neumann_series,
    real,
    start,
    start_with_system,
    system_sgd,
)

REFERENCE = "Grazzi, Franceschi, Pontil and Salzo 2020, Section 2"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Aid(NestedLoops[State]):
    """y from the last one, z from nothing."""

    warm_starts = ("y",)

    def init(self, oracle: Oracle) -> State:
        return start(oracle)

    @abstractmethod
    def solution(self, oracle: Oracle, x: Tensor, y: Tensor, f_y: Tensor) -> Tensor:
        """z."""

    def step(self, oracle: Oracle, state: State) -> State:
        x = state.x
        y = self.descend(oracle, x, state.y)
        f_x, f_y = self.upper_gradient(oracle, x, y)
        h = self.hypergradient(oracle, x, y, self.solution(oracle, x, y, f_y), f_x)
        return State(x=self.move(oracle, x, h), y=y)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _FreshBatches(_Aid):
    def system_samples(self, place: Place) -> Tensor | int:
        return self.lower_samples(place, self.system_steps)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class AidGd(_FreshBatches):
    """Lower steps from the last y; the system from 0 by gradient steps."""

    label = "AID-GD"
    reference = "Arbel and Mairal 2022, Section 5"

    system_step_size: Tensor = real("step size of z", symbol="eta_LS")

    def solution(self, oracle: Oracle, x: Tensor, y: Tensor, f_y: Tensor) -> Tensor:
        zero, eta = torch.zeros_like(y), self.system_step_size
        return system_sgd(oracle, x, y, f_y, zero, self.system_steps, eta, self.batch_size)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class AidFp(_FreshBatches):
    """Lower steps from the last y; the system from 0 by steps of the lower step size."""

    label = "AID-FP"
    reference = REFERENCE

    def solution(self, oracle: Oracle, x: Tensor, y: Tensor, f_y: Tensor) -> Tensor:
        zero, eta = torch.zeros_like(y), self.lower_step_size
        return system_sgd(oracle, x, y, f_y, zero, self.system_steps, eta, self.batch_size)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class AidN(_FreshBatches):
    """Lower steps from the last y; a Neumann series in the lower step size."""

    label = "AID-N"
    reference = "Lorraine, Vicol and Duvenaud 2020, Algorithms 2 and 3"

    def solution(self, oracle: Oracle, x: Tensor, y: Tensor, f_y: Tensor) -> Tensor:
        eta = self.lower_step_size
        return neumann_series(oracle, x, y, f_y, self.system_steps, eta, self.batch_size)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class AidCg(_Aid):
    """Lower steps from the last y; the system from 0 by conjugate gradients."""

    label = "AID-CG"
    reference = REFERENCE
    needs = Needs(loss=True)

    def system_samples(self, place: Place) -> Tensor | int:
        return self.system_steps * self.lower_samples(place)

    def solution(self, oracle: Oracle, x: Tensor, y: Tensor, f_y: Tensor) -> Tensor:
        zero = torch.zeros_like(y)
        return conjugate_gradients(
            oracle, x, y, f_y, zero, self.system_steps, self.batch_size, from_zero=True
        )


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class AidCgWs(NestedLoops[SystemState]):
    """The system warm-started, the lower level not.

    Cost per upper iteration: (t + k + 1 + J) * batch_size + n_upper samples."""

    label = "AID-CG-WS"
    reference = "Arbel and Mairal 2022, Section 5"
    warm_starts = ("z",)
    needs = Needs(loss=True)

    def system_samples(self, place: Place) -> Tensor | int:
        return (self.system_steps + 1) * self.lower_samples(place)

    def init(self, oracle: Oracle) -> SystemState:
        return start_with_system(oracle)

    def step(self, oracle: Oracle, state: SystemState) -> SystemState:
        x = state.x
        y = self.descend(oracle, x, oracle.y0)
        f_x, f_y = self.upper_gradient(oracle, x, y)
        z = conjugate_gradients(oracle, x, y, f_y, state.z, self.system_steps, self.batch_size)
        h = self.hypergradient(oracle, x, y, z, f_x)
        return SystemState(x=self.move(oracle, x, h), y=y, z=z)
