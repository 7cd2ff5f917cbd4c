"""The public benchmark's stochastic quadratic: every example has random matrices of rank one of its own.

    g_i, f_j = 1/2 (a^T y)^2 + 1/2 (b^T x)^2 + (c^T x) (e^T y) + p^T y + q^T x,   a to q of each example

    a ~ N(0, H),   H with eigenvalues from `curvature` to 1 at equal ratios
    b ~ N(0, B),   B with one eigenvalue 0, the others from `curvature` to 1 likewise
    c = U D n, e = V n,  n ~ N(0, I) (dim_y,), D (dim_x, dim_y) with singular values from `curvature` to
    `coupling` likewise, U and V uniform: the mean of c e^T is about U D V^T;   p ~ N(0, I), q ~ N(0, I)

The eigenvector of the least eigenvalue of H, or of B, is uniform and the others follow from it by a
reflection, so that the two levels' H are close. Each level draws all of it on its own. With H, B, C, p and q
now the means over the lower examples and H' to q' over the upper ones,

    y*(x) = -H^-1 (C^T x + p),   z*(x) = -H^-1 (H' y* + C'^T x + p'),   grad L(x) = B' x + C' y* + q' + C z*

so that L(x) = f(x, y*(x)) is a quadratic, known exactly; a draw in which it is not strictly convex is drawn
again. x0 = -2, y0 = 0. The a of an example measures |a|^2 = 39 in the mean, where H is at most 1: the
curvature of a mini-batch is well above that of g.

Evaluation: L(x) and |grad L(x)|^2, exact. A study selects by the latter, which tells points apart where a
difference of L is lost in rounding; near the solution of a strictly convex L the two go together.

Reference: M. Dagréou, T. Moreau, S. Vaiter, P. Ablin, "A Lower Bound and a Near-Optimal Algorithm for
Bilevel Empirical Risk Minimization", AISTATS 2024, as in its authors' public benchmark,
benchopt/benchmark_bilevel (there "quadratic", later "simulated").
Differs from the benchmark: another draw, by --data-seed. The one of its published results of February 2024
cannot be had again, as the singular vectors of c and e were drawn without a seed then.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.api import Batch, HarnessError, Metric, Problem, generator, option
from problems._linear import by_share

START = -2.0  # every entry of x0
ATTEMPTS = 20
LEAST_CURVATURE = 1e-12  # of L

Array = NDArray[np.float64]


class Rows(NamedTuple):
    """Of some examples: a, e, p (b, dim_y), then b, c, q (b, dim_x)."""

    a: Tensor
    e: Tensor
    p: Tensor
    b: Tensor
    c: Tensor
    q: Tensor


@dataclasses.dataclass(frozen=True)
class Level:
    """All examples of a level in one table (n, 3 * (dim_y + dim_x)), and their means: H (dim_y, dim_y),
    B (dim_x, dim_x), C (dim_x, dim_y), p (dim_y,), q (dim_x,)."""

    table: Tensor
    widths: list[int]
    h: Tensor
    b: Tensor
    c: Tensor
    p: Tensor
    q: Tensor

    @classmethod
    def make(cls, parts: list[Array], device: torch.device, dtype: torch.dtype) -> "Level":
        table = torch.from_numpy(np.concatenate(parts, axis=1)).to(device, dtype)
        widths = [part.shape[1] for part in parts]
        every, n = Rows(*torch.split(table, widths, 1)), len(table)
        squares = (every.a.T @ every.a / n, every.b.T @ every.b / n, every.c.T @ every.e / n)
        return cls(table, widths, *squares, every.p.mean(0), every.q.mean(0))

    def rows(self, batch_rows: Tensor) -> Rows:
        return Rows(*torch.split(self.table[batch_rows], self.widths, 1))

    def of(self, batch: Batch) -> Rows | None:
        """The examples of a batch; None where it is all of them once, whose means are known."""
        return None if batch.full and batch.counts is None else self.rows(batch.rows)

    # --- N trials: x (N, dim_x), y, v (N, dim_y)

    def by_y(self, rows: Rows | None, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        """H y + C^T x + p."""
        if rows is None:
            return y @ self.h + x @ self.c + self.p
        bent = by_share(y @ rows.a.T, batch) @ rows.a + by_share(x @ rows.c.T, batch) @ rows.e
        return bent + _mean(rows.p, batch)

    def by_x(self, rows: Rows | None, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        """B x + C y + q."""
        if rows is None:
            return x @ self.b + y @ self.c.T + self.q
        bent = by_share(x @ rows.b.T, batch) @ rows.b + by_share(y @ rows.e.T, batch) @ rows.c
        return bent + _mean(rows.q, batch)

    def value(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        """Shape (N,)."""
        rows = self.of(batch)
        if rows is None:
            by_x, by_y = self.by_x(None, x, y, batch) + self.q, self.by_y(None, x, y, batch) + self.p
            return ((by_x * x).sum(1) + (by_y * y).sum(1)) / 2
        a, b, c, e = y @ rows.a.T, x @ rows.b.T, x @ rows.c.T, y @ rows.e.T
        return by_share((a * a + b * b) / 2 + c * e + y @ rows.p.T + x @ rows.q.T, batch).sum(1)


def _mean(table: Tensor, batch: Batch) -> Tensor:
    """Of the rows of a batch, shape (N, columns) or (1, columns)."""
    weights = batch.weights(table)
    return table.mean(0, keepdim=True) if weights is None else weights @ table


def _gaussian(draw: np.random.Generator, samples: int, eigenvalues: Array) -> Array:
    """Rows ~ N(0, R diag(eigenvalues) R), R a reflection of the first axis to a uniform direction."""
    size = len(eigenvalues)
    direction = draw.normal(size=size)
    direction /= np.linalg.norm(direction)
    direction[0] += np.copysign(1, direction[0])
    reflection = np.eye(size) - 2 * np.outer(direction, direction) / (direction @ direction)
    found: Array = draw.normal(size=(samples, size)) @ (reflection * np.sqrt(eigenvalues)) @ reflection
    return found


def _orthogonal(draw: np.random.Generator, size: int) -> Array:
    """Uniform."""
    q, r = np.linalg.qr(draw.normal(size=(size, size)))
    found: Array = q * np.sign(np.diag(r))
    return found


@final
@dataclasses.dataclass(kw_only=True)
class StochasticQuadratic(Problem):
    """Exact, for tests and audits: `y_star(x)`, `hypergradient(x)`, `x_star` (dim_x,)."""

    label = "Stochastic quadratic"
    reference = "Dagréou, Moreau, Vaiter and Ablin 2024"
    objective = "gradient_norm_squared"
    headline = "gradient_norm_squared"
    metric_names = {
        "value_function": Metric("upper loss at the lower solution, L(x)", "L(x)"),
        "gradient_norm_squared": Metric("squared norm of the gradient of L", "Sq. gradient"),
    }
    default_budget, default_trials = 1_300_000, 16  # ours; as many trials as its grid has points
    dtype = torch.float64

    upper_dim: int = option("dim_x", default=10)
    lower_dim: int = option("dim_y", default=100)
    lower_samples: int = option("lower examples, at least twice dim_y", default=32768)
    upper_samples: int = option("upper examples", default=1024)
    curvature: float = option("least eigenvalue of the expected Hessians, above 0, at most 1", default=0.1)
    coupling: float = option("size of the expected cross derivatives, above 0", default=0.1)

    def setup(self, data_dir: Path | None, data_seed: int, device: torch.device, dtype: torch.dtype) -> None:
        self._check_options()
        self.dim_x, self.dim_y = self.upper_dim, self.lower_dim
        self.lower_examples, self.upper_examples = self.lower_samples, self.upper_samples
        for attempt in range(ATTEMPTS):
            g, f = (
                Level.make(
                    self._parts(generator(data_seed, "stochastic_quadratic", level, attempt), samples),
                    device,
                    dtype,
                )
                for level, samples in (("lower", self.lower_samples), ("upper", self.upper_samples))
            )
            if self._solve(g, f):
                return
        raise HarnessError(
            f"stochastic_quadratic: L is not strictly convex in any of {ATTEMPTS} draws; "
            "take a smaller coupling or more samples"
        )

    def _check_options(self) -> None:
        if not 0 < self.curvature <= 1:
            raise HarnessError(
                f"stochastic_quadratic: curvature must be above 0 and at most 1, but got {self.curvature:g}"
            )
        if not self.coupling > 0:
            raise HarnessError(f"stochastic_quadratic: coupling must be above 0, but got {self.coupling:g}")
        least = {"upper_dim": 2, "lower_dim": 2, "lower_samples": 2 * self.lower_dim, "upper_samples": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if value < bound:
                raise HarnessError(f"stochastic_quadratic: {name} must be at least {bound}, but got {value}")

    def _parts(self, draw: np.random.Generator, samples: int) -> list[Array]:
        """The examples of one level, in the order of `Rows`."""
        rank = min(self.dim_x, self.dim_y)
        a = _gaussian(draw, samples, np.geomspace(self.curvature, 1, self.dim_y))
        b = _gaussian(draw, samples, np.r_[0, np.geomspace(self.curvature, 1, self.dim_x - 1)])
        left, right = _orthogonal(draw, self.dim_x), _orthogonal(draw, self.dim_y)
        n = draw.normal(size=(samples, self.dim_y))
        c = (n[:, :rank] * np.geomspace(self.curvature, self.coupling, rank)) @ left[:, :rank].T
        p, q = (draw.normal(size=(samples, size)) for size in (self.dim_y, self.dim_x))
        return [a, n @ right.T, p, b, c, q]

    def _solve(self, g: Level, f: Level) -> bool:
        """L(x) = 1/2 x^T Q x + r^T x + s, and whether it is strictly convex."""
        slope, at_0 = -torch.linalg.solve(g.h, g.c.T), -torch.linalg.solve(g.h, g.p)
        mixed = f.c @ slope
        q = slope.T @ f.h @ slope + f.b + mixed + mixed.T
        r = slope.T @ (f.h @ at_0 + f.p) + f.c @ at_0 + f.q
        self._g, self._f, self._slope, self._at_0 = g, f, slope, at_0
        self._q, self._r, self._s = (q + q.T) / 2, r, (f.h @ at_0 / 2 + f.p) @ at_0
        if float(torch.linalg.eigvalsh(self._q)[0]) < LEAST_CURVATURE:
            return False
        self.x_star = -torch.linalg.solve(self._q, r)
        return True

    def memory(self, pack: int, batch_size: int | None) -> int:
        """The tables, three times over while they are drawn, the rows of a mini-batch, and its products."""
        width, examples = 3 * (self.dim_x + self.dim_y), self.lower_examples + self.upper_examples
        drawn = examples if batch_size is None else 2 * min(batch_size, self.lower_examples)
        own = 4 * drawn + 6 * self.dim_x + self.dim_y * (2 * self.dim_y + 12)
        return 8 * (3 * width * examples + width * drawn + pack * own)

    def initial(self, seed: int) -> tuple[Tensor, Tensor]:
        """The same for every seed."""
        return torch.full((self.dim_x,), START, dtype=torch.float64), torch.zeros(self.dim_y).double()

    # --- exact

    def y_star(self, x: Tensor) -> Tensor:
        """The lower solutions (N, dim_y) of x (N, dim_x)."""
        found: Tensor = x @ self._slope.T + self._at_0
        return found

    def hypergradient(self, x: Tensor) -> Tensor:
        """grad L, shape (N, dim_x)."""
        found: Tensor = x @ self._q + self._r
        return found

    # --- losses of one trial

    def _losses(self, level: Level, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        some = level.rows(rows)
        squares = ((some.a @ y) ** 2 + (some.b @ x) ** 2) / 2
        return squares + (some.c @ x) * (some.e @ y) + some.p @ y + some.q @ x

    def lower_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return self._losses(self._g, x, y, rows)

    def upper_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return self._losses(self._f, x, y, rows)

    # --- closed forms for N trials: one gather and wide products serve all

    def lower_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        return self._g.by_y(self._g.of(batch), x, y, batch)

    def joint_lower_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        rows = self._g.of(batch)
        return self._g.by_x(rows, x, y, batch), self._g.by_y(rows, x, y, batch)

    def upper_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        rows = self._f.of(batch)
        return self._f.by_x(rows, x, y, batch), self._f.by_y(rows, x, y, batch)

    def hessian_vector(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        rows = self._g.of(batch)
        return v @ self._g.h if rows is None else by_share(v @ rows.a.T, batch) @ rows.a

    def cross(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        rows = self._g.of(batch)
        return v @ self._g.c.T if rows is None else by_share(v @ rows.e.T, batch) @ rows.c

    def lower_value(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        return self._g.value(x, y, batch)

    def upper_value(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        return self._f.value(x, y, batch)

    def hessian(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        rows = self._g.of(batch)
        if rows is None:
            return self._g.h.repeat(len(y), 1, 1)
        return self._sum_of_products(rows.a, rows.a, y, batch)

    def cross_matrix(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        rows = self._g.of(batch)
        if rows is None:
            return self._g.c.repeat(len(y), 1, 1)
        return self._sum_of_products(rows.c, rows.e, y, batch)

    def _sum_of_products(self, left: Tensor, right: Tensor, y: Tensor, batch: Batch) -> Tensor:
        """The means of left right^T over the draws of N trials, shape (N, ., .)."""
        weights = batch.weights(y)
        if weights is None:
            return (left.T @ right / len(left)).repeat(len(y), 1, 1)
        return (left.T * weights.unsqueeze(1)) @ right

    # --- metrics and evaluation

    def evaluate_pack(self, x: Tensor, y: Tensor) -> list[dict[str, float]]:
        """Whatever y is."""
        gradient = self.hypergradient(x)
        values = ((gradient + self._r) * x).sum(1) / 2 + self._s
        found = torch.stack([values, (gradient**2).sum(1)], 1)
        return [dict(zip(self.metric_names, row, strict=True)) for row in found.tolist()]

    def evaluate(self, x: Tensor, y: Tensor) -> dict[str, float]:
        return self.evaluate_pack(x.unsqueeze(0), y.unsqueeze(0))[0]

    def metrics(self, x: Tensor, y: Tensor) -> list[dict[str, float]]:
        """The evaluation's."""
        return self.evaluate_pack(x, y)
