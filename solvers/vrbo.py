"""VRBO: directions from large batches, kept up to date along an inner loop by differences on small ones.

For s = 0, 1, ...
    if q divides s:    u <- d_y g(x, y; S),   d <- h(x, y; S)                     (S: large batches)
    x' <- x,   x <- P(x - gamma * d),   y' <- y
    for i = 0, ..., t - 1, on fresh small batches, the same at both points
        u <- u + d_y g(x, y) - d_y g(x', y'),   d <- d + h(x, y) - h(x', y')
        x' <- x,   y' <- y,   y <- y - alpha * u
with h(x, y) = d_x f(x, y) + C(x, y) z and a Neumann series z = -eta * sum_{q = 0..N} prod_{i = 1..q}
(I - eta * H(x, y)) d_y f(x, y), every factor, C and d_y g on batches of their own.

Symbols: q = period, t = lower_steps (the paper's m + 1), N = system_steps, alpha = lower_step_size, gamma =
upper_step_size, eta = system_step_size; small batches have batch_size and upper_batch_size examples, large
ones large_batch_size and large_upper_batch_size.
Cost per upper iteration: 2 * t * ((2 + N) * batch_size + upper_batch_size) samples, and where q divides s
(2 + N) * large_batch_size + large_upper_batch_size more.

Reference: J. Yang, K. Ji, Y. Liang, "Provably Faster Algorithms for Bilevel Optimization", NeurIPS 2021,
Algorithm 2.
Differs from the paper: x may be projected; a series that is not finite falls back to its first term. Sources
disagree on the first difference of the inner loop: it is that of x alone, (x, y) against (x', y), as in
the paper and its authors' code; the public bilevel benchmark takes the new x at both points, so that the
step of x enters neither u nor d before the next large batch. Large batches are all examples unless given, as
there. Where the lower level falls apart by example the differences would be between other examples.
"""

import dataclasses
from typing import final

import torch
from torch import Tensor

from harness.api import (
    Cost,
    MiniBatch,
    MiniBatches,
    Needs,
    Oracle,
    Place,
    State,
    count,
    neumann_series,
    real,
    recursive_momentum,
    shared,
)


@dataclasses.dataclass(frozen=True)
class VrboState(State):
    """u (N, dim_y), d (N, dim_x): directions of y and x."""

    u: Tensor
    d: Tensor


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Vrbo(MiniBatches[VrboState]):
    """Large batches now and then, and differences on small ones along an inner loop of y."""

    label = "VRBO"
    reference = "Yang, Ji and Liang 2021, Algorithm 2"
    warm_starts = ("y", "u")
    needs = Needs(one_lower_problem=True)

    lower_steps: Tensor = count("lower steps per upper iteration", symbol="t", default=10)
    system_steps: Tensor = count("steps of the Neumann series", symbol="N")
    system_step_size: Tensor = real("step size of the Neumann series", symbol="eta")
    period: Tensor = count("upper iterations from one large batch to the next", symbol="q", default=10)
    large_batch_size: int = shared("examples of a large lower batch; 0: all", symbol="S", default=0, low=0)
    large_upper_batch_size: int = shared(
        "examples of a large upper batch; 0: all", symbol="S'", default=0, low=0
    )

    def cost(self, place: Place) -> Cost:
        at_large = (place.iteration % self.period == 0).long()
        large = at_large * place.lower_samples(1, self.large_batch_size or None)
        large_system = at_large * place.lower_samples(self.system_steps, self.large_batch_size or None)
        large_upper = at_large * place.upper_samples(self.large_upper_batch_size or None, "large")
        small = 2 * self.lower_samples(place, self.lower_steps)
        small_system = 2 * self.lower_steps * self.lower_samples(place, self.system_steps)
        small_upper = 2 * place.upper_samples(self.size_of("upper"), "lower", self.lower_steps)
        return Cost(large + small, large_upper + small_upper, large_system + small_system, large + small)

    def init(self, oracle: Oracle) -> VrboState:
        x, y = oracle.x0, oracle.y0
        return VrboState(x=x, y=y, u=torch.zeros_like(y), d=torch.zeros_like(x))

    def _estimates(
        self, oracle: Oracle, x: Tensor, y: Tensor, lower: MiniBatch, upper_size: int | None
    ) -> tuple[Tensor, Tensor]:
        """(d_y g, h) at the points of a loop's body, all batches named after the loop's."""
        mine, phase, size = self.at(lower.trials), lower.phase, lower.size
        f_x, f_y = oracle.upper_gradient(x, y, oracle.upper_batch(phase, upper_size, within=lower))
        counts, step_size = mine.system_steps, mine.system_step_size
        z = neumann_series(oracle, x, y, f_y, counts, step_size, size, lower, f"{phase} system")
        h = f_x + oracle.cross(x, y, z, oracle.lower_batch(f"{phase} cross", size, within=lower))
        return oracle.lower_gradient(x, y, lower), h

    def step(self, oracle: Oracle, state: VrboState) -> VrboState:
        def fresh(batch: MiniBatch, _: tuple[Tensor, ...], x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
            return self._estimates(oracle, x, y, batch, self.large_upper_batch_size or None)

        def follow(
            batch: MiniBatch, value: tuple[Tensor, ...], x: Tensor, step_size: Tensor
        ) -> tuple[Tensor, ...]:
            y, u, d, old_x, old_y = value
            new_u, new_d = self._estimates(oracle, x, y, batch, self.size_of("upper"))
            old_u, old_d = self._estimates(oracle, old_x, old_y, batch, self.size_of("upper"))
            u, d = recursive_momentum(u, new_u, old_u, 0), recursive_momentum(d, new_d, old_d, 0)
            return y - step_size * u, u, d, x, y

        x, y, size = state.x, state.y, self.large_batch_size or None
        due, old = oracle.place.iteration % self.period == 0, (state.u, state.d)
        u, d = oracle.when(due, "large", fresh, old, x, y, batch_size=size)
        new_x = self.move(oracle, x, d)
        value, operands = (y, u, d, x, y), (new_x, self.lower_step_size)
        new_y, u, d, _, _ = oracle.loop(
            "lower", self.lower_steps, follow, value, *operands, batch_size=self.batch_size
        )
        return VrboState(x=new_x, y=new_y, u=u, d=d)
