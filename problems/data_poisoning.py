"""Data poisoning of a linear classifier: perturb a fifth of the training images to spoil the rest.

With images X_i in [0, 1]^p, labels y_i, n training and n' validation examples, poisoned rows I:

    minimise over x in X   f = -1/n' sum_val CE(W X'_j, y'_j)
    W(x) = argmin g = 1/n sum_i CE(W (X_i + x_i), y_i) + rho |W|^2,   x_i = 0 for i not in I

x (|I| * p,): the perturbations, each row in the l2 ball of radius 5 (`ball`, `radius`); y (c * p,): W, class
by class.
For one example with u = X_i + x_i, pi = softmax(W u), r = pi - e_y, S = diag(pi) - pi pi^T:

    d_W = r u^T,   H V = (S V u) u^T,   d_x <d_W, V> = V^T r + W^T S V u

Evaluation: W retrained from 0 by 1000 full-batch steps of size 0.1 with momentum on the poisoned set.

Reference: R. Grazzi, M. Pontil, S. Salzo, JMLR 24(167), 2023, Section 7.3.
Differs from the paper (the defaults follow the published code, CSML-IIT-UCL/bioptexps): rho = 0.1 / (p c),
not 0.1 / p (`regulariser`); after the ball a clamp keeps poisoned pixels in [0, 1] (`box`); the final
training has momentum 0.5, not 0 (`final_momentum`).
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness.api import Batch, Metric, Problem, option
from problems._balls import BALLS, nearest, norms
from problems._images import CLASSES, DATASETS, Array, read
from problems._linear import add_product, covariance, lone, rows_product, wide_product

RETRAINING_STEPS = 1000
RETRAINING_STEP_SIZE = 0.1
BLOCK = 2000  # clean rows whose logits stay in cache during the retraining
OWN_BLOCK = 900  # the same for the poisoned rows, which are each trial's own
STEP_BLOCK = 128  # rows of x whose arrays in a projected step stay in cache
WORKING_SPACE = 2**28  # bytes of the trials' own rows that are computed at once on a device


@dataclasses.dataclass
class Examples:
    """Images (n, p), labels (n,) and one-hot labels (c, n)."""

    images: Tensor
    labels: Tensor
    onehot: Tensor

    @classmethod
    def make(cls, images: Array, labels: Array, device: torch.device, dtype: torch.dtype) -> "Examples":
        numbers = torch.as_tensor(labels.astype(np.int64)).to(device)
        onehot = torch.nn.functional.one_hot(numbers, CLASSES).T.contiguous().to(dtype)
        return cls(torch.as_tensor(images).to(device, dtype), numbers, onehot)

    def part(self, rows: slice | Tensor) -> "Examples":
        return Examples(self.images[rows], self.labels[rows], self.onehot[:, rows])


def _by_draws(r: Tensor, batch: Batch, part: slice) -> Tensor:
    """r (N, c, b) of a part of the batch's rows, each times its draws over the mean draws of a row."""
    weights = batch.weights(r)
    return r if weights is None else r.mul_(weights[:, None, part] * len(batch.rows))


@final
@dataclasses.dataclass(kw_only=True)
class DataPoisoning(Problem):
    label = "Data poisoning"
    reference = "Grazzi, Pontil and Salzo 2023, Section 7.3"
    objective = "val_accuracy"
    headline = "test_accuracy"
    metric_names = {
        "val_accuracy": Metric("validation accuracy (%)", "Val"),
        "test_accuracy": Metric("test accuracy (%)", "Test"),
        "val_loss": Metric("validation loss", "Val loss"),
        "test_loss": Metric("test loss", "Test loss"),
        "rows_touched": Metric("poisoned rows moved", "Rows"),
        "mean_norm": Metric("mean norm of a moved row", "Mean norm"),
        "max_norm": Metric("largest norm of a row", "Max norm"),
    }
    default_budget, default_trials = 2_000_000, 200  # the paper's: Section 7.3

    dataset: str = option("which images", default="mnist", choices=DATASETS)
    regulariser: str = option(
        "rho: 0.1 / (p c) as in the published code, 0.1 / p as in the paper",
        default="code",
        choices=("code", "paper"),
    )
    box: bool = option(
        "clamp poisoned pixels to [0, 1] after the ball, as in the published code", default=True
    )
    final_momentum: float = option("momentum of the retraining: code 0.5, paper 0", default=0.5)
    ball: str = option("of a row: l2 as in the paper, l1 or linf", default="l2", choices=BALLS)
    radius: float = option("radius of the ball of a row", default=5.0)

    def setup(self, data_dir: Path | None, data_seed: int, device: torch.device, dtype: torch.dtype) -> None:
        """Stratified splits, drawn one after the other from one generator, as in the published code:
        a quarter for validation, then a fifth of the rest to poison. Clean rows come before poisoned."""
        from sklearn.model_selection import train_test_split

        split = np.random.RandomState(data_seed)
        images, labels, test, test_labels = read(self.dataset, data_dir, split)
        images, val, labels, val_labels = train_test_split(
            images, labels, test_size=0.25, stratify=labels, random_state=split
        )
        clean, poison, clean_labels, poison_labels = train_test_split(
            images, labels, test_size=0.2, stratify=labels, random_state=split
        )
        train, train_labels = np.concatenate([clean, poison]), np.concatenate([clean_labels, poison_labels])
        self._train = Examples.make(train, train_labels, device, dtype)
        self._clean = self._train.part(slice(len(clean)))
        self._poison = self._train.part(slice(len(clean), None))
        self._val = Examples.make(val, val_labels, device, dtype)
        self._test = Examples.make(test, test_labels, device, dtype)
        self.pixels, self.classes = int(images.shape[1]), CLASSES
        self.dim_x, self.dim_y = len(poison) * self.pixels, self.classes * self.pixels
        self.lower_examples, self.upper_examples = len(clean) + len(poison), len(val)
        self.evaluation_samples = RETRAINING_STEPS * self.lower_examples
        self._rho = 0.1 / (self.dim_y if self.regulariser == "code" else self.pixels)
        self._unattacked: dict[str, float] | None = None
        self._stacked = device.type != "cpu"
        self._own_rows = WORKING_SPACE // (4 * self.pixels) if self._stacked else OWN_BLOCK

    def memory(self, pack: int, batch_size: int | None) -> int:
        """Images, three times over while they are read and split; per trial five arrays as large as x at the
        peak (direction, poisoned rows of the retraining), and the rows of a mini-batch twice."""
        images = 4 * self.pixels * (self.lower_examples + self.upper_examples)
        drawn = self.lower_examples if batch_size is None else min(batch_size, self.lower_examples)
        return 3 * images + 4 * pack * (5 * self.dim_x + 2 * drawn * self.pixels // 5)

    def initial(self, seed: int) -> tuple[Tensor, Tensor]:
        """No perturbation, and the classifier at 0: neither depends on the seed."""
        return torch.zeros(self.dim_x), torch.zeros(self.dim_y)

    # --- losses of one trial

    def lower_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        clean = len(self._clean.images)
        moved = x.view(-1, self.pixels)[(rows - clean).clamp(min=0)]
        images = self._train.images[rows] + torch.where((rows >= clean).unsqueeze(1), moved, 0)
        logits = images @ y.view(self.classes, self.pixels).T
        return cross_entropy(logits, self._train.labels[rows], reduction="none") + self._rho * (y * y).sum()

    def upper_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        logits = self._val.images[rows] @ y.view(self.classes, self.pixels).T
        return -cross_entropy(logits, self._val.labels[rows], reduction="none")

    # --- closed forms for N trials

    def _parts(self, x: Tensor, batch: Batch) -> list[tuple[Tensor, Tensor, slice]]:
        """The images of the batch, their one-hot labels (c, b) and their places in it: the clean ones (b, p),
        which one wide product serves for all trials, and the poisoned ones, each trial's own (N, b, p)."""
        split = batch.below(len(self._clean.images))
        first, rest = slice(split), slice(split, None)
        moved = x.view(len(x), -1, self.pixels)
        if batch.full:
            clean, poison = self._clean, self._poison
            return [(clean.images, clean.onehot, first), (moved + poison.images, poison.onehot, rest)]
        moved = moved.index_select(1, batch.rows[split:] - len(self._clean.images))
        images = self._train.images.index_select(0, batch.rows)
        onehot = self._train.onehot.index_select(1, batch.rows)
        moved.add_(images[rest])
        return [(images[first], onehot[:, first], first), (moved, onehot[:, rest], rest)]

    def lower_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        return self._residuals(x, y, batch)[0]

    def _residuals(self, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """d_y g, and r of the poisoned rows of the batch, each times its draws (N, c, b)."""
        w = y.view(len(y), self.classes, self.pixels)
        total = torch.zeros_like(w)
        for images, onehot, part in self._parts(x, batch):
            r = _by_draws(torch.softmax(wide_product(w, images), 1).sub_(onehot), batch, part)
            add_product(total, r, images)
        return total.flatten(1).div_(len(batch.rows)).add_(y, alpha=2 * self._rho), r

    def joint_lower_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """d_x g is W^T r / B in the poisoned rows of the batch, 0 elsewhere."""
        by_y, r = self._residuals(x, y, batch)
        by_x = torch.zeros_like(x).view(len(x), -1, self.pixels)
        moved = torch.bmm(r.mT, y.view(len(y), self.classes, self.pixels)).div_(len(batch.rows))
        by_x[:, batch.rows[len(batch.rows) - r.shape[2] :] - len(self._clean.images)] = moved
        return by_x.flatten(1), by_y

    def hessian_vector(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        c = self.classes
        both = torch.stack([y, v], 1).view(len(y), 2 * c, self.pixels)
        total = torch.zeros_like(both[:, c:])
        for images, _, part in self._parts(x, batch):
            logits = wide_product(both, images)
            r = covariance(torch.softmax(logits[:, :c], 1), logits[:, c:])
            add_product(total, _by_draws(r, batch, part), images)
        return total.flatten(1).div_(len(batch.rows)).add_(v, alpha=2 * self._rho)

    def cross(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        """Only the poisoned rows of the batch get a gradient, each once, times its share of the draws."""
        split = batch.below(len(self._clean.images))
        poison = batch.rows[split:] - len(self._clean.images)
        weights = batch.weights(y)
        moved, w, z = (value.view(len(value), -1, self.pixels) for value in (x, y, v))
        product = torch.zeros_like(moved)
        for some in self._stacks(len(x), len(poison)):
            drawn, share = poison, 1 / len(batch.rows) if weights is None else weights[some, None, split:]
            if isinstance(share, Tensor) and not self._stacked:  # without the rows that only others drew
                kept = share.flatten() > 0
                drawn, share = poison[kept], share[:, :, kept]
            u = lone(moved[some][:, drawn].add_(self._poison.images[drawn]))
            pi = torch.softmax(wide_product(w[some], u), 1)
            r = (pi - self._poison.onehot[:, drawn]).mul_(share)
            s = covariance(pi, wide_product(z[some], u)).mul_(share)
            product[some][:, drawn] = rows_product(r, z[some]).add_(rows_product(s, w[some]))
        return product.flatten(1)

    def _stacks(self, trials: int, rows: int) -> list[slice]:
        """Trials that are computed together, each with so many rows of its own: one on a CPU, where more are
        no faster; on a device as many as its working space holds."""
        size = max(1, self._own_rows // max(rows, 1)) if self._stacked else 1
        return [slice(first, first + size) for first in range(0, trials, size)]

    def upper_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """d_x f = 0, returned as (1, 1) so that nobody adds millions of zeros."""
        w = y.view(len(y), self.classes, self.pixels)
        val = self._val if batch.full else self._val.part(batch.rows)
        r = torch.softmax(wide_product(w, val.images), 1).sub_(val.onehot)
        total = torch.zeros_like(w)
        add_product(total, _by_draws(r, batch, slice(None)), val.images)
        return y.new_zeros(1, 1), total.flatten(1).div_(-len(batch.rows))

    def project(self, x: Tensor) -> Tensor:
        """The ball, then (`box`) the clamp: feasible for both, and as the published code has it."""
        return self._project_rows(x.view(-1, self.pixels), self._poison.images.repeat(len(x), 1)).view_as(x)

    def _project_rows(self, rows: Tensor, images: Tensor) -> Tensor:
        rows = nearest(rows, self.ball, self.radius)
        return torch.clamp(rows, min=-images, max=1 - images) if self.box else rows

    def projected_step(self, x: Tensor, direction: Tensor, step_size: Tensor) -> Tensor:
        """Only rows with a gradient move; the others are feasible already."""
        moved, gradient = x.clone().view(-1, self.pixels), direction.reshape(-1, self.pixels)
        touched = norms(gradient, "l2") != 0  # a quarter of the time of any(1); true where it is not a number
        for rows, trial, image in self._places(touched):
            size = step_size[trial] if step_size.shape[1] == 1 else step_size.view_as(gradient)[rows]
            stepped = self._project_rows(moved[rows] - size * gradient[rows], self._poison.images[image])
            moved[rows] = torch.where(touched[rows].unsqueeze(1), stepped, moved[rows])
        return moved.view_as(x)

    def _places(self, touched: Tensor) -> Iterator[tuple[slice | Tensor, slice | Tensor, slice | Tensor]]:
        """Rows of x (N * |I|, p), all that are touched among them, with their trials and their images. Where
        most of them are, as by a mean direction, a CPU takes slices of all: what is sliced is not copied."""
        poisoned = len(self._poison.images)
        if self._stacked or torch.count_nonzero(touched) < len(touched) / 2:
            for rows in torch.split(touched.nonzero().squeeze(1), self._own_rows):
                yield rows, rows // poisoned, rows % poisoned
            return
        for trial in range(len(touched) // poisoned):
            for first in range(0, poisoned, STEP_BLOCK):
                image = slice(first, min(first + STEP_BLOCK, poisoned))
                start = trial * poisoned
                yield slice(start + image.start, start + image.stop), slice(trial, trial + 1), image

    # --- metrics and evaluation

    def metrics(self, x: Tensor, y: Tensor) -> list[dict[str, float]]:
        """Accuracy and loss of the current W (not retrained), and what the attack did."""
        weights = y.view(len(y), self.classes, self.pixels)
        val, test = self._scores(self._val, weights), self._scores(self._test, weights)
        sizes = norms(x.view(-1, self.pixels), self.ball).view(len(x), -1)
        moved = (sizes > 0).sum(1).double()
        found = {
            **{"val_accuracy": val[0], "val_loss": val[1], "test_accuracy": test[0], "test_loss": test[1]},
            **{"rows_touched": moved, "mean_norm": sizes.sum(1).double() / moved.clamp(min=1)},
            "max_norm": sizes.max(1).values.double(),
        }
        return [dict(zip(found, row, strict=True)) for row in torch.stack([*found.values()], 1).tolist()]

    def _scores(self, examples: Examples, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Accuracy in percent and mean loss of N classifiers, float64."""
        logits = wide_product(weights, examples.images)
        right = (logits.argmax(1) == examples.labels).double().mean(1) * 100
        losses = torch.logsumexp(logits, 1) - (logits * examples.onehot).sum(1)
        return right, losses.mean(1).double()

    def evaluate(self, x: Tensor, y: Tensor) -> dict[str, float]:
        return self.evaluate_pack(x.unsqueeze(0), y.unsqueeze(0))[0]

    def evaluate_pack(self, x: Tensor, y: Tensor) -> list[dict[str, float]]:
        """W is retrained, whatever y is. Trials whose output is no attack share one retraining per worker."""
        attacks = [n for n, moved in enumerate(x.any(1).tolist()) if moved]
        if len(attacks) < len(x) and self._unattacked is None:
            zero = x.new_zeros(1, self.dim_x)
            self._unattacked = self.metrics(zero, self._retrain(zero))[0]
        found = [dict(self._unattacked or {}) for _ in x]
        if attacks:
            chosen = x[attacks]
            for n, metrics in zip(attacks, self.metrics(chosen, self._retrain(chosen)), strict=True):
                found[n] = metrics
        return found

    def part_of_evaluation(self, x: Tensor, y: Tensor) -> float:
        steps = 3
        self._retrain(x, steps)
        return steps / RETRAINING_STEPS

    def _retrain(self, x: Tensor, steps: int = RETRAINING_STEPS) -> Tensor:
        """W of N trials after the final training, shape (N, dim_y).

        The clean rows are common, so each block of them is one wide product for all trials; on a CPU blocks
        are small enough that a block's logits and images stay in cache between the two products."""
        clean, poison = self._clean.images, self._poison.images
        size = len(clean) if self._stacked else BLOCK
        blocks = [self._clean.part(slice(first, first + size)) for first in range(0, len(clean), size)]
        own = [
            (some, lone(images), onehot)
            for some in self._stacks(len(x), len(poison))
            for images, onehot in zip(
                torch.split(x.view(len(x), -1, self.pixels)[some] + poison, self._own_rows, 1),
                torch.split(self._poison.onehot, self._own_rows, 1),
                strict=True,
            )
        ]
        w = x.new_zeros(len(x), self.classes, self.pixels)
        velocity = torch.zeros_like(w)
        for _ in range(steps):
            total = torch.zeros_like(w)
            for block in blocks:
                r = torch.softmax(wide_product(w, block.images), 1).sub_(block.onehot)
                add_product(total, r, block.images)
            for some, images, onehot in own:
                add_product(total[some], torch.softmax(wide_product(w[some], images), 1).sub_(onehot), images)
            gradient = total.div_(self.lower_examples).add_(w, alpha=2 * self._rho)
            velocity.mul_(self.final_momentum).add_(gradient)
            w.sub_(velocity, alpha=RETRAINING_STEP_SIZE)
        return w.flatten(1)
