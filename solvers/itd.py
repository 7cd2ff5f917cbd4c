"""ITD and Reverse: the gradient of f through the lower steps, in reverse mode; Reverse may stop early.

For s = 0, 1, ...
    y_0 = the last y;  i = 0, ..., t - 1:      y_{i+1} = y_i - eta_LL * d_y g(x, y_i; batch_i)
    a = d_y f(x, y_t), h = d_x f(x, y_t);  i = t - 1, ..., t - k, on the batch that the step forward had:
        h <- h - eta_LL * C(x, y_i; batch_i) a
        a <- a - eta_LL * H(x, y_i; batch_i) a
    x <- P(x - alpha * h),  y <- y_t
ITD goes back through all steps, k = t: h is the gradient of x -> f(x, y_t(x)) with y_0 held fixed. Reverse
goes back through the last k, or all where there are fewer or k is 0. No linear system is solved, so none
can fail.

Symbols: t = lower_steps (T in the papers), k = system_steps (N), alpha = upper_step_size, eta_LL =
lower_step_size.
Cost per upper iteration: (t + 2 * min(t, k)) * batch_size + n_upper samples: a gradient forward, and back a
Hessian-vector and a cross product, which is one backward pass through a step. Memory: min(t, k) iterates
y_i, of dim_y numbers per trial.

References: L. Franceschi, M. Donini, P. Frasconi, M. Pontil, "Forward and Reverse Gradient-Based
Hyperparameter Optimization", ICML 2017, Algorithm 1; R. Grazzi, L. Franceschi, M. Pontil, S. Salzo, "On the
Iteration Complexity of Hypergradient Computation", ICML 2020, Section 2; A. Shaban, C.-A. Cheng, N. Hatch,
B. Boots, "Truncated Back-propagation for Bilevel Optimization", AISTATS 2019 (k < t); warm-started as by K.
Ji, J. Yang, Y. Liang, ICML 2021, and Arbel and Mairal, ICLR 2022.
Differs from the paper: Franceschi et al. and Grazzi et al. restart y; theirs are full batches, which here
are batch_size >= n_lower; the backward sweep is written out, not left to automatic differentiation. The
published code of Reverse (prolearner/hypertorch) evaluates the gradient of each step again on the way
back, only to differentiate it; a Hessian-vector product here has that within it, so it is not charged, and
Reverse with k = 0 is ITD. The t - k steps that nobody goes back through have a stream of batches of
their own.
"""

import dataclasses
from abc import abstractmethod
from typing import final

import torch
from torch import Tensor

from harness.api import Cost, Held, MiniBatch, MiniBatches, Oracle, Place, State, count, start


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Unrolled(MiniBatches[State]):
    """Lower steps, the last of them kept and gone back through."""

    warm_starts = ("y",)

    lower_steps: Tensor = count("lower steps per upper iteration", symbol="t")

    @abstractmethod
    def kept(self) -> Tensor:
        """How many steps are gone back through, shape (N,)."""

    def cost(self, place: Place) -> Cost:
        kept = self.kept()
        back = self.lower_samples(place, kept)
        forward = self.lower_samples(place, self.lower_steps - kept) + back
        return Cost(forward, self.upper_samples(place), back, back)

    def held(self, place: Place) -> Held:
        return Held(x=4, y=self.kept() + 6)

    def init(self, oracle: Oracle) -> State:
        return start(oracle)

    def step(self, oracle: Oracle, state: State) -> State:
        x, eta, size, kept = state.x, self.lower_step_size, self.batch_size, self.kept()
        trail = list[tuple[MiniBatch, Tensor, Tensor, Tensor]]()

        def descend(batch: MiniBatch, y: Tensor, x: Tensor, eta: Tensor) -> Tensor:
            return y - eta * oracle.lower_gradient(x, y, batch)

        def keep(batch: MiniBatch, y: Tensor, x: Tensor, eta: Tensor) -> Tensor:
            trail.append((batch, y, x, eta))
            return descend(batch, y, x, eta)

        y = oracle.loop("forgotten", self.lower_steps - kept, descend, state.y, x, eta, batch_size=size)
        y = oracle.loop("lower", kept, keep, y, x, eta, batch_size=size)
        f_x, f_y = self.upper_gradient(oracle, x, y)
        adjoint, through = f_y.clone(), torch.zeros_like(x)
        for batch, y_i, x_i, eta_i in reversed(trail):
            a = adjoint[batch.trials]
            through[batch.trials] -= eta_i * oracle.cross(x_i, y_i, a, batch)
            adjoint[batch.trials] = a - eta_i * oracle.hessian_vector(x_i, y_i, a, batch)
        return State(x=self.move(oracle, x, f_x + through), y=y)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Itd(_Unrolled):
    """Lower steps from the last y, and the gradient of f back through all of them."""

    label = "ITD"
    reference = "Franceschi et al. 2017, Algorithm 1; Grazzi et al. 2020, Section 2"

    def kept(self) -> Tensor:
        return self.lower_steps


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Reverse(_Unrolled):
    """Lower steps from the last y, and the gradient of f back through the last of them."""

    label = "Reverse"
    reference = "Franceschi et al. 2017, Algorithm 1; Shaban, Cheng, Hatch and Boots 2019"

    system_steps: Tensor = count(
        "lower steps gone back through, at most; 0: all", symbol="k", default=0, low=0
    )

    def kept(self) -> Tensor:
        fewer = torch.minimum(self.system_steps, self.lower_steps)
        return torch.where(self.system_steps > 0, fewer, self.lower_steps)
