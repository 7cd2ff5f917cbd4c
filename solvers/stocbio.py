"""StochBiO: the lower level warm-started, the system not, as it was run and as its authors define it.

For s = 0, 1, ...
    t times   y <- y - eta_LL * d_y g(x, y; batch)                      (from the last y)
    Grazzi et al.:  z <- -d_y f(x, y);  k times   z <- z - eta_LS * (H(x, y; batch) z + d_y f(x, y))
    Ji et al.:  p = -eta_LS * d_y f(x, y),  z <- p
               k times   p <- p - eta_LS * H(x, y; batch) p,  z <- z + p
    h = d_x f(x, y) + mean over J batches of C(x, y; batch) z
    x <- P(x - alpha * h)
On full batches the series is z = -eta_LS * sum_{q <= k} (I - eta_LS * H)^q d_y f(x, y).

Symbols: t = lower_steps, k = system_steps, J = cross_batches, alpha = upper_step_size, eta_LL =
lower_step_size, eta_LS = system_step_size; Ji et al. write eta for eta_LS and Q for k, and have J = 1.
Cost per upper iteration: (t + k + J) * batch_size + n_upper samples.

Reference: K. Ji, J. Yang, Y. Liang, "Bilevel Optimization: Convergence Analysis and Enhanced Design", ICML
2021, Algorithms 2 and 3 (Neumann); Algorithm 2 as run by Grazzi, Pontil and Salzo, JMLR 24(167), 2023,
Section 7.3 (the other, with J = k).
Differs from the paper: Grazzi et al. run stochastic gradient steps on the system from v_0 = d_y f under this
name; it is not Ji et al.'s Algorithm 2, and the labels tell the two apart. For the series Ji et al.'s theory
draws B k (1 - eta_LS mu)^i examples for its product number i = 0, ..., k - 1, fewer and fewer, with mu the
least curvature of g; here, as in their experiments, every batch has batch_size. Their published code scales
one term of the sum by eta_LS; here it is all, as in the paper. A solve that is not finite falls back to its
start, the series to its first term.
"""

import dataclasses
from abc import abstractmethod
from typing import final

from torch import Tensor

from harness.api import Oracle, SgdSystem, State, neumann_series, start


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Stocbio(SgdSystem[State]):
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


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Stocbio(_Stocbio):
    """Lower steps from the last y, gradient steps on the system from -d_y f."""

    label = "StochBiO (Grazzi et al.)"
    reference = "Ji, Yang and Liang 2021, Algorithm 2, as run by Grazzi, Pontil and Salzo 2023"

    def solution(self, oracle: Oracle, x: Tensor, y: Tensor, f_y: Tensor) -> Tensor:
        return self.solve(oracle, x, y, f_y, -f_y)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class StocbioNeumann(_Stocbio):
    """Lower steps from the last y; a Neumann series whose factors are on fresh batches."""

    label = "StochBiO (Ji et al.)"
    reference = "Ji, Yang and Liang 2021, Algorithms 2 and 3"

    def solution(self, oracle: Oracle, x: Tensor, y: Tensor, f_y: Tensor) -> Tensor:
        eta = self.system_step_size
        return neumann_series(oracle, x, y, f_y, self.system_steps, eta, self.batch_size)
