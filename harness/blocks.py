"""Building blocks that many bilevel methods share, in the notation of the papers.

Signs: the system is H z + d_y f = 0 and the hypergradient d_x f + C z (so z = -v in Grazzi et al. 2023).
The classes declare parameters and what follows from them; a method inherits those it has and writes its
own `step`. The functions are the parts of a rule.
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod

import torch
from torch import Tensor

from harness.batch import MiniBatch
from harness.budget import Cost
from harness.oracle import Oracle
from harness.params import count, real, shared
from harness.place import Place
from harness.solver import S, Solver, State

# --- states


@dataclasses.dataclass(frozen=True)
class SystemState(State):
    """z (N, dim_y): the system variable."""

    z: Tensor


def start(oracle: Oracle) -> State:
    """x0 and y0."""
    return State(x=oracle.x0, y=oracle.y0)


def start_with_system(oracle: Oracle) -> SystemState:
    """x0, y0 and z = 0."""
    return SystemState(x=oracle.x0, y=oracle.y0, z=torch.zeros_like(oracle.y0))


# --- parameters, and what follows from them


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoLevels(Solver[S]):
    """Step sizes of x and y. Full batches, unless the method has `MiniBatches`."""

    upper_step_size: Tensor = real("step size of x", symbol="alpha")
    lower_step_size: Tensor = real("step size of y", symbol="eta_LL")

    def lower_samples(self, place: Place, steps: Tensor | int = 1, phase: str = "lower") -> Tensor | int:
        """Samples of one lower derivative on each of `steps` mini-batches of a stream."""
        return place.lower_samples(steps, self.size_of("lower"), phase)

    def upper_samples(self, place: Place) -> Tensor | int:
        """Samples of one upper derivative on this upper iteration's mini-batch."""
        return place.upper_samples(self.size_of("upper"))

    def lower_batch(self, oracle: Oracle, phase: str) -> MiniBatch:
        """The first mini-batch of a phase."""
        return oracle.lower_batch(phase, self.size_of("lower"))

    def upper_gradient(self, oracle: Oracle, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """(d_x f, d_y f) on this upper iteration's mini-batch."""
        return oracle.upper_gradient(x, y, oracle.upper_batch("epochs", self.size_of("upper")))

    def move(self, oracle: Oracle, x: Tensor, h: Tensor) -> Tensor:
        """P(x - alpha * h)."""
        return oracle.projected_step(x, h, self.upper_step_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MiniBatches(TwoLevels[S]):
    """Mini-batches of both levels."""

    batch_size: int = shared("examples of a lower mini-batch", symbol="B", default=64)
    upper_batch_size: int = shared("examples of an upper mini-batch; 0: all", symbol="B'", default=0, low=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NestedLoops(MiniBatches[S]):
    """t lower steps, then k steps on the system, then J batches of the cross product:
    (t + k + J) * batch_size + upper samples per upper iteration."""

    lower_steps: Tensor = count("lower steps per upper iteration", symbol="t")
    system_steps: Tensor = count("system steps per upper iteration", symbol="k")
    cross_batches: Tensor = count("batches of the cross product", symbol="J", default=1)

    def cost(self, place: Place) -> Cost:
        return Cost(
            lower_gradient=self.lower_samples(place, self.lower_steps),
            upper_gradient=self.upper_samples(place),
            hessian_vector=self.system_samples(place),
            cross=self.lower_samples(place, self.cross_batches),
        )

    @abstractmethod
    def system_samples(self, place: Place) -> Tensor | int:
        """Hessian-vector samples of the system's solution."""

    def descend(self, oracle: Oracle, x: Tensor, y: Tensor) -> Tensor:
        """t times   y <- y - eta_LL * d_y g(x, y; batch)."""
        return lower_sgd(oracle, x, y, self.lower_steps, self.lower_step_size, self.batch_size)

    def hypergradient(self, oracle: Oracle, x: Tensor, y: Tensor, z: Tensor, f_x: Tensor) -> Tensor:
        """d_x f + mean over J batches of C(x, y; batch) z."""
        return f_x + oracle.cross(x, y, z, oracle.lower_batches("cross", self.cross_batches, self.batch_size))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SgdSystem(NestedLoops[S]):
    """Nested loops whose system is solved by k gradient steps."""

    system_step_size: Tensor = real("step size of z", symbol="eta_LS")

    def system_samples(self, place: Place) -> Tensor | int:
        return self.lower_samples(place, self.system_steps)

    def solve(self, oracle: Oracle, x: Tensor, y: Tensor, f_y: Tensor, z: Tensor) -> Tensor:
        """k times   z <- z - eta_LS * (H(x, y; batch) z + d_y f)."""
        size = self.batch_size
        return system_sgd(oracle, x, y, f_y, z, self.system_steps, self.system_step_size, size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SingleLoop(MiniBatches[S]):
    """One step of each level per upper iteration, of sizes that fall: step_size / (s + 1)^decay, s from 0."""

    upper_decay: Tensor = real("exponent of the decay of x's step size", symbol="e_x", default=0.0)
    lower_decay: Tensor = real("exponent of the decay of y's step size", symbol="e_y", default=0.0)

    def upper_step(self, place: Place) -> Tensor:
        return decayed(self.upper_step_size, self.upper_decay, place.iteration)

    def lower_step(self, place: Place) -> Tensor:
        return decayed(self.lower_step_size, self.lower_decay, place.iteration)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeumannEstimates(SingleLoop[S]):
    """d_y g and h = d_x f + C z at a point, z by a Neumann series that is cut after N factors, or `random` of
    them. Their batches, and how many factors, depend on the upper iteration only: at two points the same.
    (2 + factors) * batch_size + upper_batch_size samples per point."""

    system_steps: Tensor = count("(longest) Neumann series", symbol="N")
    system_step_size: Tensor = real("step size of the Neumann series", symbol="eta_LS")

    def estimates_cost(self, place: Place, points: int, random: bool) -> Cost:
        factors = truncation(place, self.system_steps) if random else self.system_steps
        once = points * self.lower_samples(place)
        series = points * self.lower_samples(place, factors)
        return Cost(once, points * self.upper_samples(place), series, once)

    def estimates(self, oracle: Oracle, x: Tensor, y: Tensor, random: bool) -> tuple[Tensor, Tensor]:
        """(d_y g, h) at a point."""
        f_x, f_y = self.upper_gradient(oracle, x, y)
        series = random_neumann if random else neumann_series
        z = series(oracle, x, y, f_y, self.system_steps, self.system_step_size, self.batch_size)
        h = f_x + oracle.cross(x, y, z, self.lower_batch(oracle, "cross"))
        return oracle.lower_gradient(x, y, self.lower_batch(oracle, "lower")), h


# --- parts of a rule


def decayed(step_size: Tensor, exponent: Tensor | float, iteration: int, restart: int = 0) -> Tensor:
    """step_size / (s + 1)^exponent at upper iteration s; restart: s begins again after so many (0: never)."""
    since = iteration % restart if restart else iteration
    if since == 0:
        return step_size
    if isinstance(exponent, Tensor):
        return step_size * torch.pow(since + 1.0, -exponent)
    return step_size * math.pow(since + 1.0, -exponent)


def joint_directions(
    oracle: Oracle, x: Tensor, y: Tensor, z: Tensor, lower: MiniBatch, upper: MiniBatch
) -> tuple[Tensor, Tensor, Tensor]:
    """SOBA's directions of y, z and x at one point: d_y g, H z + d_y f and d_x f + C z.

    Cost: a lower gradient, a Hessian-vector and a cross product on `lower`, an upper gradient on `upper`."""
    f_x, f_y = oracle.upper_gradient(x, y, upper)
    d_y = oracle.lower_gradient(x, y, lower)
    d_z = oracle.hessian_vector(x, y, z, lower) + f_y
    return d_y, d_z, f_x + oracle.cross(x, y, z, lower)


def recursive_momentum(d: Tensor, new: Tensor, old: Tensor, weight: Tensor | float) -> Tensor:
    """new + (1 - weight) * (d - old), new and old on the same batch: STORM's estimate; weight 0: SPIDER's."""
    if isinstance(weight, Tensor):
        return torch.addcmul(new, d - old, 1 - weight)
    return torch.add(new, d - old, alpha=1 - weight)


def lower_sgd(
    oracle: Oracle, x: Tensor, y: Tensor, steps: Tensor, step_size: Tensor, batch_size: int | None
) -> Tensor:
    """y <- y - step_size * d_y g(x, y; batch), `steps` times. Cost: steps * batch_size lower gradients."""

    def body(batch: MiniBatch, y: Tensor, x: Tensor, step_size: Tensor) -> Tensor:
        return torch.addcmul(y, step_size, oracle.lower_gradient(x, y, batch), value=-1)

    return oracle.loop("lower", steps, body, y, x, step_size, batch_size=batch_size)


def system_sgd(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    f_y: Tensor,
    z: Tensor,
    steps: Tensor,
    step_size: Tensor,
    batch_size: int | None,
) -> Tensor:
    """z <- z - step_size * (H(x, y; batch) z + d_y f), `steps` times; a diverged solve gives its start.

    The fallback is the published code's (CSML-IIT-UCL/bioptexps). Cost: steps * batch_size
    Hessian-vector products.
    """

    def body(batch: MiniBatch, z: Tensor, x: Tensor, y: Tensor, f_y: Tensor, step_size: Tensor) -> Tensor:
        return z - step_size * (oracle.hessian_vector(x, y, z, batch) + f_y)

    solved = oracle.loop("system", steps, body, z, x, y, f_y, step_size, batch_size=batch_size)
    return oracle.or_start(solved, z)


def neumann(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    v: Tensor,
    steps: Tensor,
    step_size: Tensor,
    batch_size: int | None,
    within: MiniBatch | None = None,
    phase: str = "system",
) -> tuple[Tensor, Tensor]:
    """The last term and the sum of v, (I - step_size * H) v, ..., each factor on a fresh batch, `steps` of
    them. Cost: steps * batch_size Hessian-vector products."""

    def body(
        batch: MiniBatch, value: tuple[Tensor, ...], x: Tensor, y: Tensor, step_size: Tensor
    ) -> tuple[Tensor, ...]:
        term, total = value
        term = term - step_size * oracle.hessian_vector(x, y, term, batch)
        return term, total + term

    operands = (x, y, step_size)
    term, total = oracle.loop(phase, steps, body, (v, v), *operands, batch_size=batch_size, within=within)
    return term, total


def neumann_series(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    f_y: Tensor,
    steps: Tensor,
    step_size: Tensor,
    batch_size: int | None,
    within: MiniBatch | None = None,
    phase: str = "system",
) -> Tensor:
    """z = -step_size * sum_{q = 0..steps} prod_{i = 1..q} (I - step_size * H(x, y; batch_i)) f_y.

    A z that is not finite falls back to its first term. Cost: steps * batch_size Hessian-vector products."""
    first = -step_size * f_y
    _, total = neumann(oracle, x, y, first, steps, step_size, batch_size, within, phase)
    return oracle.or_start(total, first, within)


def truncation(place: Place, longest: Tensor) -> Tensor:
    """p uniform on {0, ..., longest - 1}, shape (N,): from one uniform number for all trials of a seed."""
    return (place.uniform("truncation") * longest.double()).long()


def random_neumann(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    f_y: Tensor,
    longest: Tensor,
    step_size: Tensor,
    batch_size: int | None,
    within: MiniBatch | None = None,
) -> Tensor:
    """z = -step_size * longest * prod_{i = 1..p} (I - step_size * H(x, y; batch_i)) f_y, p by `truncation`.

    In the mean over p the Neumann series of -H^-1 f_y, cut after `longest` terms. A z that is not finite
    falls back to its first term. Cost: p * batch_size Hessian-vector products."""
    first = -step_size * longest.unsqueeze(1).to(f_y) * f_y
    steps = truncation(oracle.place, longest)
    term, _ = neumann(oracle, x, y, first, steps, step_size, batch_size, within)
    return oracle.or_start(term, first, within)


def conjugate_gradients(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    f_y: Tensor,
    z: Tensor,
    steps: Tensor,
    batch_size: int | None,
    from_zero: bool = False,
) -> Tensor:
    """`steps` iterations on H(x, y; batch) z = -f_y from z, all on one batch, H symmetric.

    A solve that is not finite gives its start. Cost: (steps + 1) * batch_size Hessian-vector products, and
    steps * batch_size where z is known to be 0 (`from_zero`)."""

    def body(batch: MiniBatch, value: tuple[Tensor, ...], x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        z, r, p = value
        h_p = oracle.hessian_vector(x, y, p, batch)
        a = _ratio(_dot(r, r), _dot(p, h_p))
        r_next = r - a * h_p
        return z + a * p, r_next, r_next + _ratio(_dot(r_next, r_next), _dot(r, r)) * p

    batch = oracle.lower_batch("system", batch_size)
    r = -f_y if from_zero else -f_y - oracle.hessian_vector(x, y, z, batch)
    solved, *_ = oracle.loop("system", steps, body, (z, r, r), x, y, batch_size=batch_size, fixed=True)
    return oracle.or_start(solved, z)


def value_gap(
    oracle: Oracle, x: Tensor, y: Tensor, y_hat: Tensor, batch: MiniBatch, other: MiniBatch | None = None
) -> tuple[Tensor, Tensor]:
    """d_x g(x, y; batch) - d_x g(x, y_hat; other) and d_y g(x, y; batch): the gradient of what a penalty
    weighs, the gap of y to the lower level's value, with y_hat close to y*(x); other: batch, if not given.
    Cost: a lower gradient on each."""
    by_x, by_y = oracle.joint_lower_gradient(x, y, batch)
    return by_x - oracle.joint_lower_gradient(x, y_hat, batch if other is None else other)[0], by_y


def _dot(u: Tensor, v: Tensor) -> Tensor:
    return (u * v).sum(1, keepdim=True)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """above / below; 0 where below is 0, so that a solved trial stays where it is."""
    return torch.where(below == 0, 0, above / below)
