"""SOBA and MA-SOBA: a single loop in which y, z and x step at the same time, all from the same point.

For s = 0, 1, ...   (B a batch of lower examples, B' one of upper examples)
    D_y = d_y g(x, y; B)
    D_z = H(x, y; B) z + d_y f(x, y; B')
    D_x = d_x f(x, y; B') + C(x, y; B) z
    SOBA:      q = D_x
    MA-SOBA:   q <- (1 - m) * q + m * D_x                                (q = D_x at s = 0)
    y <- y - eta_LL * D_y,   z <- z - eta_LL * D_z   (z = 0 at first),   x <- P(x - alpha * q)

Symbols: eta_LL = lower_step_size, the step size of both y and z; alpha = upper_step_size; m = momentum; B has
batch_size examples, B' upper_batch_size.
Cost per upper iteration: 3 * batch_size + upper_batch_size samples.

References: M. Dagréou, P. Ablin, S. Vaiter, T. Moreau, "A Framework for Bilevel Optimization that Enables
Stochastic and Global Variance Reduction Algorithms", NeurIPS 2022, Section 2 (SOBA); X. Chen, T. Xiao,
K. Balasubramanian, "Optimal Algorithms for Stochastic Bilevel Optimization under Relaxed Smoothness
Conditions", JMLR 25, 2024 (MA-SOBA). Dagréou et al. write z, v and x for y, z and x, and draw single
examples.
Differs from the paper: step sizes are constant (one of SOBA's two choices, for a known horizon; the other
falls with s); q starts from the first D_x, not from 0; m is free, with the 0.1 of a public code
(SUSTech-Optimization/SPABA) as its default; x may be projected; a z that is not finite falls back to the
last one.
"""

import dataclasses
from typing import Any, final

from torch import Tensor

from harness.api import (
    Cost,
    Held,
    Oracle,
    Place,
    SingleLoop,
    SystemState,
    joint_directions,
    real,
    start_with_system,
)


def _cost(method: SingleLoop[Any], place: Place) -> Cost:
    once = method.lower_samples(place, phase="epochs")
    return Cost(once, method.upper_samples(place), once, once)


def _step(method: SingleLoop[Any], oracle: Oracle, state: SystemState) -> tuple[Tensor, Tensor, Tensor]:
    """The next y and z, and D_x."""
    lower, upper = method.lower_batch(oracle, "epochs"), oracle.upper_batch("epochs", method.size_of("upper"))
    d_y, d_z, d_x = joint_directions(oracle, state.x, state.y, state.z, lower, upper)
    eta = method.lower_step(oracle.place)
    return state.y - eta * d_y, oracle.or_start(state.z - eta * d_z, state.z), d_x


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Soba(SingleLoop[SystemState]):
    """One step of y, z and x at the same time, all from the same point."""

    label = "SOBA"
    reference = "Dagréou, Ablin, Vaiter and Moreau 2022"
    warm_starts = ("y", "z")

    def cost(self, place: Place) -> Cost:
        return _cost(self, place)

    def init(self, oracle: Oracle) -> SystemState:
        return start_with_system(oracle)

    def step(self, oracle: Oracle, state: SystemState) -> SystemState:
        y, z, d_x = _step(self, oracle, state)
        return SystemState(x=oracle.projected_step(state.x, d_x, self.upper_step(oracle.place)), y=y, z=z)


@dataclasses.dataclass(frozen=True)
class AveragedState(SystemState):
    """q (N, dim_x): the moving average of D_x."""

    q: Tensor


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class MaSoba(SingleLoop[AveragedState]):
    """SOBA whose x moves along a mean direction."""

    label = "MA-SOBA"
    reference = "Chen, Xiao and Balasubramanian 2024"
    warm_starts = ("y", "z")

    momentum: Tensor = real("weight of the new direction of x", symbol="m", default=0.1, high=1.0)

    def cost(self, place: Place) -> Cost:
        return _cost(self, place)

    def held(self, place: Place) -> Held:
        return Held(x=6, y=6)

    def init(self, oracle: Oracle) -> AveragedState:
        return AveragedState(**vars(start_with_system(oracle)), q=oracle.x0)

    def step(self, oracle: Oracle, state: AveragedState) -> AveragedState:
        place = oracle.place
        y, z, d_x = _step(self, oracle, state)
        q = state.q + self.momentum * (d_x - state.q) if place.iteration else d_x
        return AveragedState(x=oracle.projected_step(state.x, q, self.upper_step(place)), y=y, z=z, q=q)
