"""SRBA, SPABA and SRMBA: SOBA with recursive estimates of its three directions.

For s = 0, 1, ...   (B a batch of lower examples, B' one of upper examples)
    D(x, y, z) = (d_y g(x, y; B),  H(x, y; B) z + d_y f(x, y; B'),  d_x f(x, y; B') + C(x, y; B) z)
    d <- D(x, y, z) + (1 - w) * (d - D(x', y', z'))        (both on the same batches)
    or, at a full iteration,   d <- D(x, y, z) on all examples
    x' <- x,  y' <- y,  z' <- z
    y <- y - eta_LL * d_y,   z <- z - eta_LL * d_z   (z = 0 at first),   x <- P(x - alpha * d_x)
where x', y', z' are those of the upper iteration before.

    SRBA    w = 0; s is full where period divides s
    SPABA   w = 0; s is full where s = 0 or v < probability, v one uniform number for all trials of a seed;
            every entry of z is clipped to [-clip, clip]
    SRMBA   no s is full, d = D at s = 0; w = min(1, c_y k^(-2/3)), min(1, c_z k^(-2/3)), min(1, c_x k^(-2/3))
            for y, z, x, with k = s + 1

Symbols: eta_LL = lower_step_size, the step size of both y and z; alpha = upper_step_size; for SRMBA both
fall as k^(-1/3). c_y, c_z, c_x = lower_momentum, system_momentum, upper_momentum; B has batch_size examples,
B' upper_batch_size.
Cost per upper iteration: 2 * (3 * batch_size + upper_batch_size) samples, half of it at SRMBA's first one; a
full one 3 * n_lower + n_upper. Memory: two vectors of x and four of y more than SOBA.

References: M. Dagréou, T. Moreau, S. Vaiter, P. Ablin, "A Lower Bound and a Near-Optimal Algorithm for
Bilevel Empirical Risk Minimization", AISTATS 2024 (SRBA); T. Chu, D. Xu, W. Yao, J. Zhang, "SPABA: A
Single-Loop and Probabilistic Stochastic Bilevel Algorithm Achieving Optimal Sample Complexity", ICML 2024
(SPABA and SRMBA).
Differs from the paper: it draws single examples. In its authors' public bilevel benchmark, SRBA's period is
half an epoch of both levels, (n_lower + n_upper) / (2 * batch_size) upper iterations, or 16, 128 or 1024
times as long. Of SPABA two public codes disagree (a full batch at probability 0.5 in one, 0.999 in the other;
in neither does a full batch enter d; the second clips z to [-1, 1]): here the first upper iteration is full,
the default probability is 0.1, and clip has no default, as z may be of any size; the paper projects z on
a ball. SRMBA's c are those of its public code (SUSTech-Optimization/SPABA), which starts
d and x', y', z' at 0 and does not cap w, so that 1 - w = -14 at first. x may be projected; a z that is not
finite falls back to the last one.
"""

import dataclasses
from abc import abstractmethod
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
    SingleLoop,
    SystemState,
    count,
    joint_directions,
    real,
    recursive_momentum,
    start_with_system,
)

WARM = ("y", "z", "old_y", "old_z", "d_y", "d_z")
ONE = Needs(one_lower_problem=True)
HELD = Held(x=8, y=14)
THIRD = 1 / 3


@dataclasses.dataclass(frozen=True)
class RecursiveState(SystemState):
    """old_x (N, dim_x), old_y, old_z (N, dim_y): the upper iteration before. d_y, d_z (N, dim_y), d_x
    (N, dim_x): the directions."""

    old_x: Tensor
    old_y: Tensor
    old_z: Tensor
    d_y: Tensor
    d_z: Tensor
    d_x: Tensor


def _start(oracle: Oracle) -> RecursiveState:
    """At s = 0 nothing of it is read but x, y and z."""
    begin = start_with_system(oracle)
    x, y, z = begin.x, begin.y, begin.z
    return RecursiveState(x=x, y=y, z=z, old_x=x, old_y=y, old_z=z, d_y=z, d_z=z, d_x=torch.zeros_like(x))


def _moved(
    oracle: Oracle, state: RecursiveState, d: tuple[Tensor, ...], upper_step: Tensor, lower_step: Tensor
) -> RecursiveState:
    d_y, d_z, d_x = d
    return RecursiveState(
        x=oracle.projected_step(state.x, d_x, upper_step),
        y=state.y - lower_step * d_y,
        z=oracle.or_start(state.z - lower_step * d_z, state.z),
        old_x=state.x,
        old_y=state.y,
        old_z=state.z,
        d_y=d_y,
        d_z=d_z,
        d_x=d_x,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Refreshed(MiniBatches[RecursiveState]):
    """Full batches now and then, w = 0 in between."""

    @abstractmethod
    def full(self, place: Place) -> Tensor:
        """Whether an upper iteration is full, shape (N,), bool; the first one always."""

    @abstractmethod
    def bounded(self, z: Tensor) -> Tensor:
        """z, as near as it must stay to 0."""

    def cost(self, place: Place) -> Cost:
        full, twice = self.full(place), 2 * self.lower_samples(place, phase="epochs")
        lower = torch.where(full, place.lower_samples(1, None), twice)
        upper = torch.where(full, place.upper_samples(None), 2 * self.upper_samples(place))
        return Cost(lower, upper, lower, lower)

    def held(self, place: Place) -> Held:
        return HELD

    def init(self, oracle: Oracle) -> RecursiveState:
        return _start(oracle)

    def step(self, oracle: Oracle, state: RecursiveState) -> RecursiveState:
        def anew(
            batch: MiniBatch, d: tuple[Tensor, ...], x: Tensor, y: Tensor, z: Tensor
        ) -> tuple[Tensor, ...]:
            return joint_directions(oracle, x, y, z, batch, oracle.upper_batch("full", within=batch))

        def onwards(
            batch: MiniBatch, d: tuple[Tensor, ...], x: Tensor, y: Tensor, z: Tensor, *old: Tensor
        ) -> tuple[Tensor, ...]:
            upper = oracle.upper_batch("epochs", self.size_of("upper"), within=batch)
            new = joint_directions(oracle, x, y, z, batch, upper)
            x, y, z = old
            before = joint_directions(oracle, x, y, z, batch, upper)
            return tuple(recursive_momentum(*three, weight=0) for three in zip(d, new, before, strict=True))

        full, here = self.full(oracle.place), (state.x, state.y, state.z)
        before = (state.old_x, state.old_y, state.old_z)
        d: tuple[Tensor, ...] = (state.d_y, state.d_z, state.d_x)
        d = oracle.when(full, "full", anew, d, *here)
        d = oracle.when(~full, "epochs", onwards, d, *here, *before, batch_size=self.batch_size)
        moved = _moved(oracle, state, d, self.upper_step_size, self.lower_step_size)
        return dataclasses.replace(moved, z=self.bounded(moved.z))


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Srba(_Refreshed):
    """SOBA with recursive estimates, and full batches in every period."""

    label = "SRBA"
    reference = "Dagréou, Moreau, Vaiter and Ablin 2024"
    warm_starts = WARM
    needs = ONE

    period: Tensor = count("upper iterations from full batch to full batch", symbol="q")

    def full(self, place: Place) -> Tensor:
        return place.iteration % self.period == 0

    def bounded(self, z: Tensor) -> Tensor:
        return z


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Spaba(_Refreshed):
    """SOBA with recursive estimates, and full batches at random."""

    label = "SPABA"
    reference = "Chu, Xu, Yao and Zhang 2024"
    warm_starts = WARM
    needs = ONE

    probability: Tensor = real("probability of a full batch", symbol="p", default=0.1, high=1.0)
    clip: Tensor = real("bound on every entry of z", symbol="r")

    def full(self, place: Place) -> Tensor:
        return (self.probability.cpu().double().squeeze(1) > place.uniform("full")) | (place.iteration == 0)

    def bounded(self, z: Tensor) -> Tensor:
        return torch.clamp(z, -self.clip, self.clip)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Srmba(SingleLoop[RecursiveState]):
    """SOBA with recursive momenta whose weights fall."""

    label = "SRMBA"
    reference = "Chu, Xu, Yao and Zhang 2024"
    warm_starts = WARM
    needs = ONE

    upper_momentum: Tensor = real("first weight of x's new direction", symbol="c_x", default=1.0)
    lower_momentum: Tensor = real("first weight of y's; above 1 it is 1", symbol="c_y", default=15.0)
    system_momentum: Tensor = real("first weight of z's; above 1 it is 1", symbol="c_z", default=3.0)
    upper_decay: Tensor = real("exponent of the decay of x's step size", symbol="e_x", default=THIRD)
    lower_decay: Tensor = real("exponent of the decay of y's step size", symbol="e_y", default=THIRD)

    def cost(self, place: Place) -> Cost:
        points = 2 if place.iteration else 1
        once = points * self.lower_samples(place, phase="epochs")
        return Cost(once, points * self.upper_samples(place), once, once)

    def held(self, place: Place) -> Held:
        return HELD

    def init(self, oracle: Oracle) -> RecursiveState:
        return _start(oracle)

    def step(self, oracle: Oracle, state: RecursiveState) -> RecursiveState:
        place = oracle.place
        batches = (
            self.lower_batch(oracle, "epochs"),
            oracle.upper_batch("epochs", self.size_of("upper")),
        )
        d: tuple[Tensor, ...] = joint_directions(oracle, state.x, state.y, state.z, *batches)
        if place.iteration:
            old = joint_directions(oracle, state.old_x, state.old_y, state.old_z, *batches)
            fallen = (place.iteration + 1) ** (-2 / 3)
            first = (self.lower_momentum, self.system_momentum, self.upper_momentum)
            last = (state.d_y, state.d_z, state.d_x)
            d = tuple(
                recursive_momentum(before, new, there, (c * fallen).clamp(max=1))
                for before, new, there, c in zip(last, d, old, first, strict=True)
            )
        return _moved(oracle, state, d, self.upper_step(place), self.lower_step(place))
