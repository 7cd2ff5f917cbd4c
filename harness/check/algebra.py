"""Do a problem's derivatives obey their algebra, on every kind of batch, for one trial and for a pack?

They are linear and symmetric, closed forms equal what is derived from the losses, and the mean over an
epoch's batches is the value on all examples.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from harness.batch import Batch, Level
from harness.check.points import BY_ALGEBRA, TRIALS, Point, Points, normal, off, require
from harness.check.problems import CPU
from harness.check.verdict import Checks
from harness.problem import DERIVATIVES, Problem
from harness.streams import Streams, generator

WHOLE = 512  # by example, a full set is cut to these
DENSE = 50  # lower variables up to which whole matrices are compared
CLOSED = (*DERIVATIVES, "lower_value", "upper_value", "hessian", "cross_matrix")
"""What is compared with what the losses give, where a problem has it itself."""


class Algebra(Points):
    def checks(self) -> Checks:
        found = {
            "linearity": self.linearity,
            "symmetry": self.symmetry,
            "closed forms": self.closed_forms,
            "mini-batches": self.mini_batches,
            "derivatives in a pack": self.in_a_pack,
        }
        if self.problem.is_map():
            del found["symmetry"]
        return found

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

    def _all(self, point: Point, batch: Batch, upper: Batch, derived: bool = False) -> dict[str, Tensor]:
        """All that the problem gives at one point; derived: as its losses have it, without closed forms."""
        problem, x, y, v = self.problem, point.x, point.y, point.v

        def of(name: str, *args: Any) -> Any:
            return getattr(Problem, name)(problem, *args) if derived else getattr(problem, name)(*args)

        by_x, by_y = of("upper_gradient", x, y, upper)
        found = {
            "lower_gradient": of("lower_gradient", x, y, batch),
            "hessian_vector": of("hessian_vector", x, y, v, batch),
            "cross": of("cross", x, y, v, batch),
            "upper_gradient, d_x f": self._broadcast(by_x, x),
            "upper_gradient, d_y f": by_y,
            "upper_value": of("upper_value", x, y, upper).unsqueeze(1),
        }
        if not problem.is_map():
            by_x, by_y = of("joint_lower_gradient", x, y, batch)
            found |= {"joint_lower_gradient, d_x g": by_x, "joint_lower_gradient, d_y g": by_y}
            found["lower_value"] = of("lower_value", x, y, batch).unsqueeze(1)
        if not problem.by_example and problem.dim_y <= DENSE:
            for name in ("hessian", "cross_matrix"):
                found[name] = of(name, x, y, batch).flatten(1)
        return found

    def closed_forms(self) -> str:
        """On a mini-batch, and on one whose rows each trial drew another number of times."""
        own = type(self.problem)
        closed = [name for name in CLOSED if getattr(own, name) is not getattr(Problem, name)]
        if not closed:
            return "none: all derivatives are derived from the losses"
        worst = 0.0
        for counted in (False, True):
            lower, upper = (self._drawn(level, counted) for level in ("lower", "upper"))
            point = self.point(len(lower.rows), TRIALS)
            found = self._all(point, lower, upper)
            for name, expected in self._all(point, lower, upper, derived=True).items():
                error = off(found[name], expected)
                kind = "rows drawn several times" if counted else "a mini-batch"
                require(
                    error < BY_ALGEBRA,
                    f"{name} is off by {error:.1e} from the one derived from the losses, on {kind}",
                )
                worst = max(worst, error)
        return f"{', '.join(closed)}: as derived from the losses, to {worst:.1e}"

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
        full = self._all(point, whole["lower"], whole["upper"])
        parts = dict.fromkeys(full, torch.zeros(()))
        sizes = {level: len(batch.rows) // 4 + 1 for level, batch in whole.items()}
        steps = {level: math.ceil(len(batch.rows) / sizes[level]) for level, batch in whole.items()}
        for level in ("lower", "upper"):
            names = [name for name in full if name.startswith("upper") == (level == "upper")]
            met: list[Tensor] = []
            streams = Streams(1, len(whole["lower"].rows), len(whole["upper"].rows), CPU)
            side: Level = "lower" if level == "lower" else "upper"
            for step in range(steps[level]):
                places = streams.batch(0, side, "check", step, sizes[level]).rows
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
            return self._all(point.of(part.rows, self.problem.dim_y), part, part)
        lower, upper = (part if level == own else self.batch(own) for own in ("lower", "upper"))
        return self._all(point, lower, upper)

    def _whole(self, level: str) -> Batch:
        size = self.examples("upper" if self.problem.by_example else level)
        rows = torch.arange(min(size, WHOLE) if self.problem.by_example else size)
        return Batch(rows, full=len(rows) == size)

    def _share(self, name: str, value: Tensor, places: Tensor, size: int) -> Tensor:
        """What a batch adds to the mean. By example, g is a sum, and y is each example's own."""
        share = len(places) / size
        if not self.problem.by_example:
            return share * value
        if name in ("cross", "joint_lower_gradient, d_x g", "lower_value"):
            return value
        if name in ("upper_gradient, d_x f", "upper_value"):
            return share * value
        own = torch.zeros(len(value), size, self.problem.dim_y, dtype=value.dtype)
        own[:, places] = value.view(len(value), len(places), -1)
        return (own * share if name.startswith("upper") else own).flatten(1)

    def in_a_pack(self) -> str:
        """Each trial of a pack as alone, and the arguments untouched."""
        lower, upper = self.batch("lower"), self.batch("upper")
        point = self.point(len(lower.rows), TRIALS)
        kept = Point(point.x.clone(), point.y.clone(), point.v.clone())
        packed = self._all(point, lower, upper)
        for name in ("x", "y", "v"):
            require(
                torch.equal(getattr(point, name), getattr(kept, name)), f"a derivative overwrites its {name}"
            )
        worst = 0.0
        for n in range(TRIALS):
            for name, alone in self._all(point.row(n), lower, upper).items():
                error = off(packed[name][n : n + 1], alone)
                require(
                    error < BY_ALGEBRA, f"{name} of trial {n} in a pack is off by {error:.1e} from it alone"
                )
                worst = max(worst, error)
        return f"each of {TRIALS} trials as alone, to {worst:.1e}; arguments untouched"
