"""BO-REP: MA-SOBA whose y moves in some upper iterations only and whose x steps by a fixed length.

For s = 0, 1, ...   (B_H, B_C batches of lower examples, B' one of upper examples)
    D_z = H(x, y; B_H) z + d_y f(x, y; B')
    D_x = d_x f(x, y; B') + C(x, y; B_C) z
    q <- (1 - m) * q + m * D_x                                           (q = D_x at s = 0)
    where period divides s:   t times   y <- y - eta_LL * d_y g(x, y; B_i)          (at the old x)
    z <- z - eta_LS * D_z   (z = 0 at first),   x <- P(x - alpha * q / (|q| + 1e-10))
D_z and D_x are at the y, z and x that the upper iteration begins with.

Symbols: t = lower_steps, m = momentum, alpha = upper_step_size, eta_LL = lower_step_size, eta_LS =
system_step_size; B_i, B_H and B_C are independent batches of batch_size examples, B' has upper_batch_size.
Cost per upper iteration: 2 * batch_size + upper_batch_size samples, and t * batch_size more where y moves.

Reference: J. Hao, X. Gong, M. Liu, "Bilevel Optimization under Unbounded Smoothness: A New Algorithm and
Convergence Analysis", ICLR 2024, Algorithm 1; defaults of the authors' later comparison (jhao6/d7hsdx):
period 2, 1 - m = 0.9.
Differs from the paper: the y at which the loop begins is not refined by a first run of lower steps, as in
that code; y is not projected on a ball; q starts from the first D_x, not from 0; that code takes d_y f, d_x f
and C at the new y but H at the old one, and does not clear y's gradient between its lower steps, here all
are at one point; x may be projected; a z that is not finite falls back to the last one.
"""

import dataclasses
from typing import final

import torch
from torch import Tensor

from harness.api import (
    Cost,
    Held,
    MiniBatches,
    Oracle,
    Place,
    SystemState,
    count,
    lower_sgd,
    real,
    start_with_system,
)

SMALL = 1e-10


@dataclasses.dataclass(frozen=True)
class AveragedState(SystemState):
    """q (N, dim_x): the moving average of D_x."""

    q: Tensor


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class BoRep(MiniBatches[AveragedState]):
    """SOBA with a mean direction of x, whose steps have a fixed length; y moves now and then."""

    label = "BO-REP"
    reference = "Hao, Gong and Liu 2024, Algorithm 1"
    warm_starts = ("y", "z")
    adaptive = True
    floor = "x steps by a fixed length, so it stays that far from the solution"

    lower_steps: Tensor = count("lower steps where y moves", symbol="t")
    period: Tensor = count("upper iterations from one move of y to the next", symbol="I", default=2)
    system_step_size: Tensor = real("step size of z", symbol="eta_LS")
    momentum: Tensor = real("weight of the new direction of x", symbol="m", default=0.1, high=1.0)

    def steps(self, place: Place) -> Tensor:
        """Lower steps of an upper iteration, shape (N,)."""
        return torch.where(place.iteration % self.period == 0, self.lower_steps, 0)

    def cost(self, place: Place) -> Cost:
        once = self.lower_samples(place)
        return Cost(self.lower_samples(place, self.steps(place)), self.upper_samples(place), once, once)

    def held(self, place: Place) -> Held:
        return Held(x=6, y=6)

    def init(self, oracle: Oracle) -> AveragedState:
        return AveragedState(**vars(start_with_system(oracle)), q=torch.zeros_like(oracle.x0))

    def step(self, oracle: Oracle, state: AveragedState) -> AveragedState:
        x, y, z, place = state.x, state.y, state.z, oracle.place
        f_x, f_y = self.upper_gradient(oracle, x, y)
        d_z = oracle.hessian_vector(x, y, z, self.lower_batch(oracle, "system")) + f_y
        d_x = f_x + oracle.cross(x, y, z, self.lower_batch(oracle, "cross"))
        q = state.q + self.momentum * (d_x - state.q) if place.iteration else d_x
        length = torch.linalg.vector_norm(q, dim=1, keepdim=True) + SMALL
        return AveragedState(
            x=oracle.projected_step(x, q, self.upper_step_size / length),
            y=lower_sgd(oracle, x, y, self.steps(place), self.lower_step_size, self.batch_size),
            z=oracle.or_start(z - self.system_step_size * d_z, z),
            q=q,
        )
