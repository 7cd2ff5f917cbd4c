"""Data cleaning: weights of training images whose labels are partly random, chosen on clean validation data.

With images u_i in R^p, labels l_i of c classes, n training and n' validation examples, W (c, p):

    minimise over x in R^n   f = 1/n' sum_val CE(W u'_j, l'_j)
    W(x) = argmin g = 1/n sum_i sigma(x_i) CE(W u_i, l_i) + reg |W|^2,    sigma(t) = 1 / (1 + exp(-t))

A share `corruption` of the training labels is drawn anew from all classes. x (n,): one weight for each
training image; y (c * p,): W, class by class, without intercept. x0 = -2, y0 = 0. For one example with
pi = softmax(W u), r = pi - e_l, S = diag(pi) - pi pi^T, and sigma' = sigma(x_i) (1 - sigma(x_i)):

    d_W = sigma r u^T,   H V = sigma (S V u) u^T,   d_x_i = sigma' CE,   d_x_i <d_W, V> = sigma' <r, V u>

Images: n = 20 000 and n' = 5000 of the 60 000 training images, all 10 000 test images, standardised pixel by
pixel with the mean and the deviation of the n. `digits`, for tests, takes the same thirds and twelfths: 479
and 119 of 1437, 360 for the test. The split and the corruption are the public benchmark's, RandomState(32),
whatever --data-seed, unless `seeds` is "own": then RandomState(--data-seed).

Evaluation: errors in percent, on validation and test images, of the W that the method holds, without any
retraining, as in the public benchmark; or (`judged` = trained) of W(x), by Nesterov's method on g, from 0 to
a millionth of the way. The former judges a method whose W is not near W(x) by what its x does not do: the W
of a penalty method with a small penalty is fitted to the validation images themselves.

Reference: M. Dagréou, P. Ablin, S. Vaiter, T. Moreau, "A Framework for Bilevel Optimization that Enables
Stochastic and Global Variance Reduction Algorithms", NeurIPS 2022, Section 4, as in its authors' public
benchmark, benchopt/benchmark_bilevel; the problem is that of L. Franceschi et al., ICML 2017.
Differs from the benchmark: float32, where its published results are in float64; errors are in percent.
"""

import dataclasses
import math
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness.api import Batch, HarnessError, Metric, Problem, option
from problems._images import CLASSES, DATASETS, read_levels
from problems._linear import Examples, Softmax, add_product, by_share, wide_product

PUBLIC_SEED = 32
TRAINING, VALIDATION = 3, 12  # one in so many of the data set's training images
START = -2.0  # every entry of x0


@final
@dataclasses.dataclass(kw_only=True)
class DataCleaning(Problem):
    label = "Data cleaning"
    reference = "Dagréou, Ablin, Vaiter and Moreau 2022, Section 4"
    objective = "val_error"
    headline = "test_error"
    metric_names = {
        "val_error": Metric("validation error (%)", "Val"),
        "test_error": Metric("test error (%)", "Test"),
    }
    default_budget, default_trials = 1_300_000, 16  # ours; as many trials as its grid has points

    corruption: float = option("probability that a training label is drawn anew, 0 to 1", default=0.5)
    dataset: str = option("which images", default="mnist", choices=DATASETS)
    reg: float = option("weight of |W|^2, 0 or above", default=0.2)
    judged: str = option(
        "whose final errors: of the W that the method holds, or of one trained at its x",
        default="held",
        choices=("held", "trained"),
    )
    seeds: str = option(
        "split and corruption: public, the public benchmark's, or own, by --data-seed",
        default="public",
        choices=("public", "own"),
    )

    def setup(self, data_dir: Path | None, data_seed: int, device: torch.device, dtype: torch.dtype) -> None:
        """One generator draws the split and then the corruption, in the public benchmark's order."""
        from sklearn.model_selection import train_test_split
        from sklearn.preprocessing import StandardScaler

        if not 0 <= self.corruption <= 1:
            raise HarnessError(f"data_cleaning: corruption must be from 0 to 1, but got {self.corruption:g}")
        if self.reg < 0:
            raise HarnessError(f"data_cleaning: reg must be at least 0, but got {self.reg:g}")
        draw = np.random.RandomState(PUBLIC_SEED if self.seeds == "public" else data_seed)
        (images, labels, test, test_labels), _ = read_levels(self.dataset, data_dir, draw)
        n, n_val = len(images) // TRAINING, len(images) // VALIDATION
        train, val, train_labels, val_labels = train_test_split(
            images, labels, train_size=n, test_size=n_val, random_state=draw
        )
        corrupted = draw.rand(n) < self.corruption
        train_labels = train_labels.copy()
        train_labels[corrupted] = draw.randint(0, CLASSES, corrupted.sum())
        scaler = StandardScaler().fit(train)

        def made(images: np.ndarray, labels: np.ndarray) -> Examples:
            return Examples.make(scaler.transform(images), labels, CLASSES, device, dtype)

        self._train, self._val = made(train, train_labels), made(val, val_labels)
        self._test = made(test, test_labels)
        self.corrupted = int(corrupted.sum())
        self.pixels = int(images.shape[1])
        self.dim_x, self.dim_y = n, CLASSES * self.pixels
        self.lower_examples, self.upper_examples = n, n_val
        self._labels, self._val_labels = (part.targets.argmax(0) for part in (self._train, self._val))
        if self.judged == "trained":
            self._plan_training()

    def _plan_training(self) -> None:
        """How many steps W(x) takes: the curvatures of g are at least 2 reg, and at most that and half the
        largest second moment of the images."""
        if self.reg == 0:
            raise HarnessError("data_cleaning: judged = trained needs a reg above 0, for W(x) to be one")
        moments = self._train.features.T @ self._train.features / self.lower_examples
        self._largest = 0.5 * float(torch.linalg.eigvalsh(moments.double())[-1]) + 2 * self.reg
        ratio = math.sqrt(self._largest / (2 * self.reg))
        self._training_steps = math.ceil(ratio * math.log(1e6))
        self._momentum = (ratio - 1) / (ratio + 1)
        self.evaluation_samples = self._training_steps * self.lower_examples

    def memory(self, pack: int, batch_size: int | None) -> int:
        """Images: grey levels as they are read, in float64 while they are standardised, and as they stay.
        Per trial the scores of W and v on a batch, or of W on the test images."""
        kept = self.lower_examples + self.upper_examples + len(self._test.features)
        drawn = self.lower_examples if batch_size is None else min(batch_size, self.lower_examples)
        scores = 4 * CLASSES * max(2 * drawn, len(self._test.features))
        images = self.pixels * (4 * kept + 8 * self.lower_examples + TRAINING * self.lower_examples)
        return images + 4 * drawn * self.pixels + pack * (4 * scores + 4 * (6 * self.dim_x + 12 * self.dim_y))

    def initial(self, seed: int) -> tuple[Tensor, Tensor]:
        """The same for every seed."""
        return torch.full((self.dim_x,), START), torch.zeros(self.dim_y)

    # --- losses of one trial

    def lower_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        scores = self._train.features[rows] @ y.view(CLASSES, self.pixels).T
        losses = cross_entropy(scores, self._labels[rows], reduction="none")
        return torch.sigmoid(x[rows]) * losses + self.reg * (y * y).sum()

    def upper_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        scores = self._val.features[rows] @ y.view(CLASSES, self.pixels).T
        return cross_entropy(scores, self._val_labels[rows], reduction="none")

    # --- closed forms for N trials: one wide product on the images of the batch serves all

    def _w(self, y: Tensor) -> Tensor:
        return y.view(len(y), -1, self.pixels)

    def _weights(self, x: Tensor, batch: Batch) -> Tensor:
        """sigma(x_i) times the share of i in the mean, shape (N, b)."""
        return by_share(torch.sigmoid(x.index_select(1, batch.rows)), batch)

    def _slopes(self, x: Tensor, batch: Batch) -> Tensor:
        """sigma'(x_i) times the share of i in the mean, shape (N, b)."""
        sigma = torch.sigmoid(x.index_select(1, batch.rows))
        return by_share(sigma * (1 - sigma), batch)

    def _on_rows(self, x: Tensor, batch: Batch, values: Tensor) -> Tensor:
        """Values (N, b) on the rows of the batch, 0 elsewhere, shape (N, dim_x)."""
        return torch.zeros_like(x).index_copy_(1, batch.rows, values)

    def lower_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        examples, w = self._train.of(batch), self._w(y)
        r = Softmax.residuals(wide_product(w, examples.features), examples.targets)
        return self._regularised(r.mul_(self._weights(x, batch).unsqueeze(1)), examples, w)

    def _regularised(self, r: Tensor, examples: Examples, w: Tensor) -> Tensor:
        """sum r u^T + 2 reg W, shape (N, dim_y)."""
        total = 2 * self.reg * w
        add_product(total, r, examples.features)
        return total.flatten(1)

    def joint_lower_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        examples, w = self._train.of(batch), self._w(y)
        scores = wide_product(w, examples.features)
        by_x = self._slopes(x, batch) * Softmax.losses(scores, examples.targets)
        r = Softmax.residuals(scores, examples.targets).mul_(self._weights(x, batch).unsqueeze(1))
        return self._on_rows(x, batch, by_x), self._regularised(r, examples, w)

    def hessian_vector(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        examples = self._train.of(batch)
        scores, along = self._both(y, v, examples)
        r = Softmax.curved(scores, along).mul_(self._weights(x, batch).unsqueeze(1))
        return self._regularised(r, examples, self._w(v))

    def _both(self, y: Tensor, v: Tensor, examples: Examples) -> tuple[Tensor, Tensor]:
        """W u and V u, shapes (N, c, b), by one product."""
        both = torch.cat([self._w(y), self._w(v)], 1)
        scores, along = torch.split(wide_product(both, examples.features), CLASSES, 1)
        return scores, along

    def cross(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        """Only the rows of the batch get a gradient."""
        examples = self._train.of(batch)
        scores, along = self._both(y, v, examples)
        r = Softmax.residuals(scores, examples.targets)
        return self._on_rows(x, batch, self._slopes(x, batch) * (r * along).sum(1))

    def upper_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """d_x f = 0, as (1, 1)."""
        examples, w = self._val.of(batch), self._w(y)
        r = Softmax.residuals(wide_product(w, examples.features), examples.targets)
        total = torch.zeros_like(w)
        add_product(total, by_share(r, batch), examples.features)
        return y.new_zeros(1, 1), total.flatten(1)

    def lower_value(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        examples = self._train.of(batch)
        losses = Softmax.losses(wide_product(self._w(y), examples.features), examples.targets)
        return (self._weights(x, batch) * losses).sum(1) + self.reg * (y * y).sum(1)

    def upper_value(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        examples = self._val.of(batch)
        losses = Softmax.losses(wide_product(self._w(y), examples.features), examples.targets)
        return by_share(losses, batch).sum(1)

    # --- metrics and evaluation

    def metrics(self, x: Tensor, y: Tensor) -> list[dict[str, float]]:
        """Errors of the W that the method holds."""
        found = [
            Softmax.errors(wide_product(self._w(y), part.features), part.targets)
            for part in (self._val, self._test)
        ]
        return [dict(zip(self.metric_names, row, strict=True)) for row in torch.stack(found, 1).tolist()]

    def evaluate_pack(self, x: Tensor, y: Tensor) -> list[dict[str, float]]:
        return self.metrics(x, y if self.judged == "held" else self._trained(x, self._training_steps))

    def part_of_evaluation(self, x: Tensor, y: Tensor) -> float:
        if self.judged == "held":
            self.metrics(x, y)
            return 1.0
        steps = 3
        self._trained(x, steps)
        return steps / self._training_steps

    def _trained(self, x: Tensor, steps: int) -> Tensor:
        """W(x) of N trials, shape (N, dim_y), by Nesterov's method for strongly convex functions."""
        every = Batch(torch.arange(self.lower_examples, device=x.device), full=True)
        w = ahead = x.new_zeros(len(x), self.dim_y)
        for _ in range(steps):
            before, w = w, ahead - self.lower_gradient(x, ahead, every) / self._largest
            ahead = w + self._momentum * (w - before)
        return w

    def evaluate(self, x: Tensor, y: Tensor) -> dict[str, float]:
        return self.evaluate_pack(x.unsqueeze(0), y.unsqueeze(0))[0]
