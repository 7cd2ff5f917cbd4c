"""AmIGO's synthetic problem: quadratic upper and lower losses with known conditioning and exact solutions.

With A_f (d_x, d_x) and A_g (d_y, d_y) symmetric positive definite, B_g (d_y, d_x) and C_f (d_y,):

    f(x, y) = 1/2 x^T A_f x + y^T C_f + constant,    g(x, y) = 1/2 y^T A_g y + y^T B_g x

so that, with B_g = A_g^T U and L(x) = f(x, y*(x)),

    y*(x) = -U x,   z* = -A_g^-1 C_f,   grad L(x) = A_f (x - x*),   x* = A_f^-1 U^T C_f,
    L(x) - L* = 1/2 (x - x*)^T A_f (x - x*),   and the constant makes L* = 0.

z* does not depend on x, nor y*(x) on the conditioning. Spectra lie in [1/kappa, 1] and touch both ends:
those of R R^T for a square Gaussian R, the least eigenvalue moved to 0, scaled and shifted; kappa = 1 gives
the identity. So L = L_g = 1. U and C_f are standard normal. All trials start at x0 = y0 = 1e-8.

The stochastic sibling (`samples` = n > 1 and `noise` = s > 0) is a sum over n examples at each level:

    g_i = (1 + a_i) 1/2 y^T A_g y + (1 + b_i) y^T B_g x + e_i^T y
    f_j = (1 + c_j) 1/2 x^T A_f x + p_j^T x + (C_f + q_j)^T y + constant

Over the examples each of a, b, c and each coordinate of e, p, q has mean 0 and variance s^2, and a, b and c
are uncorrelated with all else of their level. So the means are the problem above, all solutions stay
exact, and the variance of the derivatives of one example, summed over coordinates, is

    d_y g: s^2 (|A_g y|^2 + |B_g x|^2 + d_y)      H v: s^2 |A_g v|^2      C v: s^2 |B_g^T v|^2
    d_x f: s^2 (|A_f x|^2 + d_x)                  d_y f: s^2 d_y

and that of the mean of a mini-batch of b examples (n - b) / (b (n - 1)) times as much.

Reference: M. Arbel, J. Mairal, "Amortized Implicit Differentiation for Stochastic Bilevel Optimization",
ICLR 2022, Section 5.1 and Appendix F.1.
Differs from the paper: it does not say how the matrices are drawn, which follows the published code
(MichaelArbel/AmIGO) but for two things: that code makes 99 eigenvalues of A_g exactly 0, where the paper has
a condition number; and it adds 1/2 x^T Q x to g, which changes no derivative that a method takes. The
stochastic sibling is ours.
"""

import dataclasses
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from harness.api import Batch, HarnessError, Metric, Problem, generator, option

START = 1e-8  # every entry of x0 and y0
FEWEST_NOISY = 4  # examples that leave room for noise uncorrelated with two factors and the mean


def _definite(draw: np.random.Generator, size: int, condition: float) -> Tensor:
    """A symmetric matrix with spectrum in [1 / condition, 1], both ends included."""
    root = torch.from_numpy(draw.normal(size=(size, size)))
    values, vectors = torch.linalg.eigh(root @ root.T)
    values[0] = 0
    shape = (vectors * (values / values[-1])) @ vectors.T
    shape = (shape + shape.T) / 2
    found: Tensor = (1 - 1 / condition) * shape + torch.eye(size, dtype=shape.dtype) / condition
    return found


def _zero_mean(
    draw: np.random.Generator, samples: int, factors: int, width: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Factors (samples, factors) and vectors (samples, width): every column has mean 0 and variance scale^2,
    and a factor is uncorrelated with every other column."""
    if scale == 0:
        return torch.zeros(samples, factors).double(), torch.zeros(samples, width).double()
    basis, _ = np.linalg.qr(np.column_stack([np.ones(samples), draw.normal(size=(samples, factors))]))
    vectors = draw.normal(size=(samples, width))
    vectors -= basis @ (basis.T @ vectors)
    vectors *= scale / np.sqrt((vectors**2).mean(0))
    return torch.from_numpy(basis[:, 1:] * (scale * np.sqrt(samples))), torch.from_numpy(vectors)


def _mean(table: Tensor, batch: Batch) -> Tensor:
    """The mean of a table's rows over the draws of a batch, shape (N, columns) or (1, columns)."""
    weights, rows = batch.weights(table), table[batch.rows]
    return rows.mean(0, keepdim=True) if weights is None else weights @ rows


@final
@dataclasses.dataclass(kw_only=True)
class Quadratic(Problem):
    """Exact, for tests and audits: `x_star` (dim_x,), `z_star` (dim_y,), `y_star(x)`, `hypergradient(x)`."""

    label = "Quadratic"
    reference = "Arbel and Mairal 2022, Section 5.1"
    objective = "relative_error"
    headline = "relative_error"
    metric_names = {
        "relative_error": Metric("relative error (L - L*) / (L0 - L*)", "Rel. error"),
        "distance": Metric("relative distance |x - x*| / |x0 - x*|", "Distance"),
        "gradient": Metric("relative gradient norm |grad L(x)| / |grad L(x0)|", "Gradient"),
    }
    default_budget, default_trials = 20_000, 16  # ours; the points of the paper's grid
    dtype = torch.float64

    upper_dim: int = option("dim_x", default=2000)
    lower_dim: int = option("dim_y", default=1000)
    upper_condition: float = option("kappa_L, the condition number of A_f", default=10.0)
    lower_condition: float = option("kappa_g, the condition number of A_g, 1 to 1e7", default=100.0)
    samples: int = option("examples of each level; 1: deterministic", default=1)
    noise: float = option("standard deviation of every noise term; 0: none", default=0.0)

    def setup(self, data_dir: Path | None, data_seed: int, device: torch.device, dtype: torch.dtype) -> None:
        """Each part has its own stream, so that problems that differ in conditioning share all else."""
        self._check_options()
        self.dim_x, self.dim_y = self.upper_dim, self.lower_dim
        self.lower_examples = self.upper_examples = self.samples
        parts = ("A_g", "A_f", "U", "C_f", "g", "f")
        draws = {part: generator(data_seed, "quadratic", part) for part in parts}
        a_g = _definite(draws["A_g"], self.dim_y, self.lower_condition)
        a_f = _definite(draws["A_f"], self.dim_x, self.upper_condition)
        u = torch.from_numpy(draws["U"].normal(size=(self.dim_y, self.dim_x)))
        c_f = torch.from_numpy(draws["C_f"].normal(size=self.dim_y))
        lower = _zero_mean(draws["g"], self.samples, 2, self.dim_y, self.noise)
        upper = _zero_mean(draws["f"], self.samples, 1, self.dim_x + self.dim_y, self.noise)

        def placed(value: Tensor) -> Tensor:
            return value.to(device, dtype)

        self.a_g, self.a_f, self.b_g, self.c_f = map(placed, (a_g, a_f, a_g @ u, c_f))
        self._u = placed(u)
        self.x_star = placed(torch.linalg.solve(a_f, u.T @ c_f))
        self.z_star = placed(torch.linalg.solve(a_g, -c_f))
        self._constant = 0.5 * self.x_star @ self.a_f @ self.x_star
        self._lower_factors, self._lower_vectors = map(placed, lower)
        self._upper_factors, self._upper_vectors = map(placed, upper)
        x0 = self.initial(0)[0].to(self.x_star).unsqueeze(0)
        self._at_start = self._gaps(x0)
        self._y_scale = torch.linalg.vector_norm(self.y_star(self.x_star.unsqueeze(0)))

    def _check_options(self) -> None:
        least = {"upper_dim": 2, "lower_dim": 2, "upper_condition": 1, "lower_condition": 1, "noise": 0}
        least["samples"] = FEWEST_NOISY if self.noise else 1
        for name, bound in least.items():
            value = getattr(self, name)
            if value < bound:
                why = " where there is noise" if name == "samples" and self.noise else ""
                raise HarnessError(f"quadratic: {name} must be at least {bound}{why}, but got {value:g}")

    def memory(self, pack: int, batch_size: int | None) -> int:
        """The matrices, four times over while their spectrum is made, the noise, and working vectors."""
        matrices = 4 * (self.dim_x**2 + self.dim_y**2) + 2 * self.dim_x * self.dim_y
        noise = self.samples * (self.dim_x + 2 * self.dim_y + 3)
        return 8 * (matrices + noise + pack * 6 * (self.dim_x + self.dim_y))

    def initial(self, seed: int) -> tuple[Tensor, Tensor]:
        """The same for every seed."""
        x0, y0 = (torch.full((size,), START, dtype=torch.float64) for size in (self.dim_x, self.dim_y))
        return x0, y0

    # --- exact

    def y_star(self, x: Tensor) -> Tensor:
        """The lower solutions (N, dim_y) of x (N, dim_x)."""
        return -(x @ self._u.T)

    def hypergradient(self, x: Tensor) -> Tensor:
        """grad L, shape (N, dim_x)."""
        return (x - self.x_star) @ self.a_f

    # --- losses of one trial

    def lower_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        factors = 1 + self._lower_factors[rows]
        terms = torch.stack([0.5 * y @ self.a_g @ y, y @ (self.b_g @ x)])
        return factors @ terms + self._lower_vectors[rows] @ y

    def upper_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        factors = 1 + self._upper_factors[rows].squeeze(1)
        noise = self._upper_vectors[rows] @ torch.cat([x, y])
        return factors * (0.5 * x @ self.a_f @ x) + noise + y @ self.c_f + self._constant

    # --- closed forms for N trials: one wide product serves all

    def _noisy(self, batch: Batch) -> bool:
        """Over all examples, each once, the noise is exactly zero."""
        return self.noise > 0 and not (batch.full and batch.counts is None)

    def lower_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        by_y, by_x = y @ self.a_g, x @ self.b_g.T
        if not self._noisy(batch):
            return by_y + by_x
        factors = 1 + _mean(self._lower_factors, batch)
        return factors[:, :1] * by_y + factors[:, 1:] * by_x + _mean(self._lower_vectors, batch)

    def joint_lower_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """d_x g = B_g^T y, as the cross product of y."""
        return self.cross(x, y, y, batch), self.lower_gradient(x, y, batch)

    def hessian_vector(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        product = v @ self.a_g
        if self._noisy(batch):
            product *= 1 + _mean(self._lower_factors, batch)[:, :1]
        return product

    def cross(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        product = v @ self.b_g
        if self._noisy(batch):
            product *= 1 + _mean(self._lower_factors, batch)[:, 1:]
        return product

    def upper_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        by_x, by_y = x @ self.a_f, self.c_f.repeat(len(y), 1)
        if self._noisy(batch):
            noise = _mean(self._upper_vectors, batch)
            by_x = by_x * (1 + _mean(self._upper_factors, batch)) + noise[:, : self.dim_x]
            by_y = by_y + noise[:, self.dim_x :]
        return by_x, by_y

    # --- metrics and evaluation

    def _gaps(self, x: Tensor) -> Tensor:
        """L - L*, |x - x*| and |grad L| of N trials, shape (N, 3); the first as a quadratic form, because a
        difference of losses cannot be told from 0 below 1e-16."""
        away, gradient = x - self.x_star, self.hypergradient(x)
        norms = [torch.linalg.vector_norm(v, dim=1) for v in (away, gradient)]
        return torch.stack([0.5 * (away * gradient).sum(1), *norms], 1)

    def evaluate_pack(self, x: Tensor, y: Tensor) -> list[dict[str, float]]:
        ratios = (self._gaps(x) / self._at_start).tolist()
        return [dict(zip(self.metric_names, row, strict=True)) for row in ratios]

    def evaluate(self, x: Tensor, y: Tensor) -> dict[str, float]:
        return self.evaluate_pack(x.unsqueeze(0), y.unsqueeze(0))[0]

    def metrics(self, x: Tensor, y: Tensor) -> list[dict[str, float]]:
        """The evaluation's, and how far y is from the lower solution: |y - y*(x)| / |y*(x*)|."""
        errors = torch.linalg.vector_norm(y - self.y_star(x), dim=1) / self._y_scale
        return [
            found | {"lower_error": error}
            for found, error in zip(self.evaluate_pack(x, y), errors.tolist(), strict=True)
        ]
