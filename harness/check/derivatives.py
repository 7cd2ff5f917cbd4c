"""Are a problem's derivatives those of its losses? By finite differences along a few random directions u with
independent normal entries: a derivative with an error e is then off by <e, u>, of the size of |e|."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harness.check.points import BY_ALGEBRA, BY_STEPS, Points, gap, normal, off, require
from harness.check.problems import F64
from harness.check.verdict import Checks

DIRECTIONS = 3
NUDGES = (1e-4, 1e-5)  # lengths of a finite step; the shorter where the longer may have met a kink of a loss


class Derivatives(Points):
    def checks(self) -> Checks:
        found = {
            "losses": self.losses,
            "lower gradient": self.lower_gradient,
            "joint lower gradient": self.joint_lower_gradient,
            "upper gradient": self.upper_gradient,
            "values": self.values,
            "Hessian-vector product": self.hessian_vector,
            "cross product": self.cross,
        }
        if self.problem.is_map():
            del found["joint lower gradient"]
        return found

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
            require(torch.equal(found, again), f"{name} gives two values at one point: {gap(found, again)}")
            half = torch.arange(0, len(rows), 2)
            part = self._values(level, rows[half], half)
            require(
                off(part, found[half]) < BY_ALGEBRA,
                f"{name} of an example depends on the others in the batch: {gap(part, found[half])}",
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

    def _slope(
        self, function: Callable[[Tensor], Tensor], at: Tensor, along: Tensor, length: float
    ) -> tuple[float, float]:
        """Derivative of a number by central differences, and its rounding error."""
        nudge = length / float(along.norm())
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
            found = float((gradient * along).sum())
            for length in NUDGES:
                slope, rounding = self._slope(function, at, along, length)
                error = abs(found - slope)
                agree = error <= BY_STEPS * max(size, abs(slope)) + 100 * rounding
                if agree:
                    break
            require(
                agree,
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
            require(error < BY_ALGEBRA, f"off by {error:.1e} from y - Phi(x, y): {gap(found[0], expected)}")
            return f"y - Phi(x, y) to {error:.1e}"

        def g(y: Tensor) -> Tensor:
            losses = problem.lower_loss(x, y, batch.rows)
            return losses.sum() if problem.by_example else losses.mean()

        error = self._against_slopes("d_y g", found[0], g, y)
        return f"finite differences of lower_loss agree to {error:.1e}"

    def joint_lower_gradient(self) -> str:
        batch, problem = self.batch("lower"), self.problem
        point = self.point(len(batch.rows))
        by_x, by_y = problem.joint_lower_gradient(point.x, point.y, batch)
        self._shaped("d_x g", by_x, point.x)
        self._shaped("d_y g", by_y, point.y)

        def g(x: Tensor) -> Tensor:
            losses = problem.lower_loss(x, point.y[0], batch.rows)
            return losses.sum() if problem.by_example else losses.mean()

        error = self._against_slopes("d_x g", by_x[0], g, point.x[0])
        apart = off(by_y, problem.lower_gradient(point.x, point.y, batch))
        require(apart < BY_ALGEBRA, f"its d_y g is off by {apart:.1e} from lower_gradient")
        return f"finite differences of lower_loss agree to {error:.1e}, lower_gradient to {apart:.1e}"

    def values(self) -> str:
        """Of both levels, where there is a lower loss."""
        problem, worst = self.problem, 0.0
        for level in ("upper",) if problem.is_map() else ("lower", "upper"):
            batch = self.batch(level)
            point = self.point(len(batch.rows))
            losses = self._values(level, batch.rows)
            expected = losses.sum() if level == "lower" and problem.by_example else losses.mean()
            value = problem.lower_value if level == "lower" else problem.upper_value
            found = value(point.x, point.y, batch)
            require(found.shape == (1,), f"{level}_value has shape {tuple(found.shape)}; expected (1,)")
            error = off(found[0], expected)
            require(error < BY_ALGEBRA, f"{level}_value is off by {error:.1e} from the mean of {level}_loss")
            worst = max(worst, error)
        return f"the mean of the losses, to {worst:.1e}"

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
