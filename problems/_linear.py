"""Linear classifiers W u of N trials at once, for several problems: W (N, c, p), features u of b examples.

Scores s = W u are (N, c, b): classes come before examples, so that softmax runs over an axis that vectorises.
Features that all trials share are (b, p), and one wide product serves all; a trial's own are (N, b, p).
"""

import dataclasses
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot, softplus

from harness.api import Batch

EXACT = 50.0
"""Where log(1 + exp(s)) is s to the last digit; PyTorch's own 20 leaves derivatives off by 2e-9."""


def wide_product(w: Tensor, features: Tensor) -> Tensor:
    """W u, shape (N, c, b)."""
    if features.dim() == 3:
        return torch.bmm(w, features.mT)
    return (w.flatten(0, 1) @ features.T).view(*w.shape[:2], -1)


def add_product(total: Tensor, r: Tensor, features: Tensor) -> None:
    """total (N, c, p) += r u, r (N, c, b)."""
    if features.dim() == 3:
        total.baddbmm_(r, features)
    else:
        total.view(-1, total.shape[2]).addmm_(r.flatten(0, 1), features)


def rows_product(r: Tensor, w: Tensor) -> Tensor:
    """r^T W, shape (N, b, p); of one trial by the product that it would have without a trial axis."""
    return (r[0].T @ w[0]).unsqueeze(0) if len(r) == 1 else torch.bmm(r.mT, w)


def lone(features: Tensor) -> Tensor:
    """Trials' own features (N, b, p); those of one trial as shared ones (b, p): a plain product is faster."""
    return features[0] if len(features) == 1 else features


def covariance(pi: Tensor, s: Tensor) -> Tensor:
    """S s = pi * (s - <pi, s>) over the classes, shapes (N, c, b); S = diag(pi) - pi pi^T."""
    return pi * (s - (pi * s).sum(1, keepdim=True))


def by_share(values: Tensor, batch: Batch) -> Tensor:
    """values (N, b) or (N, c, b), overwritten, each times the share of its row in the mean over the draws."""
    weights = batch.weights(values)
    if weights is None:
        return values.div_(len(batch.rows))
    return values.mul_(weights if values.dim() == 2 else weights.unsqueeze(1))


@dataclasses.dataclass(frozen=True)
class Examples:
    """Features (n, p); targets (c, n): the labels, one row per class, or one row of 0 and 1 where c = 1."""

    features: Tensor
    targets: Tensor

    @classmethod
    def make(
        cls,
        features: NDArray[np.floating],
        labels: NDArray[np.integer],
        classes: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> "Examples":
        """labels: 0 to classes - 1."""
        numbers = torch.as_tensor(labels.astype(np.int64)).to(device)
        targets = numbers.unsqueeze(0) if classes == 2 else one_hot(numbers, classes).T.contiguous()
        return cls(torch.as_tensor(features).to(device, dtype), targets.to(dtype))

    def of(self, batch: Batch) -> "Examples":
        """Those of a mini-batch."""
        if batch.full:
            return self
        rows = batch.rows
        return Examples(self.features.index_select(0, rows), self.targets.index_select(1, rows))


class Link(Protocol):
    """From scores (N, c, b) and targets (c, b) to losses, and to their derivatives by the scores."""

    @staticmethod
    def losses(scores: Tensor, targets: Tensor) -> Tensor:
        """(N, b)."""

    @staticmethod
    def residuals(scores: Tensor, targets: Tensor) -> Tensor:
        """The gradient, (N, c, b)."""

    @staticmethod
    def curved(scores: Tensor, s: Tensor) -> Tensor:
        """The Hessian times s, (N, c, b)."""

    @staticmethod
    def curvature(scores: Tensor) -> Tensor:
        """The Hessian, (N, c, c, b)."""

    @staticmethod
    def errors(scores: Tensor, targets: Tensor) -> Tensor:
        """Wrong predictions in percent, (N,), float64."""


class Softmax:
    """Cross-entropy of c > 2 classes: -log softmax(s)_label."""

    @staticmethod
    def losses(scores: Tensor, targets: Tensor) -> Tensor:
        return torch.logsumexp(scores, 1) - (scores * targets).sum(1)

    @staticmethod
    def residuals(scores: Tensor, targets: Tensor) -> Tensor:
        return torch.softmax(scores, 1).sub_(targets)

    @staticmethod
    def curved(scores: Tensor, s: Tensor) -> Tensor:
        return covariance(torch.softmax(scores, 1), s)

    @staticmethod
    def curvature(scores: Tensor) -> Tensor:
        pi = torch.softmax(scores, 1)
        return torch.diag_embed(pi.mT).movedim(1, 3) - pi.unsqueeze(1) * pi.unsqueeze(2)

    @staticmethod
    def errors(scores: Tensor, targets: Tensor) -> Tensor:
        return (scores.argmax(1) != targets.argmax(0)).double().mean(1) * 100


class Logistic:
    """Two classes, one score: log(1 + exp(-s)) where the target is 1, log(1 + exp(s)) where it is 0."""

    @staticmethod
    def losses(scores: Tensor, targets: Tensor) -> Tensor:
        wrong = (1 - 2 * targets) * scores
        return softplus(wrong, threshold=EXACT).squeeze(1)

    @staticmethod
    def residuals(scores: Tensor, targets: Tensor) -> Tensor:
        return torch.sigmoid(scores).sub_(targets)

    @staticmethod
    def curved(scores: Tensor, s: Tensor) -> Tensor:
        return torch.sigmoid(scores) * torch.sigmoid(-scores) * s

    @staticmethod
    def curvature(scores: Tensor) -> Tensor:
        return (torch.sigmoid(scores) * torch.sigmoid(-scores)).unsqueeze(1)

    @staticmethod
    def errors(scores: Tensor, targets: Tensor) -> Tensor:
        return ((scores > 0) != (targets > 0)).double().mean((1, 2)) * 100
