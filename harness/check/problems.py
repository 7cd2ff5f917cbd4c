"""Small problems to run a solver on: one counts what it is asked for, one knows every answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, NamedTuple, final

import numpy as np
import torch
from torch import Tensor
from torch.func import jacrev

from harness.batch import Batch
from harness.problem import Problem
from harness.result import Metric
from harness.streams import generator

CPU, F64 = torch.device("cpu"), torch.float64
BOX = 2.0  # bound on |x_k|
QUARTIC = 0.002
COUPLING = 0.05  # of x and y in f
NOISE = 0.1  # spread of the examples about their mean


@dataclasses.dataclass(kw_only=True)
class Counting(Problem):
    """g_i = 1/2 y^T A y + y^T (B x + b_i) + |x|^2 |y|^2 / 20 + sum y^4 / 12,
    f_j = 1/2 |y - c_j|^2 + |x|^2 / 20 + x^T M y / 10, and how many i and j were met.

    Every derivative depends on x, on y and on the examples. `seen[kind]` counts examples inside the losses
    themselves, for each trial (a row drawn k times counts k times), whichever copy of the problem was asked;
    what reaches a loss on another way than through a derivative counts as "outside"."""

    label = "Counting problem"
    reference = "none: made for the audit"
    objective = "upper_loss"
    headline = "upper_loss"
    metric_names = {"upper_loss": Metric("upper loss", "f"), "x_norm": Metric("norm of x", "|x|")}
    seen: ClassVar[dict[str, int]] = {}

    def setup(self, data_dir: Path | None, data_seed: int, device: torch.device, dtype: torch.dtype) -> None:
        self.dim_x, self.dim_y, self.lower_examples, self.upper_examples = 4, 6, 23, 11
        if self.by_example:
            self.lower_examples = self.upper_examples
        draw = generator(data_seed, "audit")
        root = draw.normal(size=(self.dim_y, self.dim_y))
        self._a = torch.tensor(root @ root.T / 12 + 0.3 * np.eye(self.dim_y), dtype=dtype)
        self._b = torch.tensor(draw.normal(size=(self.dim_y, self.dim_x)), dtype=dtype)
        self._lower = torch.tensor(draw.normal(size=(self.lower_examples, self.dim_y)), dtype=dtype)
        self._upper = torch.tensor(draw.normal(size=(self.upper_examples, self.dim_y)), dtype=dtype)
        self._m = torch.tensor(draw.normal(size=(self.dim_x, self.dim_y)), dtype=dtype)
        self._kind, self._trials, self._draws = "outside", 1, 0

    def initial(self, seed: int) -> tuple[Tensor, Tensor]:
        return torch.full((self.dim_x,), 0.5), torch.zeros(self.dim_y)

    def _count(self, rows: Tensor) -> None:
        if self._kind:
            met = self._draws or self._trials * len(rows)
            self.seen[self._kind] = self.seen.get(self._kind, 0) + met

    @contextmanager
    def _as(self, kind: str, x: Tensor, batch: Batch | None = None) -> Iterator[None]:
        counts = None if batch is None else batch.counts
        self._kind, self._trials, self._draws = kind, len(x), 0 if counts is None else int(counts.sum())
        try:
            yield
        finally:
            self._kind, self._trials, self._draws = "outside", 1, 0

    def lower_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        self._count(rows)
        each = y.view(-1, self.dim_y)
        linear = ((self._b @ x + self._lower[rows]) * each).sum(1)
        bent = 0.05 * (x * x).sum() * (each * each).sum(1) + (each**4).sum(1) / 12
        return 0.5 * ((each @ self._a) * each).sum(1) + linear + bent

    def upper_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        self._count(rows)
        each = y.view(-1, self.dim_y)
        own = 0.05 * (x * x).sum() + 0.1 * each @ (x @ self._m)
        return 0.5 * ((each - self._upper[rows]) ** 2).sum(1) + own

    def lower_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        with self._as("lower_gradient", x, batch):
            return super().lower_gradient(x, y, batch)

    def joint_lower_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        with self._as("lower_gradient", x, batch):
            return super().joint_lower_gradient(x, y, batch)

    def hessian_vector(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        with self._as("hessian_vector", x, batch):
            return super().hessian_vector(x, y, v, batch)

    def cross(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        with self._as("cross", x, batch):
            return super().cross(x, y, v, batch)

    def upper_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        with self._as("upper_gradient", x, batch):
            return super().upper_gradient(x, y, batch)

    def lower_value(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        with self._as("value", x, batch):
            return super().lower_value(x, y, batch)

    def upper_value(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        with self._as("value", x, batch):
            return super().upper_value(x, y, batch)

    def project(self, x: Tensor) -> Tensor:
        return x.clamp(-BOX, BOX)

    def evaluate(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """At the y that the method holds; by example at y = 0."""
        with self._as("", x.unsqueeze(0)):
            held = x.new_zeros(self.dim_y) if self.by_example else y
            loss = self.upper_loss(x, held, torch.arange(self.upper_examples)).mean()
        return {"upper_loss": float(loss), "x_norm": float(torch.linalg.vector_norm(x))}


@final
@dataclasses.dataclass(kw_only=True)
class CountingByExample(Counting):
    """The same with one y_i for each of the 11 examples."""

    label = "Counting problem, by example"
    by_example = True


class UpperStep(NamedTuple):
    """One call of `projected_step`, each (N, ...); step_size (N, 1), or (N, dim_x) with a preconditioner."""

    x: Tensor
    direction: Tensor
    step_size: Tensor


@final
@dataclasses.dataclass(kw_only=True)
class ExactQuartic(Problem):
    """g_i = 1/2 <y, A_i y> + <y, B_i x + b_i> + 1/2000 |y - U x|_4^4,
    f_j = 1/2 |y - c_j|^2 + 1/2 |x|^2 + <e_j, x> + <x, M y>,  |x_k| <= 2.

    The small quartic makes every lower derivative depend on x and y. y*(x) comes from Newton's method,
    z*(x) = -H^-1 d_y f and the hypergradient is d_x f + C z*, all to machine precision. The solution is
    interior; H and the Hessian of L have condition numbers of about 4. Derivatives are closed forms.
    `upper_steps` records what a solver passes to `projected_step`: the direction is its estimate of the
    hypergradient at x.

    Attributes: smoothness: largest eigenvalue of H(x0, y*(x0)). upper_smoothness: that of the Hessian of L
    at x*. solution: x*.
    """

    label = "Exact quartic"
    reference = "none: made for the checks"
    objective = "error"
    headline = "error"
    metric_names = {"error": Metric("(L - L*) / (L_0 - L*)", "error"), "x_max": Metric("max |x_k|", "|x|")}

    def setup(self, data_dir: Path | None, data_seed: int, device: torch.device, dtype: torch.dtype) -> None:
        self.dim_x, self.dim_y, self.lower_examples, self.upper_examples = 4, 6, 23, 11
        p, d, n, m = self.dim_x, self.dim_y, self.lower_examples, self.upper_examples
        draw = generator(data_seed, "exact")
        basis, frame = (np.linalg.qr(draw.normal(size=(d, k)))[0] for k in (d, p))
        shear = NOISE * draw.normal(size=(n, d, d)) / d
        data = {
            "a": basis * np.geomspace(0.15, 0.5, d) @ basis.T + shear + shear.mT,
            "b_x": 0.3 * frame + NOISE * draw.normal(size=(n, d, p)),
            "b": 0.1 * draw.normal(size=d) + NOISE * draw.normal(size=(n, d)),
            "c": 0.3 * draw.normal(size=d) + NOISE * draw.normal(size=(m, d)),
            "e": NOISE * draw.normal(size=(m, p)),
        }
        self._data = {name: torch.tensor(value, dtype=dtype) for name, value in data.items()}
        self._full = {name: value.mean(0, keepdim=True) for name, value in self._data.items()}
        self._u = torch.tensor(draw.normal(size=(d, p)) / 2, dtype=dtype)
        self._m = torch.tensor(COUPLING * draw.normal(size=(p, d)), dtype=dtype)
        start = self.initial(0)[0].to(dtype)
        self.solution = torch.zeros(p, dtype=dtype)
        for _ in range(100):
            self.solution = self.solution - 0.2 * self.hypergradient(self.solution.unsqueeze(0))[0]
        self._optimum = self._upper_value(self.solution)
        self._excess = self._upper_value(start) - self._optimum
        hessian = self._hessian(self._full["a"], start.unsqueeze(0), self.lower_solution(start.unsqueeze(0)))
        curvature = jacrev(lambda x: self.hypergradient(x.unsqueeze(0))[0])(self.solution)
        self.smoothness = float(torch.linalg.eigvalsh(hessian)[0, -1])
        self.upper_smoothness = float(torch.linalg.eigvalsh((curvature + curvature.T) / 2)[-1])
        self.upper_steps: list[UpperStep] = []

    def initial(self, seed: int) -> tuple[Tensor, Tensor]:
        return torch.ones(self.dim_x), torch.zeros(self.dim_y)

    # --- the exact answers, for x (N, dim_x)

    def _hessian(self, a: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Shape (N, dim_y, dim_y)."""
        return a + torch.diag_embed(3 * QUARTIC * (y - x @ self._u.T) ** 2)

    def lower_solution(self, x: Tensor) -> Tensor:
        every, y = Batch(torch.arange(self.lower_examples), full=True), x @ self._u.T
        for _ in range(12):
            gradient = self.lower_gradient(x, y, every)
            y = y - torch.linalg.solve(self._hessian(self._full["a"], x, y), gradient)
        return y

    def hypergradient(self, x: Tensor) -> Tensor:
        every, y = Batch(torch.arange(self.lower_examples), full=True), self.lower_solution(x)
        f_x, f_y = self.upper_gradient(x, y, Batch(torch.arange(self.upper_examples), full=True))
        z = -torch.linalg.solve(self._hessian(self._full["a"], x, y), f_y)
        return f_x + self.cross(x, y, z, every)

    def _upper_value(self, x: Tensor) -> float:
        y = self.lower_solution(x.unsqueeze(0))[0]
        return float(self.upper_loss(x, y, torch.arange(self.upper_examples)).mean())

    # --- losses of one trial, and their derivatives

    def lower_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        a, b_x, b = (self._data[name][rows] for name in ("a", "b_x", "b"))
        return (0.5 * a @ y + b_x @ x + b) @ y + QUARTIC / 4 * ((y - self._u @ x) ** 4).sum()

    def upper_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        c, e = self._data["c"][rows], self._data["e"][rows]
        return 0.5 * ((y - c) ** 2).sum(1) + 0.5 * x @ x + e @ x + x @ self._m @ y

    def _mean(self, name: str, batch: Batch) -> Tensor:
        """Over the batch, shape (1, ...), or (N, ...) where trials drew different counts."""
        weights = batch.weights(self._full[name])
        if weights is not None:
            mean: Tensor = torch.tensordot(weights, self._data[name][batch.rows], 1)
            return mean
        return self._full[name] if batch.full else self._data[name][batch.rows].mean(0, keepdim=True)

    def lower_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        a, b_x, b = (self._mean(name, batch) for name in ("a", "b_x", "b"))
        return _times(a, y) + _times(b_x, x) + b + QUARTIC * (y - x @ self._u.T) ** 3

    def hessian_vector(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        return _times(self._hessian(self._mean("a", batch), x, y), v)

    def cross(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        bent = 3 * QUARTIC * (y - x @ self._u.T) ** 2 * v
        return _times(self._mean("b_x", batch).mT, v) - bent @ self._u

    def upper_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        by_x = x + self._mean("e", batch) + y @ self._m.T
        return by_x, y - self._mean("c", batch) + x @ self._m

    def project(self, x: Tensor) -> Tensor:
        return x.clamp(-BOX, BOX)

    def projected_step(self, x: Tensor, direction: Tensor, step_size: Tensor) -> Tensor:
        self.upper_steps.append(UpperStep(x.clone(), direction.clone(), step_size.clone()))
        return super().projected_step(x, direction, step_size)

    def evaluate(self, x: Tensor, y: Tensor) -> dict[str, float]:
        error = abs(self._upper_value(x) - self._optimum) / self._excess
        return {"error": error, "x_max": float(x.abs().max())}


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Row by row, shapes (N or 1, i, j) and (N, j)."""
    found: Tensor = (matrices @ vectors.unsqueeze(2)).squeeze(2)
    return found
