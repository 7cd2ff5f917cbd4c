"""Does a problem keep the rules? Its feasible set, its precision, its randomness, its evaluation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from harness.check.points import BY_ALGEBRA, TRIALS, Points, normal, off, require
from harness.check.problems import F64
from harness.check.verdict import Checks
from harness.door import evaluated, plain_metrics, require_declared
from harness.errors import PluginError
from harness.problem import Problem

PROJECTED = 1e-6  # relative error of a projection that counts as none
SCALES = (0.01, 1.0, 100.0)
RAY = tuple(10 ** (k / 8) for k in range(-16, 17))
DEAR = 2_000_000  # samples of an evaluation that is not waited for

MakeProblem = Callable[[torch.dtype], Problem]


class Protocol:
    """make: sets the problem up anew, in a given precision, from the same data seed."""

    def __init__(self, problem: Problem, make: MakeProblem) -> None:
        self.problem, self.make = problem, make

    def checks(self) -> Checks:
        return {
            "sizes": self.sizes,
            "projection": self.projection,
            "projected step": self.projected_step,
            "precision": self.precision,
            "data seed": self.data_seed,
            "evaluation": self.evaluation,
        }

    def sizes(self) -> str:
        problem = self.problem
        sizes = {n: getattr(problem, n) for n in ("dim_x", "dim_y", "lower_examples", "upper_examples")}
        require(all(size > 0 for size in sizes.values()), f"setup leaves {sizes}; expected all above 0")
        shapes = tuple(tuple(value.shape) for value in problem.initial(0))
        expected = ((problem.dim_x,), (problem.dim_y,))
        require(shapes == expected, f"initial gives shapes {shapes}; expected {expected}")
        for one, two in zip(problem.initial(3), problem.initial(3), strict=True):
            require(torch.equal(one, two), "initial(3) gives two values; expected a function of the seed")
        require_declared(problem)
        return ", ".join(f"{name} {size}" for name, size in sizes.items())

    # --- the feasible set

    def _start(self) -> Tensor:
        return self.problem.initial(0)[0].to(F64)

    def _feasible(self) -> Tensor:
        """A pack of feasible points near the start."""
        return self.problem.project(self._start() + 0.1 * normal("feasible", TRIALS, self.problem.dim_x))

    def projection(self) -> str:
        """Idempotent, non-expansive (between neighbours and along a ray from x0), row by row; x0 feasible."""
        project, x0 = self.problem.project, self._start().unsqueeze(0)
        moved = off(project(x0), x0)
        require(moved <= PROJECTED, f"x0 is not feasible: the projection moves it by {moved:.1e} of its norm")
        worst, moves = 0.0, False
        away, aside = (normal(f"projection {n}", TRIALS, self.problem.dim_x) for n in range(2))
        for scale in SCALES:
            here, there = x0 + scale * away, x0 + scale * (away + 0.1 * aside)
            kept, inside = here.clone(), project(here)
            require(torch.equal(here, kept), "project overwrites its argument")
            again = off(project(inside), inside)
            require(
                again <= PROJECTED, f"P(P(x)) differs from P(x) by {again:.1e} at distance {scale:g} from x0"
            )
            alone = torch.cat([project(row.unsqueeze(0)) for row in here])
            require(off(alone, inside) <= PROJECTED, "P of a pack differs from P row by row")
            worst = max(worst, _stretch(inside, project(there), here, there))
            moves = moves or off(inside, here) > PROJECTED
        ray = [x0 + scale * away[:1] for scale in RAY]
        for (a, p_a), (b, p_b) in itertools.pairwise((x, project(x)) for x in ray):
            worst = max(worst, _stretch(p_a, p_b, a, b))
        require(worst <= 1 + PROJECTED, f"|P(a) - P(b)| is up to {worst:.6g} |a - b|; expected at most 1")
        if not moves:
            return "every point tried is feasible"
        return f"idempotent, |P(a) - P(b)| <= {worst:.3g} |a - b|, x0 feasible"

    def projected_step(self) -> str:
        """P(x - step_size * direction) from feasible points, each trial with its own step size."""
        worst = 0.0
        x = self._feasible()
        direction, kept = normal("direction", *x.shape), x.clone()
        for scale in SCALES:
            sizes = scale * torch.tensor([[1.0], [0.5], [0.0]], dtype=F64)
            found = self.problem.projected_step(x, direction, sizes)
            require(torch.equal(x, kept), "projected_step overwrites x")
            error = off(found, self.problem.project(x - sizes * direction))
            require(
                error <= PROJECTED, f"projected_step is off by {error:.1e} from P(x - {scale:g} * direction)"
            )
            worst = max(worst, error)
        return f"P(x - step_size * direction) to {worst:.1e}"

    # --- precision and randomness

    def _values(self, problem: Problem, dtype: torch.dtype) -> dict[str, Tensor]:
        """The derivatives at one point, in the precision in which the problem was set up."""
        points = Points(problem)
        lower, upper = points.batch("lower"), points.batch("upper")
        point = points.point(len(lower.rows), TRIALS)
        x, y, v = (value.to(dtype) for value in (point.x, point.y, point.v))
        by_x, by_y = problem.upper_gradient(x, y, upper)
        found = {
            "lower_gradient": problem.lower_gradient(x, y, lower),
            "hessian_vector": problem.hessian_vector(x, y, v, lower),
            "cross": problem.cross(x, y, v, lower),
            "d_x f": by_x,
            "d_y f": by_y,
        }
        return found | {"project": problem.project(x)}

    def precision(self) -> str:
        """Finite numbers of the type in which the problem is set up: its own, and float64."""
        own = self.problem.dtype
        for dtype, problem in ((F64, self.problem), (own, self.make(own))):
            for name, value in self._values(problem, dtype).items():
                require(value.dtype == dtype, f"{name} is {value.dtype} in a problem set up in {dtype}")
                require(bool(torch.isfinite(value).all()), f"{name} is not finite in {dtype} near the start")
        return f"{own} throughout, and float64 where set up so"

    def data_seed(self) -> str:
        again = self._values(self.make(F64), F64)
        for name, value in self._values(self.problem, F64).items():
            require(torch.equal(value, again[name]), f"{name} differs after setup with the same data seed")
        return "two set-ups from one data seed agree bit for bit"

    # --- metrics and evaluation

    def evaluation(self) -> str:
        """Every metric, finite, once; a trial in a pack as alone."""
        x = self._feasible()
        points = Points(self.problem)
        y = points.point(1, TRIALS).y
        if not self.problem.by_example:
            cheap = self.problem.metrics(x, y)
            for found in cheap:
                plain_metrics(found)
            self._same("metrics", cheap, [self.problem.metrics(*_row(x, y, n))[0] for n in range(TRIALS)])
        if self.problem.evaluation_samples > DEAR:
            return f"not run: {self.problem.evaluation_samples:,} samples are more than {DEAR:,}"
        held = y.new_empty(len(y), 0) if self.problem.by_example else y
        packed = self.problem.evaluate_pack(x, held)
        alone = [self.problem.evaluate(*one) for one in zip(x, held, strict=True)]
        for given in (*packed, *alone):
            found = evaluated(given, self.problem)
            bad = [name for name, value in found.items() if not math.isfinite(value)]
            require(not bad, f"{', '.join(bad)} not finite near the start")
        self._same("evaluate", packed, alone)
        return f"{', '.join(self.problem.metric_names)}; each of {TRIALS} trials as alone"

    def _same(self, what: str, packed: list[dict[str, float]], alone: list[dict[str, float]]) -> None:
        for n, (left, right) in enumerate(zip(packed, alone, strict=True)):
            for name, value in right.items():
                if not math.isclose(left.get(name, math.nan), value, rel_tol=BY_ALGEBRA, abs_tol=1e-12):
                    raise PluginError(
                        f"{what}: {name} of trial {n} is {left.get(name)} in a pack, {value} alone"
                    )


def _stretch(p_a: Tensor, p_b: Tensor, a: Tensor, b: Tensor) -> float:
    """Largest |P(a) - P(b)| / |a - b| over rows."""
    return float(((p_a - p_b).norm(dim=1) / (a - b).norm(dim=1)).max())


def _row(x: Tensor, y: Tensor, n: int) -> tuple[Tensor, Tensor]:
    return x[n : n + 1], y[n : n + 1]
