"""STABLE and STABLE-VR: one step of each level, with the Hessian itself tracked and inverted.

STABLE, for s = 0, 1, ..., with the same samples at (x, y) and at the point (x', y') before
    M_xy <- P_C [C(x, y; B) + (1 - tau) * (M_xy - C(x', y'; B))]                        (at first C(x, y; B))
    M_yy <- P_mu[H(x, y; B) + (1 - tau) * (M_yy - H(x', y'; B))]                        (at first H(x, y; B))
    d = d_x f(x, y; B') - M_xy M_yy^-1 d_y f(x, y; B')
    x+ = P(x - gamma * d),   y+ = y - alpha * d_y g(x, y; B) - M_yy^-1 M_xy^T (x+ - x)
    x' <- x,  y' <- y,   x <- x+,  y <- y+

STABLE-VR (also RSVRB, here of one task), for s = 0, 1, ..., with k = s + 1
    e_O <- O(x, y) + (1 - tau_k) * (e_O - O(x', y'))   for O = d_y g, d_x f, d_y f, C, H  (at first O(x, y))
    e_H <- P_mu[e_H],   d = e_dxf - e_C e_H^-1 e_dyf
    x' <- x,  y' <- y,   x <- P(x - gamma_k * d),   y <- y - alpha_k * e_dyg         (both from the old x, y)

P_C[M] is the nearest matrix of Frobenius norm at most C, P_mu[M] that with eigenvalues of at least mu.

Symbols: tau = momentum, mu = least_curvature, C = cross_bound; alpha = lower_step_size and gamma =
upper_step_size, constant for STABLE unless given a decay, falling as k^(-1/3) for STABLE-VR, and tau_k =
momentum * k^(-2/3) there; B has batch_size examples, B' upper_batch_size.
Cost per upper iteration, d = dim_y: STABLE (1 + 4 * d) * batch_size + upper_batch_size samples, and
(1 + 2 * d) * batch_size + upper_batch_size at the first one; STABLE-VR 2 * (1 + 2 * d) * batch_size +
2 * upper_batch_size, and half of it. A dense Hessian or cross matrix is d products. Memory: some matrices
of dim_x * dim_y and of dim_y * dim_y numbers per trial; time: an eigendecomposition. So d is at most 500.

References: T. Chen, Y. Sun, Q. Xiao, W. Yin, "A Single-Timescale Method for Stochastic Bilevel
Optimization", AISTATS 2022, Algorithm 1 (STABLE); Z. Guo, T. Yang, "Randomized Stochastic Variance-Reduced
Methods for Stochastic Bilevel Optimization", arXiv:2105.02266, 2021 (STABLE-VR in the words of Grazzi, Pontil
and Salzo 2023).
Differs from the paper: Guo and Yang step a random block of several tasks, of which there is one here, and
let step sizes fall with an offset, here from the first one. mu and C are constants of a problem: by default
they are so far off that nothing is projected, as in two public codes of STABLE; of these one also leaves
out the correction of y by x+ - x, which is the paper's and is here. x may be projected. Who has a matrix
that is not finite has diverged.
"""

import dataclasses
from typing import TypeVar, final

import torch
from torch import Tensor

from harness.api import (
    Cost,
    Held,
    MiniBatch,
    Needs,
    Oracle,
    Place,
    SingleLoop,
    State,
    decayed,
    real,
    recursive_momentum,
)

THIRD = 1 / 3


@dataclasses.dataclass(frozen=True)
class StableState(State):
    """old_x (N, dim_x), old_y (N, dim_y): the upper iteration before. cross (N, dim_x, dim_y), hessian
    (N, dim_y, dim_y): M_xy and M_yy."""

    old_x: Tensor
    old_y: Tensor
    cross: Tensor
    hessian: Tensor


@dataclasses.dataclass(frozen=True)
class StableVrState(StableState):
    """u (N, dim_y), f_x (N, dim_x), f_y (N, dim_y): estimates of d_y g, d_x f and d_y f."""

    u: Tensor
    f_x: Tensor
    f_y: Tensor


S = TypeVar("S", bound=StableState)


def _definite(matrix: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest symmetric matrix with eigenvalues of at least `least` (N, 1), and its inverse."""
    finite = torch.isfinite(matrix).all(2).all(1).view(-1, 1, 1)
    values, vectors = torch.linalg.eigh(torch.where(finite, (matrix + matrix.mT) / 2, 0))
    values = torch.maximum(values, least).unsqueeze(1)
    nearest, inverse = (vectors * v @ vectors.mT for v in (values, 1 / values))
    return torch.where(finite, nearest, torch.nan), inverse


def _bounded(matrix: Tensor, bound: Tensor) -> Tensor:
    """The nearest matrix of Frobenius norm at most `bound` (N, 1)."""
    norm = torch.linalg.vector_norm(matrix, dim=(1, 2)).unsqueeze(1)
    return matrix * torch.where(norm > bound, bound / norm, 1).unsqueeze(2)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    product: Tensor = (matrix @ vector.unsqueeze(2)).squeeze(2)
    return product


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Dense(SingleLoop[S]):
    """Both have one lower batch per upper iteration."""

    needs = Needs(loss=True, one_lower_problem=True, dim_y=500)

    momentum: Tensor = real("(first) weight of the new matrices", symbol="tau", default=0.5, high=1.0)
    least_curvature: Tensor = real("least eigenvalue of the tracked Hessian", symbol="mu", default=1e-6)

    def held(self, place: Place) -> Held:
        return Held(x=6 + 4 * place.dim_y, y=8 + 6 * place.dim_y)

    def lower(self, oracle: Oracle) -> MiniBatch:
        return self.lower_batch(oracle, "epochs")

    def matrices(self, oracle: Oracle, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """C and H."""
        return oracle.cross_matrix(x, y, self.lower(oracle)), oracle.hessian(x, y, self.lower(oracle))


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Stable(_Dense[StableState]):
    """One step of each level; running means of the Hessian and the cross matrix, inverted; y
    corrected for the move of x."""

    label = "STABLE"
    reference = "Chen, Sun, Xiao and Yin 2022, Algorithm 1"
    warm_starts = ("y", "old_y")

    cross_bound: Tensor = real("largest Frobenius norm of the tracked cross matrix", symbol="C", default=1e6)

    def cost(self, place: Place) -> Cost:
        once = self.lower_samples(place, phase="epochs")
        products = (2 if place.iteration else 1) * place.dim_y * once
        return Cost(once, self.upper_samples(place), products, products)

    def init(self, oracle: Oracle) -> StableState:
        x, y = oracle.x0, oracle.y0
        none = torch.zeros_like(y).unsqueeze(1)
        return StableState(
            x=x, y=y, old_x=x, old_y=y, cross=x.unsqueeze(2) * none, hessian=y.unsqueeze(2) * none
        )

    def step(self, oracle: Oracle, state: StableState) -> StableState:
        x, y, place = state.x, state.y, oracle.place
        f_x, f_y = self.upper_gradient(oracle, x, y)
        g_y = oracle.lower_gradient(x, y, self.lower(oracle))
        cross, hessian = self.matrices(oracle, x, y)
        if place.iteration:
            old_cross, old_hessian = self.matrices(oracle, state.old_x, state.old_y)
            weight = self.momentum.unsqueeze(2)
            cross = recursive_momentum(state.cross, cross, old_cross, weight)
            hessian = recursive_momentum(state.hessian, hessian, old_hessian, weight)
        cross = _bounded(cross, self.cross_bound)
        hessian, inverse = _definite(hessian, self.least_curvature)
        d = f_x - _times(cross, _times(inverse, f_y))
        new_x = oracle.projected_step(x, d, self.upper_step(place))
        followed = _times(inverse, _times(cross.mT, new_x - x))
        new_y = y - self.lower_step(place) * g_y - followed
        return StableState(x=new_x, y=new_y, old_x=x, old_y=y, cross=cross, hessian=hessian)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class StableVr(_Dense[StableVrState]):
    """STORM's estimates of all derivatives, the Hessian among them, inverted."""

    label = "STABLE-VR"
    reference = "Guo and Yang 2021"
    warm_starts = ("y", "old_y", "u", "f_y")

    upper_decay: Tensor = real("exponent of the decay of x's step size", symbol="e_x", default=THIRD)
    lower_decay: Tensor = real("exponent of the decay of y's step size", symbol="e_y", default=THIRD)

    def cost(self, place: Place) -> Cost:
        points = 2 if place.iteration else 1
        once = points * self.lower_samples(place, phase="epochs")
        return Cost(once, points * self.upper_samples(place), place.dim_y * once, place.dim_y * once)

    def init(self, oracle: Oracle) -> StableVrState:
        x, y = oracle.x0, oracle.y0
        none = torch.zeros_like(y)
        return StableVrState(
            x=x,
            y=y,
            old_x=x,
            old_y=y,
            u=none,
            f_x=torch.zeros_like(x),
            f_y=none,
            cross=x.unsqueeze(2) * none.unsqueeze(1),
            hessian=y.unsqueeze(2) * none.unsqueeze(1),
        )

    def _all(self, oracle: Oracle, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """d_y g, d_x f, d_y f, C and H."""
        g_y = oracle.lower_gradient(x, y, self.lower(oracle))
        return g_y, *self.upper_gradient(oracle, x, y), *self.matrices(oracle, x, y)

    def step(self, oracle: Oracle, state: StableVrState) -> StableVrState:
        x, y, place = state.x, state.y, oracle.place
        now = self._all(oracle, x, y)
        if place.iteration:
            kept = (state.u, state.f_x, state.f_y, state.cross, state.hessian)
            old = self._all(oracle, state.old_x, state.old_y)
            weight = decayed(self.momentum, 2 * THIRD, place.iteration)
            now = tuple(
                recursive_momentum(e, new, before, weight.view(-1, *(1,) * (e.dim() - 1)))
                for e, new, before in zip(kept, now, old, strict=True)
            )
        u, f_x, f_y, cross, hessian = now
        hessian, inverse = _definite(hessian, self.least_curvature)
        d = f_x - _times(cross, _times(inverse, f_y))
        return StableVrState(
            x=oracle.projected_step(x, d, self.upper_step(place)),
            y=y - self.lower_step(place) * u,
            old_x=x,
            old_y=y,
            u=u,
            f_x=f_x,
            f_y=f_y,
            cross=cross,
            hessian=hessian,
        )
