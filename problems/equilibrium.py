"""An equilibrium model: a classifier on features that are the fixed point of a layer, example by example.

With images X_i in [0, 1]^p, labels l_i of c classes, n training examples:

    minimise over x = (theta, b, A, B, a) in Lambda   f = 1/n sum_i CE(theta w_i + b, l_i)
    w_i = Phi_i(x, w_i) = tanh(A w_i + B X_i + a) in R^d,   one per example
    Lambda = { |theta_jk| <= 1, ||A||_2 <= 1/2 },   so that Phi_i is a contraction of constant 1/2

x (c d + c + d^2 + d p + d,): theta, b, A, B, a, row by row, one after the other. y: the w_i of a mini-batch.
With S_i = (1 - Phi_i^2) * v_i, entry by entry, and r_i = softmax(theta w_i + b) - e_{l_i}:

    (I - d_y Phi)^T v = v_i - A^T S_i,   -(d_x Phi)^T v = -(0, 0, sum S_i w_i^T, sum S_i X_i^T, sum S_i)
    d_y f = theta^T r_i / n,             d_x f = (sum r_i w_i^T, sum r_i, 0, 0, 0) / n

Evaluation: on `evaluation_examples` training examples and all test examples, w by 20 lower steps from 0
and z by 20 system steps from -d_y f, all of size 1, so both to about 1e-6; then the norm of the
proximal-gradient map x - P(x - grad f(x)), loss and accuracy. There is no validation set; a study selects
by the training loss, which is the upper objective: the map is small where tanh saturates, too.

Reference: R. Grazzi, M. Pontil, S. Salzo, JMLR 24(167), 2023, Section 7.1.
Differs from the paper (as the published code, CSML-IIT-UCL/bioptexps, does): f is a mean, not a sum;
the evaluation takes 10 000 of the training examples, not all (`evaluation_examples`). Differs from the
code: the norm of the map is reported, not its square; the evaluation starts from 0 after a warm-started
method too; A is clipped without a singular value decomposition (`clip_spectrum`).
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from harness.api import Batch, HarnessError, Metric, Problem, generator, option
from problems._images import CLASSES, DATASETS, read_levels
from problems._last import Last

CONTRACTION = 0.5
ACCURATE_STEPS = 20
DEVIATION = 0.01  # of the entries of theta, A, B and a at the start
BLOCK = 1000  # examples evaluated together: small enough that their features stay in cache
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}  # of the spectral norm, relative


class Parts(NamedTuple):
    """x, or a gradient in x, of N trials: theta (N, c, d), b (N, c), A (N, d, d), B (N, d, p), a (N, d)."""

    theta: Tensor
    b: Tensor
    A: Tensor
    B: Tensor
    a: Tensor


def clip_spectrum(matrices: Tensor, bound: float) -> Tensor:
    """The nearest matrices (N, d, d) with no singular value above `bound`; one by one.

    ||M||_2 <= bound (1 + TOLERANCE) where the square of the right side times I, less M^T M, has a Cholesky
    factor; such an M is given back as it is. Otherwise, with M^T M = V diag(s^2) V^T,
    M - M V diag(max(1 - bound / s, 0)) V^T, put to the same test again: so the result always passes it, and
    projecting it again changes no bit. In float64 on the tensors' device; off the exact projection by
    TOLERANCE of the bound, and in float64 by 1e-16 (||M|| / bound)^2 where that is more.
    """
    exact = matrices.double()
    gram = exact.mT @ exact
    limit = (bound * (1 + TOLERANCE[matrices.dtype])) ** 2
    failed = (
        torch.linalg.cholesky_ex(
            limit * torch.eye(len(gram[0]), dtype=gram.dtype, device=gram.device) - gram
        ).info
        > 0
    )
    outside = failed & torch.isfinite(gram).flatten(1).all(1)  # a diverged trial is not ours to mend
    if not outside.any():
        return matrices
    squares, v = torch.linalg.eigh(gram[outside])
    shrunk = (1 - bound / squares.clamp(min=bound**2).sqrt()).unsqueeze(1)
    clipped = matrices.clone()
    clipped[outside] = (exact[outside] - exact[outside] @ (v * shrunk) @ v.mT).to(matrices.dtype)
    return clip_spectrum(clipped, bound)


def onto_l1_ball(rows: Tensor) -> Tensor:
    """The nearest vectors, along the last axis, of absolute sum at most 1: a soft threshold."""
    magnitudes = rows.abs()
    sums = magnitudes.sort(-1, descending=True).values.cumsum(-1)
    places = torch.arange(1, rows.shape[-1] + 1, dtype=rows.dtype, device=rows.device)
    threshold = ((sums - 1) / places).amax(-1, keepdim=True).clamp(min=0)
    return rows.sign() * (magnitudes - threshold).clamp(min=0)


@final
@dataclasses.dataclass(kw_only=True)
class Equilibrium(Problem):
    label = "Equilibrium model"
    reference = "Grazzi, Pontil and Salzo 2023, Section 7.1"
    objective = "train_loss"
    headline = "test_accuracy"
    metric_names = {
        "train_loss": Metric("training loss", "Train loss"),
        "train_accuracy": Metric("training accuracy (%)", "Train", "higher"),
        "test_loss": Metric("test loss", "Test loss"),
        "test_accuracy": Metric("test accuracy (%)", "Test", "higher"),
        "prox_map_norm": Metric("norm of the proximal-gradient map", "Prox map"),
    }
    default_budget, default_trials = 60_000_000, 20  # the paper's upper iterations of BSGM at 600 examples
    by_example = True

    dataset: str = option("which images", default="mnist", choices=DATASETS)
    width: int = option("d: features of an example", default=200)
    theta_bound: str = option(
        "|theta|_inf <= 1: entry by entry as in the published code, or of the rows' absolute sums, the "
        "operator norm that the paper's notation allows",
        default="entrywise",
        choices=("entrywise", "row_sums"),
    )
    evaluation_examples: int = option(
        "training examples of the evaluation: code 10 000, paper all 60 000", default=10_000
    )
    curve_examples: int = option(
        "how many of these, and of the test examples, a point of a curve takes", default=1000
    )

    def setup(self, data_dir: Path | None, data_seed: int, device: torch.device, dtype: torch.dtype) -> None:
        """Test images after training images, as rows n, n + 1, ... The evaluation examples are drawn by
        `data_seed`."""
        for name in ("width", "evaluation_examples", "curve_examples"):
            if getattr(self, name) < 1:
                raise HarnessError(f"equilibrium: {name} must be at least 1, but got {getattr(self, name)}")
        split = np.random.RandomState(data_seed)
        (train, labels, test, test_labels), white = read_levels(self.dataset, data_dir, split)
        n, size, self.pixels = len(train), len(train) + len(test), train.shape[1]
        self._images = torch.empty(size, self.pixels, dtype=dtype, device=device)
        for part, levels in ((self._images[:n], train), (self._images[n:], test)):
            part.copy_(torch.tensor(levels)).div_(float(white))
        numbers = np.concatenate([labels, test_labels]).astype(np.int64)
        self._labels = torch.from_numpy(numbers).to(device)
        drawn = generator(data_seed, "evaluation").permutation(n)[: self.evaluation_examples]
        self._evaluation = torch.from_numpy(drawn).to(device)
        self._test = torch.arange(n, size, device=device)
        d, c = self.width, CLASSES
        self._shapes = ((c, d), (c,), (d, d), (d, self.pixels), (d,))
        self.dim_x, self.dim_y = sum(int(np.prod(shape)) for shape in self._shapes), d
        self.lower_examples = self.upper_examples = n
        products = 2 * ACCURATE_STEPS + 2
        self.evaluation_samples = products * len(drawn) + ACCURATE_STEPS * len(self._test)
        self._injections, self._slopes = Last(), Last()

    def memory(self, pack: int, batch_size: int | None) -> int:
        """Images, and per trial six arrays as large as the features of a mini-batch."""
        drawn = self.lower_examples if batch_size is None else min(batch_size, self.lower_examples)
        working = 6 * self.dim_x + 6 * drawn * self.dim_y
        return self._images.itemsize * (self._images.numel() + pack * working)

    def initial(self, seed: int) -> tuple[Tensor, Tensor]:
        """theta, A, B and a normal of deviation 0.01, b = 0; w = 0."""
        x = DEVIATION * torch.from_numpy(generator(seed, "initial").standard_normal(self.dim_x))
        self._parts(x).b.zero_()
        return x, torch.zeros(self.dim_y)

    def _parts(self, x: Tensor) -> Parts:
        """Views of x (..., dim_x)."""
        parts = torch.split(x, [int(np.prod(shape)) for shape in self._shapes], dim=-1)
        shaped = zip(parts, self._shapes, strict=True)
        return Parts(*(part.view(part.shape[:-1] + shape) for part, shape in shaped))

    # --- losses of one trial

    def lower_map(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        _, _, A, B, a = self._parts(x)
        return torch.tanh(y.view(len(rows), -1) @ A.T + self._images[rows] @ B.T + a)

    def upper_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        theta, b, _, _, _ = self._parts(x)
        logits = y.view(len(rows), -1) @ theta.T + b
        return cross_entropy(logits, self._labels[rows], reduction="none")

    # --- closed forms for N trials

    def _features(self, y: Tensor) -> Tensor:
        """w (N, B, d)."""
        return y.view(len(y), -1, self.width)

    def _batch_images(self, batch: Batch, trials: int) -> Tensor:
        """X (N, B, p), the same for all trials."""
        n = self.lower_examples
        images = self._images[:n] if batch.full else self._images.index_select(0, batch.rows)
        return images.expand(trials, -1, -1)

    def _map(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        """Phi (N, B, d). B X_i + a, most of its cost, is computed once per upper iteration."""
        _, _, A, B, a = self._parts(x)

        def injection() -> Tensor:
            return torch.baddbmm(a.unsqueeze(1), self._batch_images(batch, len(x)), B.mT)

        held = self._injections.get(injection, batch.rows, x)
        return torch.baddbmm(held, self._features(y), A.mT).tanh_()

    def _through_tanh(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        """S = (1 - Phi^2) * v, shape (N, B, d). All products of a system share 1 - Phi^2."""

        def slope() -> Tensor:
            return self._map(x, y, batch).square_().neg_().add_(1)

        return self._features(v) * self._slopes.get(slope, batch.rows, x, y)

    def lower_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        return y - self._map(x, y, batch).flatten(1)

    def hessian_vector(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        s = self._through_tanh(x, y, v, batch)
        return torch.baddbmm(self._features(v), s, self._parts(x).A, alpha=-1).flatten(1)

    def cross(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        s = self._through_tanh(x, y, v, batch)
        product = torch.zeros_like(x)
        parts = self._parts(product)
        parts.A.baddbmm_(s.mT, self._features(y), alpha=-1)
        parts.B.baddbmm_(s.mT, self._batch_images(batch, len(x)), alpha=-1)
        parts.a.sub_(s.sum(1))
        return product

    def upper_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        w, theta = self._features(y), self._parts(x).theta
        r = torch.softmax(self._logits(x, w), 1).sub_(one_hot(self._labels[batch.rows], CLASSES).T)
        r.div_(len(batch.rows))
        by_x = torch.zeros_like(x)
        parts = self._parts(by_x)
        parts.theta.baddbmm_(r, w)
        parts.b.add_(r.sum(2))
        return by_x, torch.bmm(r.mT, theta).flatten(1)

    def _logits(self, x: Tensor, w: Tensor) -> Tensor:
        """theta w_i + b, shape (N, c, B): the classes come first, so that softmax vectorises."""
        theta, b, _, _, _ = self._parts(x)
        return torch.baddbmm(b.unsqueeze(2), theta, w.mT)

    def project(self, x: Tensor) -> Tensor:
        theta, b, A, B, a = self._parts(x)
        theta = theta.clamp(-1, 1) if self.theta_bound == "entrywise" else onto_l1_ball(theta)
        projected = Parts(theta, b, clip_spectrum(A, CONTRACTION), B, a)
        return torch.cat([part.flatten(1) for part in projected], 1)

    # --- metrics and evaluation

    def metrics(self, x: Tensor, y: Tensor) -> list[dict[str, float]]:
        """The evaluation on `curve_examples` training and test examples, whatever y is: 62 sample gradients
        each, about 0.1 s of one core for a thousand."""
        return self._measure(x, self._evaluation[: self.curve_examples], self._test[: self.curve_examples])

    def evaluate(self, x: Tensor, y: Tensor) -> dict[str, float]:
        return self.evaluate_pack(x.unsqueeze(0), y.unsqueeze(0))[0]

    def evaluate_pack(self, x: Tensor, y: Tensor) -> list[dict[str, float]]:
        return self._measure(x, self._evaluation, self._test)

    def part_of_evaluation(self, x: Tensor, y: Tensor) -> float:
        some = slice(min(BLOCK, len(self._evaluation), len(self._test)))
        self._measure(x, self._evaluation[some], self._test[some])
        return 2 * len(self._test[some]) / (len(self._evaluation) + len(self._test))

    def _measure(self, x: Tensor, train: Tensor, test: Tensor) -> list[dict[str, float]]:
        gradient, totals = torch.zeros_like(x), dict.fromkeys(self.metric_names, x.new_zeros(()))
        for split, examples in (("train", train), ("test", test)):
            for rows in torch.split(examples, BLOCK):
                batch, share = Batch(rows), len(rows) / len(examples)
                y = self._accurate_lower(x, batch)
                for name, mean in self._scores(x, y, rows).items():
                    totals[f"{split}_{name}"] = totals[f"{split}_{name}"] + share * mean
                if split == "train":
                    gradient.add_(self._hypergradient(x, y, batch), alpha=share)
        totals["prox_map_norm"] = torch.linalg.vector_norm(x - self.project(x - gradient), dim=1)
        found = torch.stack([*totals.values()], 1).tolist()
        return [dict(zip(totals, row, strict=True)) for row in found]

    def _accurate_lower(self, x: Tensor, batch: Batch) -> Tensor:
        y = x.new_zeros(len(x), len(batch.rows) * self.width)
        for _ in range(ACCURATE_STEPS):
            y = y - self.lower_gradient(x, y, batch)
        return y

    def _hypergradient(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        f_x, f_y = self.upper_gradient(x, y, batch)
        z = -f_y
        for _ in range(ACCURATE_STEPS):
            z = z - self.hessian_vector(x, y, z, batch) - f_y
        return f_x + self.cross(x, y, z, batch)

    def _scores(self, x: Tensor, y: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """Mean loss and accuracy in percent, shape (N,)."""
        logits, labels = self._logits(x, self._features(y)), self._labels[rows].expand(len(x), -1)
        loss = cross_entropy(logits, labels, reduction="none").mean(1)
        return {"loss": loss, "accuracy": (logits.argmax(1) == labels).to(x.dtype).mean(1) * 100}
