"""AmIGO: lower level and system both warm-started, the system solved by gradient or conjugate-gradient steps.

For s = 0, 1, ...
    t times   y <- y - eta_LL * d_y g(x, y; batch)                      (from the last y)
    z from the last z, z = 0 at first:
    AmIGO:      k times   z <- z - eta_LS * (H(x, y; batch) z + d_y f(x, y))
    AmIGO-CG:   H = d2_yy g(x, y; batch), the same batch throughout the solve;  r = -d_y f(x, y) - H z,  p = r
                k times   a = |r|^2 / <p, H p>;  z <- z + a p;  r' = r - a H p
                          p <- r' + |r'|^2 / |r|^2 p;  r <- r'
    h = d_x f(x, y) + mean over J batches of C(x, y; batch) z
    x <- P(x - alpha * h)

Symbols: t = lower_steps, k = system_steps, J = cross_batches, alpha = upper_step_size, eta_LL =
lower_step_size, eta_LS = system_step_size; the paper writes alpha, beta, gamma for the step sizes of
y, z and x, and T, N for t, k. Conjugate gradients need H symmetric and positive definite, so AmIGO-CG is
not for a fixed-point lower level.
Cost per upper iteration: (t + k + J) * batch_size + n_upper samples (equation 8); AmIGO-CG
(t + k + 1 + J) * batch_size + n_upper: the one more is the first residual, computed at every upper
iteration, also from z = 0.

Reference: M. Arbel, J. Mairal, "Amortized Implicit Differentiation for Stochastic Bilevel Optimization",
ICLR 2022, Algorithms 1 to 3 and Section 5.
Differs from the paper: it refers to Shewchuk (1994) for conjugate gradients, without a listing or a word on
mini-batches; here all of a solve is on one batch, as the recursion needs one operator, and each upper
iteration draws another; x may be projected; the cross product is averaged over J batches, as in Grazzi,
Pontil and Salzo 2023, Section 7.3; a system solve that is not finite falls back to its start.
"""

import dataclasses
from abc import abstractmethod
from typing import final

from torch import Tensor

from harness.api import (
    Needs,
    NestedLoops,
    Oracle,
    Place,
    SgdSystem,
    SystemState,
    conjugate_gradients,
    start_with_system,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Amigo(NestedLoops[SystemState]):
    warm_starts = ("y", "z")

    def init(self, oracle: Oracle) -> SystemState:
        return start_with_system(oracle)

    @abstractmethod
    def solve(self, oracle: Oracle, x: Tensor, y: Tensor, f_y: Tensor, z: Tensor) -> Tensor:
        """The new z."""

    def step(self, oracle: Oracle, state: SystemState) -> SystemState:
        x = state.x
        y = self.descend(oracle, x, state.y)
        f_x, f_y = self.upper_gradient(oracle, x, y)
        z = self.solve(oracle, x, y, f_y, state.z)
        h = self.hypergradient(oracle, x, y, z, f_x)
        return SystemState(x=self.move(oracle, x, h), y=y, z=z)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Amigo(SgdSystem[SystemState], _Amigo):
    """Lower steps from the last y, gradient steps on the system from the last z."""

    label = "Amigo"
    reference = "Arbel and Mairal 2022, Algorithms 1 to 3"


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class AmigoCg(_Amigo):
    """Lower steps from the last y, conjugate gradients on the system from the last z."""

    label = "AmIGO-CG"
    reference = "Arbel and Mairal 2022, Algorithms 1 to 3 with conjugate gradients"
    needs = Needs(loss=True)

    def system_samples(self, place: Place) -> Tensor | int:
        return (self.system_steps + 1) * self.lower_samples(place)

    def solve(self, oracle: Oracle, x: Tensor, y: Tensor, f_y: Tensor, z: Tensor) -> Tensor:
        return conjugate_gradients(oracle, x, y, f_y, z, self.system_steps, self.batch_size)
