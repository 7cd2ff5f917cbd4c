"""Where derivatives are checked: at a random point near the start, on a few examples, all in float64."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from harness.batch import Batch
from harness.check.problems import F64
from harness.errors import PluginError
from harness.problem import Problem
from harness.streams import generator

EXAMPLES = 12  # of a mini-batch
TRIALS = 3
BY_STEPS, BY_ALGEBRA = 1e-5, 1e-9  # relative errors that count as none


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


class Points:
    """Points and batches of one problem."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

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

    def _broadcast(self, by_x: Tensor, x: Tensor) -> Tensor:
        """d_x f of its full shape: a zero may be given as (1, 1)."""
        require(
            by_x.dtype == x.dtype and by_x.shape in (x.shape, (1, 1)),
            f"d_x f is {by_x.dtype} {tuple(by_x.shape)}; expected {x.dtype} {tuple(x.shape)}",
        )
        return by_x.expand_as(x)


def gap(found: Tensor, expected: Tensor) -> str:
    place = int((found - expected).abs().argmax())
    return f"found {float(found.flatten()[place]):.8g}, expected {float(expected.flatten()[place]):.8g}"
