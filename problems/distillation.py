"""Dataset distillation: ten synthetic images, one of each class, that stand for a data set.

With training images X_i in [-1, 1]^p, labels l_i of c = 10 classes, and u_k the synthetic image of class k:

    minimise over x = (u, lambda)   f = mean over training images of CE(W X_i, l_i)
    W(x) = argmin g = 1/c sum_k CE(W u_k, k) + rho/2 sum_j exp(lambda_j) |W_.j|^2,   W in R^{c x p}

W is a linear classifier that learns from the u_k alone; g has c examples, f all training images.
x (c p + p,): the images, one after the other, then lambda; y (c p,): W, class by class. With b examples in a
batch, P_k = softmax(W u_k), r_k = P_k - e_k, S_k = diag(P_k) - P_k P_k^T and D = rho diag(exp(lambda)):

    d_W g = sum_k r_k u_k^T / b + W D                         H V = sum_k S_k V u_k u_k^T / b + V D
    C V = (V^T r_k + W^T S_k V u_k) / b for the images,       D_jj <W_.j, V_.j> for lambda
    d_x g = W^T r_k / b for the images,                       D_jj |W_.j|^2 / 2 for lambda
    d_x f = 0,   d_W f = mean of (P_i - e_{l_i}) X_i^T

u ~ N(0, 1) by the seed, lambda = 0, y0 = 0. Evaluation: of the current W as the method holds it, as in the
paper, or (`judged` = trained) of W(x), exact (`lower_solution`), and the condition number of H there, exact
too (`condition_number`). The former judges a method whose W is not near W(x) by what its x does not do: the W
of a penalty method is fitted to the training images themselves.

Reference: M. Arbel, J. Mairal, "Amortized Implicit Differentiation for Stochastic Bilevel Optimization",
ICLR 2022, Section 5.3 and Appendix F.3.
Differs from the paper: rho = 1 / (c p), as in the published code (MichaelArbel/AmIGO), is half of what the
paper prints (`regulariser`), and gives the condition number of order 7e4 that it states. Pixels in [-1, 1]
and u ~ N(0, 1) are the code's; the paper says neither. Differs from the code: float32, not float64.
"""

import dataclasses
import math
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from harness.api import Batch, Metric, Problem, generator, option
from problems._images import CLASSES, DATASETS, Array, read

BLOCK = 2000  # images whose logits stay in cache between two products
PRECISION = 1e-12  # relative, of the largest eigenvalue
NEWTON_STEPS = 100  # some twenty are taken
SHARES = [0.5**halved for halved in range(20)]  # of a step


class Images(NamedTuple):
    """Images (n, p), labels (n,)."""

    pixels: Tensor
    labels: Tensor

    @classmethod
    def make(cls, images: Array, labels: Array, device: torch.device, dtype: torch.dtype) -> "Images":
        pixels = torch.as_tensor(2 * images - 1).to(device, dtype)
        return cls(pixels, torch.as_tensor(labels.astype(np.int64)).to(device))

    def blocks(self) -> list["Images"]:
        parts = zip(torch.split(self.pixels, BLOCK), torch.split(self.labels, BLOCK), strict=True)
        return [Images(*part) for part in parts]


class Parts(NamedTuple):
    """x, or a gradient in x, of N trials: images (N, c, p), logarithms (N, p)."""

    images: Tensor
    logarithms: Tensor


def condition_number(images: Tensor, curvature: Tensor, w: Tensor) -> float:
    """Of H for one trial: images (c, p), curvature (p,) of the regulariser, w (c, p).

    H = D + F F^T, D the curvature, the same for every class, and F the matrices (R_k kron u_k) / sqrt(c) side
    by side, S_k = R_k R_k^T with R_k = diag(s) - P_k s^T, s = sqrt(P_k). S_k annuls the vector of ones, so
    one number for all classes at pixel j, 0 elsewhere, is an eigenvector, with eigenvalue D_jj: the least
    eigenvalue of H is the least curvature. The largest is the mu at which the largest eigenvalue of
    F^T (mu - D)^-1 F, which is of order c^2 and falls in mu, is 1; or the largest curvature, if that
    eigenvalue is below 1 from there on."""
    from scipy.optimize import brentq

    u, d, w = (value.to("cpu", torch.float64) for value in (images, curvature, w))
    p = torch.softmax(u @ w.T, 1)
    if not (torch.isfinite(d).all() and torch.isfinite(p).all() and d.min() > 0):
        return math.inf
    roots = torch.diag_embed(p.sqrt()) - p.unsqueeze(2) * p.sqrt().unsqueeze(1)
    pairs = torch.einsum("kxa,lxb->kalb", roots, roots) / len(u)

    def top(scaled: Tensor) -> float:
        """The largest eigenvalue of F^T diag(scales) F, from the scaled images."""
        blocks = pairs * (scaled @ u.T)[:, None, :, None]
        return float(torch.linalg.eigvalsh(blocks.reshape(len(u) * len(w), -1))[-1])

    def excess(mu: float) -> float:
        return top(u / (mu - d)) - 1

    low = float(d.max()) * (1 + PRECISION)
    high = low + 2 * top(u)
    largest = brentq(excess, low, high, xtol=PRECISION * high, rtol=PRECISION) if excess(low) > 0 else low
    return float(largest) / float(d.min())


def lower_solution(images: Tensor, curvature: Tensor) -> Tensor:
    """W(x) for one trial, shape (c, p): images (c, p), curvature (p,) of the regulariser.

    Where d_W g = 0, W = B^T U D^-1 with rows B_k = -r_k / c: ten vectors of ten numbers. With K = U D^-1 U^T
    they are where F(B) = B + (softmax(K B) - I) / c = 0: found by Newton's method, whose steps are halved
    until |F| falls, to rounding. Infinite where the regulariser vanishes and x has no such W."""
    u, d = (value.to("cpu", torch.float64) for value in (images, curvature))
    c = len(u)
    right, kernel = torch.eye(c, dtype=u.dtype), (u / d) @ u.T
    if not torch.isfinite(kernel).all():
        return torch.full_like(images, math.inf)

    def residual(b: Tensor) -> tuple[Tensor, Tensor]:
        """F(B), and softmax(K B)."""
        logs = torch.log_softmax(kernel @ b, 1)
        less = torch.where(right > 0, torch.expm1(logs), logs.exp())  # softmax - I, p - 1 to all its digits
        return b + less / c, logs.exp()

    b = torch.zeros_like(right)
    f, p = residual(b)
    for _ in range(NEWTON_STEPS):
        bends = (torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)) / c
        crossed = torch.einsum("kab,kl->kalb", bends, kernel).reshape(c * c, -1)
        step = -torch.linalg.solve(torch.eye(c * c, dtype=u.dtype) + crossed, f.flatten()).view_as(b)
        for length in SHARES:
            there = residual(b + length * step)
            if there[0].norm() < (1 - length / 4) * f.norm():
                break
        else:
            break
        b, (f, p) = b + length * step, there
    return (b.T @ (u / d)).to(images)


@final
@dataclasses.dataclass(kw_only=True)
class Distillation(Problem):
    label = "Dataset distillation"
    reference = "Arbel and Mairal 2022, Section 5.3"
    objective = "train_loss"
    headline = "test_accuracy"
    metric_names = {
        "train_loss": Metric("training loss", "Train loss"),
        "train_accuracy": Metric("training accuracy (%)", "Train", "higher"),
        "test_accuracy": Metric("test accuracy (%)", "Test", "higher"),
        "condition": Metric("condition number of the lower Hessian", "Condition"),
    }
    default_budget, default_trials = 12_440_000, 20  # as many upper iterations of AmIGO-CG as there

    dataset: str = option("which images", default="mnist", choices=DATASETS)
    regulariser: str = option(
        "rho: 1 / (c p) as in the published code, twice that as in the paper",
        default="code",
        choices=("code", "paper"),
    )
    judged: str = option(
        "whose final scores: of the W that the method holds, or of one trained at its x",
        default="held",
        choices=("held", "trained"),
    )

    def setup(self, data_dir: Path | None, data_seed: int, device: torch.device, dtype: torch.dtype) -> None:
        """data_seed: draws the test fifth of the digits; the other sets come with their split."""
        images, labels, test, test_labels = read(self.dataset, data_dir, np.random.RandomState(data_seed))
        self._train = Images.make(images, labels, device, dtype)
        self._test = Images.make(test, test_labels, device, dtype)
        self.pixels, self.classes = int(images.shape[1]), CLASSES
        self._onehot = torch.eye(CLASSES, dtype=dtype, device=device)
        self.dim_x, self.dim_y = (CLASSES + 1) * self.pixels, CLASSES * self.pixels
        self.lower_examples, self.upper_examples = CLASSES, len(images)
        self._rho = (1 if self.regulariser == "code" else 2) / self.dim_y

    def memory(self, pack: int, batch_size: int | None) -> int:
        """Images, three times over while they are read; per trial the logits of a block, and small vectors.
        A mini-batch of images is cut out once."""
        images = 4 * self.pixels * (self.upper_examples + len(self._test.labels))
        return 3 * images + 4 * pack * (6 * self.dim_x + 12 * self.dim_y + 4 * BLOCK * self.classes)

    def initial(self, seed: int) -> tuple[Tensor, Tensor]:
        images = torch.from_numpy(generator(seed, "distillation").normal(size=self.dim_y))
        return torch.cat([images, torch.zeros(self.pixels).double()]), torch.zeros(self.dim_y)

    # --- losses of one trial

    def lower_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        images, logarithms = x[: self.dim_y].view(self.classes, -1), x[self.dim_y :]
        w = y.view(self.classes, -1)
        losses = cross_entropy(images[rows] @ w.T, rows, reduction="none")
        return losses + self._rho / 2 * (logarithms.exp() * w * w).sum()

    def upper_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        logits = self._train.pixels[rows] @ y.view(self.classes, -1).T
        return cross_entropy(logits, self._train.labels[rows], reduction="none")

    # --- closed forms for N trials

    def _parts(self, x: Tensor) -> Parts:
        return Parts(x[:, : self.dim_y].view(len(x), self.classes, -1), x[:, self.dim_y :])

    def _curvature(self, x: Tensor) -> Tensor:
        """Of the regulariser, shape (N, 1, p)."""
        return (self._parts(x).logarithms.exp() * self._rho).unsqueeze(1)

    def _matrices(self, y: Tensor) -> Tensor:
        return y.view(len(y), self.classes, -1)

    def _shares(self, like: Tensor, batch: Batch) -> Tensor | float:
        """Of each example in the mean: a number, or (N, b)."""
        weights = batch.weights(like)
        return 1 / len(batch.rows) if weights is None else weights

    def _residuals(self, w: Tensor, u: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """P (N, b, c) and r times the shares, shape (N, b, c), on images u (N, b, p)."""
        p = torch.softmax(torch.bmm(u, w.mT), 2)
        return p, _times(p - self._onehot[batch.rows], self._shares(w, batch))

    def lower_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        w, u = self._matrices(y), self._parts(x).images[:, batch.rows]
        _, r = self._residuals(w, u, batch)
        return torch.baddbmm(self._curvature(x) * w, r.mT, u).flatten(1)

    def joint_lower_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        w, u = self._matrices(y), self._parts(x).images[:, batch.rows]
        _, r = self._residuals(w, u, batch)
        by_x = torch.zeros_like(x)
        parts = self._parts(by_x)
        parts.images[:, batch.rows] = torch.bmm(r, w)
        curvature = self._curvature(x)
        parts.logarithms.copy_((curvature * w * w).sum(1) / 2)
        return by_x, torch.baddbmm(curvature * w, r.mT, u).flatten(1)

    def _bent(self, p: Tensor, v: Tensor, u: Tensor, batch: Batch) -> Tensor:
        """S_k V u_k times the shares, shape (N, b, c)."""
        t = torch.bmm(u, v.mT)
        return _times(p * (t - (p * t).sum(2, keepdim=True)), self._shares(v, batch))

    def hessian_vector(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        w, v, u = self._matrices(y), self._matrices(v), self._parts(x).images[:, batch.rows]
        p = torch.softmax(torch.bmm(u, w.mT), 2)
        return torch.baddbmm(self._curvature(x) * v, self._bent(p, v, u, batch).mT, u).flatten(1)

    def cross(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        """Synthetic images that are not in the batch get none."""
        w, v, u = self._matrices(y), self._matrices(v), self._parts(x).images[:, batch.rows]
        p, r = self._residuals(w, u, batch)
        product = torch.zeros_like(x)
        parts = self._parts(product)
        parts.images[:, batch.rows] = torch.baddbmm(torch.bmm(r, v), self._bent(p, v, u, batch), w)
        parts.logarithms.copy_((self._curvature(x) * w * v).sum(1))
        return product

    def _drawn(self, batch: Batch) -> list[Images]:
        """The images of an upper batch, in blocks."""
        if batch.full:
            return self._train.blocks()
        pixels = self._train.pixels.index_select(0, batch.rows)
        return Images(pixels, self._train.labels.index_select(0, batch.rows)).blocks()

    def upper_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """d_x f = 0, as (1, 1). One wide product on shared images serves all trials."""
        total = torch.zeros_like(y).view(-1, self.pixels)
        shares = self._shares(y, batch)
        first = 0
        for block in self._drawn(batch):
            r = torch.softmax(self._logits(y, block), 1)
            r -= one_hot(block.labels, self.classes).T.to(r.dtype)
            r *= shares if isinstance(shares, float) else shares[:, None, first : first + len(block.labels)]
            total.addmm_(r.flatten(0, 1), block.pixels)
            first += len(block.labels)
        return y.new_zeros(1, 1), total.view_as(y)

    def _logits(self, y: Tensor, images: Images) -> Tensor:
        """Shape (N, c, n): the classes first, so that softmax runs over an axis that vectorises."""
        return (y.view(-1, self.pixels) @ images.pixels.T).view(len(y), self.classes, -1)

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropies (N, n)."""
        right = logits.gather(1, labels.expand(len(logits), 1, -1)).squeeze(1)
        return torch.logsumexp(logits, 1) - right

    def lower_value(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        w, u = self._matrices(y), self._parts(x).images[:, batch.rows]
        losses = self._losses(torch.bmm(w, u.mT), batch.rows)
        return (losses * self._shares(y, batch)).sum(1) + (self._curvature(x) * w * w).sum((1, 2)) / 2

    def upper_value(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        losses = [self._losses(self._logits(y, block), block.labels) for block in self._drawn(batch)]
        return (torch.cat(losses, 1) * self._shares(y, batch)).sum(1)

    # --- metrics and evaluation

    def metrics(self, x: Tensor, y: Tensor) -> list[dict[str, float]]:
        """All of the evaluation's but the condition number."""
        train, test = (self._scores(y, images) for images in (self._train, self._test))
        names = ("train_loss", "train_accuracy", "test_accuracy")
        rows = torch.stack([*train, test[1]], 1).tolist()
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _scores(self, y: Tensor, images: Images) -> Tensor:
        """Mean losses and accuracies in percent, shape (2, N)."""
        total = y.new_zeros(2, len(y), dtype=torch.float64)
        for block in images.blocks():
            logits = self._logits(y, block)
            total[0] += self._losses(logits, block.labels).double().sum(1)
            total[1] += 100 * (logits.argmax(1) == block.labels).double().sum(1)
        return total / len(images.labels)

    def evaluate_pack(self, x: Tensor, y: Tensor) -> list[dict[str, float]]:
        """A W(x) that is not there scores worst."""
        images, curvatures = self._parts(x).images, self._curvature(x).squeeze(1)
        if self.judged == "trained":
            solved = [lower_solution(*own) for own in zip(images, curvatures, strict=True)]
            y = torch.stack(solved).flatten(1)
        found = self.metrics(x, y)
        for row in found:
            if math.isnan(row["train_loss"]):
                row |= {"train_loss": math.inf, "train_accuracy": 0.0, "test_accuracy": 0.0}
        conditions = map(condition_number, images, curvatures, self._matrices(y))
        return [row | {"condition": number} for row, number in zip(found, conditions, strict=True)]

    def evaluate(self, x: Tensor, y: Tensor) -> dict[str, float]:
        return self.evaluate_pack(x.unsqueeze(0), y.unsqueeze(0))[0]


def _times(value: Tensor, shares: Tensor | float) -> Tensor:
    """value (N, b, c) times the share of each example."""
    return value * shares if isinstance(shares, float) else value * shares.unsqueeze(2)
