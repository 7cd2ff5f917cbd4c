"""S-TFBO: SOBA without step sizes: every step is divided by the norm of all directions so far.

For s = 0, 1, ...   (B a batch of lower examples, B' one of upper examples)
    D_y = d_y g(x, y; B)
    D_z = H(x, y; B) z + d_y f(x, y; B')
    D_x = d_x f(x, y; B') + C(x, y; B) z
    a^2 <- a^2 + |D_x|^2,   b^2 <- b^2 + |D_y|^2,   c^2 <- c^2 + |D_z|^2,   e = max(b, c)
    y <- y - eta_LL * D_y / b,   z <- z - eta_LL * D_z / e   (z = 0 at first)
    x <- P(x - alpha * D_x / (a * e))
all from the same point, a, b and c with this upper iteration's norms.

Symbols: alpha = upper_step_size, eta_LL = lower_step_size, both 1 in the paper, which is free of them; a, b
and c start at initial_norm; B has batch_size examples, B' upper_batch_size. 1e-8 is added to each divisor.
Cost per upper iteration: 3 * batch_size + upper_batch_size samples.

Reference: Y. Yang, H. Ban, M. Huang, S. Ma, K. Ji, "Tuning-Free Bilevel Optimization: New Algorithms and
Convergence Analysis", ICLR 2025, Algorithm 2.
Differs from the paper: alpha and eta_LL, as problems differ in scale by many orders of magnitude; it is for
full batches, its public code (OptMN-Lab/tfbo) runs on mini-batches. a, b and c start at 1 by default: that
code starts them at 5 in one experiment and does not say in the others. x may be projected; a z that is not
finite falls back to the last one. Where the lower level falls apart by example, the norms are those of all
examples of the mini-batch together.
"""

import dataclasses
from typing import final

import torch
from torch import Tensor

from harness.api import (
    Cost,
    MiniBatches,
    Oracle,
    Place,
    SystemState,
    joint_directions,
    real,
    start_with_system,
)

SMALL = 1e-8


@dataclasses.dataclass(frozen=True)
class TuningFreeState(SystemState):
    """a, b, c (N, 1): norms of all directions of x, y and z so far."""

    a: Tensor
    b: Tensor
    c: Tensor


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class STfbo(MiniBatches[TuningFreeState]):
    """SOBA whose steps are divided by the norms of all directions so far."""

    label = "S-TFBO"
    reference = "Yang, Ban, Huang, Ma and Ji 2025, Algorithm 2"
    warm_starts = ("y", "z")
    adaptive = True

    upper_step_size: Tensor = real("scale of x's steps", symbol="alpha", default=1.0)
    lower_step_size: Tensor = real("scale of y's and z's steps", symbol="eta_LL", default=1.0)
    initial_norm: Tensor = real("what the norms start at", symbol="a_0", default=1.0)

    def cost(self, place: Place) -> Cost:
        once = self.lower_samples(place, phase="epochs")
        return Cost(once, self.upper_samples(place), once, once)

    def init(self, oracle: Oracle) -> TuningFreeState:
        norms = dict.fromkeys("abc", self.initial_norm)
        return TuningFreeState(**vars(start_with_system(oracle)), **norms)

    def step(self, oracle: Oracle, state: TuningFreeState) -> TuningFreeState:
        x, y, z, eta = state.x, state.y, state.z, self.lower_step_size
        lower, upper = self.lower_batch(oracle, "epochs"), oracle.upper_batch("epochs", self.size_of("upper"))
        d_y, d_z, d_x = joint_directions(oracle, x, y, z, lower, upper)
        a, b, c = _grown(state.a, d_x), _grown(state.b, d_y), _grown(state.c, d_z)
        larger = torch.maximum(b, c)
        return TuningFreeState(
            x=oracle.projected_step(x, d_x, self.upper_step_size / (a * larger + SMALL)),
            y=y - eta / (b + SMALL) * d_y,
            z=oracle.or_start(z - eta / (larger + SMALL) * d_z, z),
            a=a,
            b=b,
            c=c,
        )


def _grown(norm: Tensor, direction: Tensor) -> Tensor:
    """The norm of all directions, with this one."""
    return torch.hypot(norm, torch.linalg.vector_norm(direction, dim=1, keepdim=True))
