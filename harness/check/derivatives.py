"""Are a problem's derivatives those of its losses, on every kind of batch, for one trial and for a pack?

All in float64, at a random point near the start, on a few examples and along a few random directions u with
independent normal entries: a derivative with an error e is then off by <e, u>, of the size of |e|.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from harness import derive
from harness.batch import Batch, Level
from harness.check.problems import CPU, F64
from harness.check.verdict import Checks
from harness.errors import PluginError
from harness.problem import Problem
from harness.streams import Streams, generator

DIRECTIONS = 3
EXAMPLES = 12  # of a mini-batch
TRIALS = 3
NUDGE = 1e-4  # length of a finite step
BY_STEPS, BY_ALGEBRA = 1e-5, 1e-9  # relative errors that count as none
WHOLE = 512  # by example, a full set is cut to these
Derivative = Callable[[Tensor, Tensor, Tensor, Batch], Tensor]


def normal(place: str, *shape: int) -> Tensor:
    """Independent normal numbers that depend on `place` only, float64."""
    return torch.from_numpy(generator("check", place).normal(size=shape))


def off(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|; the absolute error where nothing is expected."""
    gap, size = float((found - expected).norm()), float(expected.norm())
    return gap / size if size > 0 else gap


def require(good: bool, text: str) -> None:
    if not good:
        raise PluginError(text)


@dataclasses.dataclass(frozen=True)
class Point:
    """x (N, dim_x), y (N, ...), v like y: where derivatives are taken, and along what."""

    x: Tensor
    y: Tensor
    v: Tensor

    def row(self, n: int) -> Point:
        return Point(self.x[n : n + 1], self.y[n : n + 1], self.v[n : n + 1])

    def of(self, places: Tensor, dim_y: int) -> Point:
        """By example: the parts of y and v that belong to some of the examples."""
        parts = (value.view(len(value), -1, dim_y)[:, places].flatten(1) for value in (self.y, self.v))
        return Point(self.x, *parts)


class Derivatives:
    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        closed = ("lower_gradient", "hessian_vector", "cross", "upper_gradient")
        self.closed = [name for name in closed if getattr(type(problem), name) is not getattr(Problem, name)]

    def checks(self) -> Checks:
        found = {
            "losses": self.losses,
            "lower gradient": self.lower_gradient,
            "upper gradient": self.upper_gradient,
            "Hessian-vector product": self.hessian_vector,
            "cross product": self.cross,
            "linearity": self.linearity,
            "symmetry": self.symmetry,
            "closed forms": self.closed_forms,
            "mini-batches": self.mini_batches,
            "derivatives in a pack": self.in_a_pack,
        }
        return {
            name: check for name, check in found.items() if name != "symmetry" or not self.problem.is_map()
        }

    # --- where

    def point(self, examples: int, trials: int = 1, place: str = "point") -> Point:
        """Near the start and feasible; by example with rows for that many examples."""
        x0, y0 = (value.to(F64) for value in self.problem.initial(0))
        copies = examples if self.problem.by_example else 1
        x = self.problem.project(x0 + 0.1 * normal(f"{place} x", trials, len(x0)))
        y = y0.repeat(copies) + 0.1 * normal(f"{place} y", trials, copies * len(y0))
        return Point(x, y, normal(f"{place} v", *y.shape))

    def examples(self, level: str) -> int:
        return self.problem.upper_examples if level == "upper" else self.problem.lower_examples

    def rows(self, level: str) -> Tensor:
        """A few examples, in order."""
        level = "upper" if self.problem.by_example else level
        order = generator("check", level).permutation(self.examples(level))
        return torch.from_numpy(order[:EXAMPLES]).sort().values

    def batch(self, level: str) -> Batch:
        rows = self.rows(level)
        return Batch(rows, full=len(rows) == self.examples(level))

    # --- against finite differences of the losses

    def losses(self) -> str:
        """One finite value per example, whatever the other examples of the batch; not the same for all."""
        for level in ("lower", "upper"):
            rows = self.rows(level)
            found = self._values(level, rows)
            width = (self.problem.dim_y,) if level == "lower" and self.problem.is_map() else ()
            name = f"{level}_{'map' if width else 'loss'}"
            require(
                found.shape == (len(rows), *width),
                f"{name} of {len(rows)} rows has shape {tuple(found.shape)}; expected {(len(rows), *width)}",
            )
            require(bool(torch.isfinite(found).all()), f"{name} is not finite at a point near the start")
            require(found.dtype == F64, f"{name} is {found.dtype} in a problem set up in float64")
            again = self._values(level, rows)
            require(torch.equal(found, again), f"{name} gives two values at one point: {_gap(found, again)}")
            half = torch.arange(0, len(rows), 2)
            part = self._values(level, rows[half], half)
            require(
                off(part, found[half]) < BY_ALGEBRA,
                f"{name} of an example depends on the others in the batch: {_gap(part, found[half])}",
            )
            require(
                len(rows) == 1 or not bool((found == found[0]).all()),
                f"{name} is the same for {len(rows)} different examples: are rows used? "
                "A level that is not a mean has one example",
            )
        return f"one value for each of {len(rows)} examples, of that example alone"

    def _values(self, level: str, rows: Tensor, places: Tensor | None = None) -> Tensor:
        point = self.point(len(self.rows(level)))
        if self.problem.by_example and places is not None:
            point = point.of(places, self.problem.dim_y)
        if level == "upper":
            return self.problem.upper_loss(point.x[0], point.y[0], rows)
        loss = self.problem.lower_map if self.problem.is_map() else self.problem.lower_loss
        return loss(point.x[0], point.y[0], rows)

    def _slope(self, function: Callable[[Tensor], Tensor], at: Tensor, along: Tensor) -> tuple[float, float]:
        """Derivative of a number by central differences, and its rounding error."""
        nudge = NUDGE / float(along.norm())
        ahead, behind = function(at + nudge * along), function(at - nudge * along)
        rounding = 4e-16 * float(ahead.abs() + behind.abs()) / nudge
        return float(ahead - behind) / (2 * nudge), rounding

    def _against_slopes(
        self, name: str, gradient: Tensor, function: Callable[[Tensor], Tensor], at: Tensor
    ) -> float:
        """Largest relative error of <gradient, u> over directions u."""
        worst = 0.0
        size = float(gradient.norm())
        for n in range(DIRECTIONS):
            along = normal(f"{name} {n}", *at.shape)
            slope, rounding = self._slope(function, at, along)
            found = float((gradient * along).sum())
            error = abs(found - slope)
            require(
                error <= BY_STEPS * max(size, abs(slope)) + 100 * rounding,
                f"{name}: <derivative, u> = {found:.8g}, finite differences {slope:.8g} along a random u",
            )
            worst = max(worst, error / max(size, abs(slope), 1e-300))
        return worst

    def lower_gradient(self) -> str:
        batch, problem = self.batch("lower"), self.problem
        point = self.point(len(batch.rows))
        x, y = point.x[0], point.y[0]
        found = problem.lower_gradient(point.x, point.y, batch)
        self._shaped("lower_gradient", found, point.y)
        if problem.is_map():
            image = problem.lower_map(x, y, batch.rows)
            expected = y - (image.flatten() if problem.by_example else image.mean(0))
            error = off(found[0], expected)
            require(error < BY_ALGEBRA, f"off by {error:.1e} from y - Phi(x, y): {_gap(found[0], expected)}")
            return f"y - Phi(x, y) to {error:.1e}"

        def g(y: Tensor) -> Tensor:
            losses = problem.lower_loss(x, y, batch.rows)
            return losses.sum() if problem.by_example else losses.mean()

        error = self._against_slopes("d_y g", found[0], g, y)
        return f"finite differences of lower_loss agree to {error:.1e}"

    def upper_gradient(self) -> str:
        batch, problem = self.batch("upper"), self.problem
        point = self.point(len(batch.rows))
        x, y = point.x[0], point.y[0]
        by_x, by_y = problem.upper_gradient(point.x, point.y, batch)
        self._shaped("d_y f", by_y, point.y)
        by_x = self._broadcast(by_x, point.x)
        errors = [
            self._against_slopes("d_x f", by_x[0], lambda x: problem.upper_loss(x, y, batch.rows).mean(), x),
            self._against_slopes("d_y f", by_y[0], lambda y: problem.upper_loss(x, y, batch.rows).mean(), y),
        ]
        return f"finite differences of upper_loss agree to {max(errors):.1e}"

    def _broadcast(self, by_x: Tensor, x: Tensor) -> Tensor:
        """d_x f of its full shape: a zero may be given as (1, 1)."""
        require(
            by_x.dtype == x.dtype and by_x.shape in (x.shape, (1, 1)),
            f"d_x f is {by_x.dtype} {tuple(by_x.shape)}; expected {x.dtype} {tuple(x.shape)}",
        )
        return by_x.expand_as(x)

    def _shaped(self, name: str, found: Tensor, like: Tensor) -> None:
        require(
            found.shape == like.shape and found.dtype == like.dtype,
            f"{name} is {found.dtype} {tuple(found.shape)}; expected {like.dtype} {tuple(like.shape)}",
        )

    # --- against finite differences of the lower gradient R

    def hessian_vector(self) -> str:
        batch = self.batch("lower")
        point = self.point(len(batch.rows))
        found = self.problem.hessian_vector(point.x, point.y, point.v, batch)
        self._shaped("hessian_vector", found, point.y)

        def along_v(y: Tensor) -> Tensor:
            return (self.problem.lower_gradient(point.x, y, batch) * point.v).sum()

        error = self._against_slopes("H v", found, along_v, point.y)
        return f"finite differences of <lower gradient, v> in y agree to {error:.1e}"

    def cross(self) -> str:
        batch = self.batch("lower")
        point = self.point(len(batch.rows))
        found = self.problem.cross(point.x, point.y, point.v, batch)
        self._shaped("cross", found, point.x)

        def along_v(x: Tensor) -> Tensor:
            return (self.problem.lower_gradient(x, point.y, batch) * point.v).sum()

        error = self._against_slopes("C v", found, along_v, point.x)
        return f"finite differences of <lower gradient, v> in x agree to {error:.1e}"

    def linearity(self) -> str:
        batch, worst = self.batch("lower"), 0.0
        point = self.point(len(batch.rows))
        other = normal("linearity", *point.y.shape)
        for name, product in (("H", self.problem.hessian_vector), ("C", self.problem.cross)):
            mixed = product(point.x, point.y, 2 * point.v - 3 * other, batch)
            apart = 2 * product(point.x, point.y, point.v, batch) - 3 * product(
                point.x, point.y, other, batch
            )
            error = off(mixed, apart)
            require(error < BY_ALGEBRA, f"{name}(2v - 3w) differs from 2 {name}v - 3 {name}w by {error:.1e}")
            worst = max(worst, error)
        return f"H and C are linear to {worst:.1e}"

    def symmetry(self) -> str:
        batch = self.batch("lower")
        point = self.point(len(batch.rows))
        other = normal("symmetry", *point.y.shape)
        here = self.problem.hessian_vector(point.x, point.y, point.v, batch)
        there = self.problem.hessian_vector(point.x, point.y, other, batch)
        left, right = float((here * other).sum()), float((there * point.v).sum())
        error = abs(left - right) / max(float(here.norm()), 1e-300)
        require(error < BY_ALGEBRA, f"<H v, w> = {left:.10g}, <v, H w> = {right:.10g}")
        return f"<H v, w> = <v, H w> to {error:.1e}"

    # --- on every kind of batch

    def _all(self, point: Point, batch: Batch, upper: Batch, source: Any) -> dict[str, Tensor]:
        """The derivatives of one point: of the problem (source its methods), or derived from its losses."""
        given = (self.problem,) if source is derive else ()
        by_x, by_y = source.upper_gradient(*given, point.x, point.y, upper)
        return {
            "lower_gradient": source.lower_gradient(*given, point.x, point.y, batch),
            "hessian_vector": source.hessian_vector(*given, point.x, point.y, point.v, batch),
            "cross": source.cross(*given, point.x, point.y, point.v, batch),
            "upper_gradient, d_x f": self._broadcast(by_x, point.x),
            "upper_gradient, d_y f": by_y,
        }

    def closed_forms(self) -> str:
        """On a mini-batch, and on one whose rows each trial drew another number of times."""
        if not self.closed:
            return "none: all derivatives are derived from the losses"
        worst = 0.0
        for counted in (False, True):
            lower, upper = (self._drawn(level, counted) for level in ("lower", "upper"))
            point = self.point(len(lower.rows), TRIALS)
            found = self._all(point, lower, upper, self.problem)
            for name, expected in self._all(point, lower, upper, derive).items():
                error = off(found[name], expected)
                kind = "rows drawn several times" if counted else "a mini-batch"
                require(
                    error < BY_ALGEBRA,
                    f"{name} is off by {error:.1e} from the one derived from the losses, on {kind}",
                )
                worst = max(worst, error)
        return f"{', '.join(self.closed)}: as derived from the losses, to {worst:.1e}"

    def _drawn(self, level: str, counted: bool) -> Batch:
        batch = self.batch(level)
        if not counted:
            return batch
        width = 1 if batch.full or self.problem.by_example else len(batch.rows)  # as the oracle makes them
        counts = torch.from_numpy(generator("check", "counts").integers(0, 4, (TRIALS, width)))
        counts[:, 0] += 1
        counts = counts.expand(-1, len(batch.rows))
        return dataclasses.replace(batch, counts=counts)

    def mini_batches(self) -> str:
        """The batches of an epoch are a partition, and their mean is the value on the full set."""
        whole = {level: self._whole(level) for level in ("lower", "upper")}
        point = self.point(len(whole["upper"].rows))
        full = self._all(point, whole["lower"], whole["upper"], self.problem)
        parts = dict.fromkeys(full, torch.zeros(()))
        sizes = {level: len(batch.rows) // 4 + 1 for level, batch in whole.items()}
        steps = {level: math.ceil(len(batch.rows) / sizes[level]) for level, batch in whole.items()}
        for level, names in (("lower", list(full)[:3]), ("upper", list(full)[3:])):
            met: list[Tensor] = []
            streams = Streams(1, len(whole["lower"].rows), len(whole["upper"].rows), CPU)
            side: Level = "lower" if level == "lower" else "upper"
            for step in range(steps[level]):
                places = streams.rows(0, side, "check", step, sizes[level])
                met.append(places)
                part = Batch(places, full=whole[level].full and steps[level] == 1)
                found = self._part(level, point, part)
                for name in names:
                    parts[name] = parts[name] + self._share(name, found[name], places, len(whole[level].rows))
            drawn = torch.cat(met).sort().values
            require(torch.equal(drawn, torch.arange(len(drawn))), f"{level} batches repeat a row in an epoch")
        worst = 0.0
        for name, expected in full.items():
            error = off(parts[name], expected)
            require(
                error < BY_ALGEBRA,
                f"the mean of {name} over an epoch is off by {error:.1e} from the full set's",
            )
            worst = max(worst, error)
        return f"the mean over an epoch's batches is the value on all examples, to {worst:.1e}"

    def _part(self, level: str, point: Point, part: Batch) -> dict[str, Tensor]:
        """The derivatives with `part` as the batch of that level; by example it is that of both."""
        if self.problem.by_example:
            return self._all(point.of(part.rows, self.problem.dim_y), part, part, self.problem)
        lower, upper = (part if level == own else self.batch(own) for own in ("lower", "upper"))
        return self._all(point, lower, upper, self.problem)

    def _whole(self, level: str) -> Batch:
        size = self.examples("upper" if self.problem.by_example else level)
        rows = torch.arange(min(size, WHOLE) if self.problem.by_example else size)
        return Batch(rows, full=len(rows) == size)

    def _share(self, name: str, value: Tensor, places: Tensor, size: int) -> Tensor:
        """What a batch adds to the mean. By example, g is a sum, and y is each example's own."""
        share = len(places) / size
        if not self.problem.by_example:
            return share * value
        if name == "cross":
            return value
        if name == "upper_gradient, d_x f":
            return share * value
        own = torch.zeros(len(value), size, self.problem.dim_y, dtype=value.dtype)
        own[:, places] = value.view(len(value), len(places), -1)
        return (own * share if name.startswith("upper") else own).flatten(1)

    def in_a_pack(self) -> str:
        """Each trial of a pack as alone, and the arguments untouched."""
        lower, upper = self.batch("lower"), self.batch("upper")
        point = self.point(len(lower.rows), TRIALS)
        kept = Point(point.x.clone(), point.y.clone(), point.v.clone())
        packed = self._all(point, lower, upper, self.problem)
        for name in ("x", "y", "v"):
            require(
                torch.equal(getattr(point, name), getattr(kept, name)), f"a derivative overwrites its {name}"
            )
        worst = 0.0
        for n in range(TRIALS):
            for name, alone in self._all(point.row(n), lower, upper, self.problem).items():
                error = off(packed[name][n : n + 1], alone)
                require(
                    error < BY_ALGEBRA, f"{name} of trial {n} in a pack is off by {error:.1e} from it alone"
                )
                worst = max(worst, error)
        return f"each of {TRIALS} trials as alone, to {worst:.1e}; arguments untouched"


def _gap(found: Tensor, expected: Tensor) -> str:
    place = int((found - expected).abs().argmax())
    return f"found {float(found.flatten()[place]):.8g}, expected {float(expected.flatten()[place]):.8g}"
