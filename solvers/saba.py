"""SABA: SOBA with SAGA's variance reduction, by a memory of every mini-batch's last derivatives.

For s = 0, 1, ...   (B a batch of a fixed partition of the lower examples, B' one of the upper examples)
    d_y g(x, y; B),  H(x, y; B) z,  C(x, y; B) z,  d_y f(x, y; B'),  d_x f(x, y; B')
    for each of these five:   d = new - memory[batch] + average
                              average <- average + share * (new - memory[batch]),   memory[batch] <- new
    y <- y - eta_LL * d[d_y g],   z <- z - eta_LL * (d[H z] + d[d_y f])   (z = 0 at first)
    x <- P(x - alpha * (d[d_x f] + d[C z]))
where share is the number of examples of the batch over that of the level; memories and averages start at 0.

Symbols: eta_LL = lower_step_size, the step size of both y and z; alpha = upper_step_size; B has batch_size
examples, B' upper_batch_size. The batches of a partition come in a new order in every epoch.
Cost per upper iteration: 3 * batch_size + upper_batch_size samples. Memory per trial: n_lower / batch_size
vectors of x and twice as many of y, n_upper / upper_batch_size of each.

Reference: M. Dagréou, P. Ablin, S. Vaiter, T. Moreau, "A Framework for Bilevel Optimization that Enables
Stochastic and Global Variance Reduction Algorithms", NeurIPS 2022, Section 2 and Appendix A.
Differs from the paper: it keeps a memory for every example, here for every batch, and memories start at 0:
both as in its authors' public bilevel benchmark, whose batches go through the data epoch by epoch as well;
x may be projected; a z that is not finite falls back to the last one. Undefined where the lower level falls
apart by example, as no batch comes again there.
"""

import dataclasses
from typing import final

import torch
from torch import Tensor

from harness.api import Cost, Held, MiniBatches, Needs, Oracle, Place, SystemState, start_with_system


@dataclasses.dataclass(frozen=True)
class SabaState(SystemState):
    """What the batches at hand were last left with: g_y, h_z (N, dim_y) and c_z (N, dim_x) the lower one, f_y
    (N, dim_y) and f_x (N, dim_x) the upper one. mean_y, mean_z (N, dim_y), mean_x (N, dim_x): the averages
    over all batches, for z and x the sum of both levels'."""

    g_y: Tensor
    h_z: Tensor
    c_z: Tensor
    f_y: Tensor
    f_x: Tensor
    mean_y: Tensor
    mean_z: Tensor
    mean_x: Tensor


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Saba(MiniBatches[SabaState]):
    """SOBA with a memory of every mini-batch's last derivatives (SAGA)."""

    label = "SABA"
    reference = "Dagréou, Ablin, Vaiter and Moreau 2022"
    warm_starts = ("y", "z", "mean_y", "mean_z", "g_y", "h_z", "f_y")
    tables = {"g_y": "lower", "h_z": "lower", "c_z": "lower", "f_y": "upper", "f_x": "upper"}
    needs = Needs(one_lower_problem=True)

    def cost(self, place: Place) -> Cost:
        once = self.lower_samples(place, phase="partition")
        return Cost(once, place.upper_samples(self.size_of("upper"), "partition"), once, once)

    def held(self, place: Place) -> Held:
        lower, upper = (place.parts(level, self.size_of(level)) for level in ("lower", "upper"))
        return Held(x=10 + lower + upper, y=16 + 2 * lower + upper)

    def init(self, oracle: Oracle) -> SabaState:
        like_x, like_y = torch.zeros_like(oracle.x0), torch.zeros_like(oracle.y0)
        of_x = dict.fromkeys(("c_z", "f_x", "mean_x"), like_x)
        of_y = dict.fromkeys(("g_y", "h_z", "f_y", "mean_y", "mean_z"), like_y)
        return SabaState(**vars(start_with_system(oracle)), **of_x, **of_y)

    def step(self, oracle: Oracle, state: SabaState) -> SabaState:
        x, y, z, eta, place = state.x, state.y, state.z, self.lower_step_size, oracle.place
        lower = self.lower_batch(oracle, "partition")
        upper = oracle.upper_batch("partition", self.size_of("upper"))
        g_y, h_z = oracle.lower_gradient(x, y, lower), oracle.hessian_vector(x, y, z, lower)
        c_z = oracle.cross(x, y, z, lower)
        f_x, f_y = oracle.upper_gradient(x, y, upper)
        y_lower, z_lower, x_lower = g_y - state.g_y, h_z - state.h_z, c_z - state.c_z
        z_upper, x_upper = f_y - state.f_y, f_x - state.f_x
        of_lower = self.lower_samples(place, phase="partition") / place.lower_samples(1, None)
        of_upper = place.upper_samples(self.size_of("upper"), "partition") / place.upper_samples(None)
        return SabaState(
            x=self.move(oracle, x, x_lower + x_upper + state.mean_x),
            y=y - eta * (y_lower + state.mean_y),
            z=oracle.or_start(z - eta * (z_lower + z_upper + state.mean_z), z),
            g_y=g_y,
            h_z=h_z,
            c_z=c_z,
            f_y=f_y,
            f_x=f_x,
            mean_y=state.mean_y + of_lower * y_lower,
            mean_z=state.mean_z + of_lower * z_lower + of_upper * z_upper,
            mean_x=state.mean_x + of_lower * x_lower + of_upper * x_upper,
        )
