"""Meta-learning: features for few-shot classification, on which every task trains a last layer of its own.

Task i has c = `ways` classes, K = c * `shots` support images and Q = c * `queries` query images:

    minimise over x   f = mean over tasks of   1/Q sum over query images of CE(y_i^T phi(x, X), label)
    y_i(x) = argmin g_i,   g_i = 1/K sum over support images of CE(y_i^T phi(x, X), label) + mu/2 |y_i|^2

phi, with parameters x: four blocks of a 3x3 convolution, ReLU, 2x2 max-pooling and batch normalisation,
then tanh, and a 1 for the bias, which is the last row of y_i in R^{(d + 1) x c}; mu = 0.01. Images of fewer
than 16 pixels pass through as many blocks as halve them down to one (the digits: three).

x (dim_x,): weight, bias, scale and shift of each block, one after the other. y: the y_i of a mini-batch.
An example is a task, worth K samples in the lower level and Q in the upper. The tasks are drawn once, by
the data seed. With Phi (K, d + 1) the features of the support images of one task, E their labels one-hot,
P = softmax(Phi y), R = (P - E) / K and T = Phi v:

    d_y g = Phi^T R + mu y            H v = Phi^T (P * (T - <P, T>)) / K + mu v
    C v = sum over tasks of d_x <R, T>

so that steps of y and z need the network once for every x; C v, d_x f and d_x g a pass back through it.

The statistics of a batch normalisation are always those of the images at hand, also where tasks are
evaluated: the K support images, or the Q query images, of each task alone (`statistics=task`), or of all
tasks of a mini-batch together (`statistics=batch`), as in the published code, which evaluates two tasks at
a time. Per task, f is a mean over tasks, and a mini-batch estimates it. Per batch it is not: a task's loss
depends on the others that it meets, and small mini-batches descend another function than large ones.
`harness check` refuses that.

x0 as PyTorch draws it, by the seed; y0 = 0. Evaluation: fresh tasks of each split, ten lower steps of size
0.05 from 0, then mean loss and accuracy on the query images. A study selects by the meta-validation loss.

Reference: R. Grazzi, M. Pontil, S. Salzo, JMLR 24(167), 2023, Section 7.2, on mini-ImageNet, with 1000
tasks of a split in the evaluation. The regulariser, the bias, five query images of a class and the order
within a block are those of the published code (CSML-IIT-UCL/bioptexps, meta_learning_parallel.py); the
paper does not say.
Differs from the code: statistics per task, not per mini-batch; a list of tasks that mini-batches go through
without replacement, epoch by epoch, also for methods that do not warm-start (`tasks=50000` is as many as a
run of the paper meets).
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor
from torch.backends import cudnn
from torch.nn.functional import conv2d, cross_entropy, max_pool2d, one_hot, pad

from harness.api import Batch, HarnessError, Metric, Problem, generator, option
from problems._fewshot import DATASETS, SPLITS, draw_tasks, read
from problems._last import Last

BLOCKS = 4
EPSILON = 1e-5  # added to a variance, as PyTorch does
REGULARISER = 0.01
ADAPTATION_STEPS, ADAPTATION_STEP_SIZE = 10, 0.05
TOGETHER = 4  # tasks that pass through the network at once, if they can: a hundred images
PAIR = 2  # tasks evaluated together where they share statistics


class Block(NamedTuple):
    """Of one convolution: weight (C, c, 3, 3), and bias, scale and shift (C,)."""

    weight: Tensor
    bias: Tensor
    scale: Tensor
    shift: Tensor


class Side(NamedTuple):
    """The support or the query images of a task: their places among those of a class, and their labels."""

    places: slice
    labels: Tensor


@final
@dataclasses.dataclass(kw_only=True)
class MetaLearning(Problem):
    label = "Few-shot meta-learning"
    reference = "Grazzi, Pontil and Salzo 2023, Section 7.2"
    objective = "val_loss"
    headline = "test_accuracy"
    metric_names = {
        "val_loss": Metric("meta-validation loss", "Val loss"),
        "val_accuracy": Metric("meta-validation accuracy (%)", "Val", "higher"),
        "test_loss": Metric("meta-test loss", "Test loss"),
        "test_accuracy": Metric("meta-test accuracy (%)", "Test", "higher"),
        "train_loss": Metric("meta-training loss", "Train loss"),
        "train_accuracy": Metric("meta-training accuracy (%)", "Train", "higher"),
    }
    default_budget, default_trials = 27_500_000, 20  # the paper's 50 000 tasks by BSGM
    by_example = True

    dataset: str = option(
        "which images; a stand-in is not what the paper ran on", default="mini_imagenet", choices=DATASETS
    )
    statistics: str = option(
        "of batch normalisation: of each task, or of all tasks of a mini-batch as in the published code",
        default="task",
        choices=("task", "batch"),
    )
    ways: int = option("c: classes of a task", default=5)
    shots: int = option("support images of a class", default=5)
    queries: int = option("query images of a class", default=5)
    channels: int = option("filters of a convolution", default=32)
    tasks: int = option("tasks to learn from; the paper's runs meet 50 000", default=2000)
    evaluation_tasks: int = option("fresh tasks of each split in the evaluation; paper 1000", default=100)
    curve_tasks: int = option("how many of these a point of a curve takes", default=10)

    def setup(self, data_dir: Path | None, data_seed: int, device: torch.device, dtype: torch.dtype) -> None:
        """Only the images that some task has are kept, in grey levels."""
        sizes = ("ways", "shots", "queries", "channels", "tasks", "evaluation_tasks", "curve_tasks")
        for name in sizes:
            if getattr(self, name) < 1:
                raise HarnessError(f"meta_learning: {name} must be at least 1, but got {getattr(self, name)}")
        images = read(self.dataset, data_dir, data_seed)
        wanted = {"tasks": ("train", self.tasks)} | {
            split: (split, self.evaluation_tasks) for split in SPLITS
        }
        drawn = {
            name: draw_tasks(
                images, split, number, self.ways, self.shots + self.queries, generator(data_seed, name)
            )
            for name, (split, number) in wanted.items()
        }
        numbers = np.unique(np.concatenate([tasks.ravel() for tasks in drawn.values()]))
        self._pixels = torch.from_numpy(images.decode(numbers)).to(device)
        self._white, self._dtype = images.white, dtype
        places = {name: np.searchsorted(numbers, tasks) for name, tasks in drawn.items()}
        self._images_of = {name: torch.from_numpy(found).to(device) for name, found in places.items()}
        classes = torch.arange(self.ways, device=device)
        self._support = Side(slice(self.shots), classes.repeat_interleave(self.shots))
        self._query = Side(slice(self.shots, None), classes.repeat_interleave(self.queries))
        _, height, width, colours = self._pixels.shape
        blocks = min(BLOCKS, int(math.log2(min(height, width))))
        inputs = [colours] + [self.channels] * (blocks - 1)
        own = (self.channels,)
        self._shapes = [shape for c in inputs for shape in ((self.channels, c, 3, 3), own, own, own)]
        self.features = self.channels * (height >> blocks) * (width >> blocks)
        self.dim_x = sum(math.prod(shape) for shape in self._shapes)
        self.dim_y = (self.features + 1) * self.ways
        self.lower_examples = self.upper_examples = self.tasks
        self.lower_worth, self.upper_worth = self.ways * self.shots, self.ways * self.queries
        self.evaluation_samples = len(SPLITS) * self.evaluation_tasks * ADAPTATION_STEPS * self.lower_worth
        self._stacked, self._known = Last(), dict[bytes, Tensor]()
        self._rows = torch.empty(0, dtype=torch.int64, device=device)

    def initial(self, seed: int) -> tuple[Tensor, Tensor]:
        """Weights and biases uniform in +- 1 / sqrt(inputs of a filter), scale 1, shift 0; y = 0."""
        x = torch.from_numpy(generator(seed, "initial").uniform(-1, 1, self.dim_x))
        for block in self._blocks(x):
            bound = 1 / math.sqrt(block.weight[0].numel())
            block.weight.mul_(bound)
            block.bias.mul_(bound)
            block.scale.fill_(1)
            block.shift.zero_()
        return x, torch.zeros(self.dim_y)

    # --- the network, for one trial

    def _blocks(self, x: Tensor) -> list[Block]:
        """Views of x (dim_x,)."""
        parts = torch.split(x, [math.prod(shape) for shape in self._shapes])
        shaped = [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]
        return [Block(*shaped[i : i + 4]) for i in range(0, len(shaped), 4)]

    def _images(self, tasks: Tensor, side: Side) -> Tensor:
        """Levels in [0, 1] of tasks (T, ways, images of a class): (T, n, channels, h, w), channels last in
        memory, which convolves in half the time."""
        pixels = self._pixels[tasks[:, :, side.places].flatten(1)]
        return pixels.to(self._dtype).div_(self._white).permute(0, 1, 4, 2, 3)

    def _network(self, x: Tensor, images: Tensor) -> Tensor:
        """Features and a 1 of images (T, n, channels, h, w), shape (T, n, d + 1). Pooling comes before the
        ReLU: the same, as both are monotone, on a quarter of the numbers."""
        tasks, size = images.shape[:2]
        groups = tasks if self.statistics == "task" else 1
        out = images.flatten(0, 1)
        for weight, bias, scale, shift in self._blocks(x):
            with _exact():
                out = conv2d(out, weight, bias, padding=1)
            out = max_pool2d(out, 2).relu().permute(0, 2, 3, 1)
            grouped = out.reshape(groups, -1, out.shape[3])
            variance, mean = torch.var_mean(grouped, 1, correction=0, keepdim=True)
            grouped = (grouped - mean) * (scale * (variance + EPSILON).rsqrt()) + shift
            out = grouped.view(out.shape).permute(0, 3, 1, 2)
        return pad(torch.tanh(out.flatten(1)), (0, 1), value=1.0).view(tasks, size, -1)

    def _layers(self, y: Tensor) -> Tensor:
        """The last layers, y (..., T * dim_y), shape (..., T, d + 1, c)."""
        return y.view(*y.shape[:-1], -1, self.features + 1, self.ways)

    # --- losses of one trial

    def lower_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        layers = self._layers(y)
        images = self._images(self._images_of["tasks"][rows], self._support)
        losses = _losses(self._network(x, images), layers, self._support.labels)
        return losses + REGULARISER / 2 * (layers * layers).sum((1, 2))

    def upper_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        images = self._images(self._images_of["tasks"][rows], self._query)
        return _losses(self._network(x, images), self._layers(y), self._query.labels)

    # --- closed forms for N trials, given the features

    def _together(self, tasks: Tensor) -> Iterator[Tensor]:
        """Tasks that pass through the network at once: all, where they share statistics."""
        yield from torch.split(tasks, TOGETHER if self.statistics == "task" else len(tasks))

    def _features(self, x: Tensor, rows: Tensor, side: Side) -> Tensor:
        """Of one trial: (T, n, d + 1)."""
        tasks = self._together(self._images_of["tasks"][rows])
        return torch.cat([self._network(x, self._images(some, side)) for some in tasks])

    def _support_features(self, x: Tensor, rows: Tensor) -> Tensor:
        """Of N trials: (N, T, K, d + 1). They are kept as long as none of a later call's x is new, in
        whichever order: the trials of a pack drop out of a loop one by one, and at x0 all are alike."""

        def stacked() -> Tensor:
            if not torch.equal(rows, self._rows):
                self._known, self._rows = {}, rows.clone()
            keys = [row.tobytes() for row in x.cpu().numpy()]
            if not self._known.keys() >= set(keys):
                known: dict[bytes, Tensor] = {}
                for key, row in zip(keys, x, strict=True):
                    if key in self._known:
                        known[key] = self._known[key]
                    elif key not in known:
                        known[key] = self._features(row, rows, self._support)
                self._known = known
            return torch.stack([self._known[key] for key in keys])

        return self._stacked.get(stacked, rows, x)

    def lower_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        phi, layers = self._support_features(x, batch.rows), self._layers(y)
        return self._lower_slope(phi, layers).flatten(1)

    def _lower_slope(self, phi: Tensor, layers: Tensor) -> Tensor:
        """d_y g, shape of the layers."""
        return phi.mT @ _residuals(phi, layers, self._support.labels) + REGULARISER * layers

    def hessian_vector(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        phi, layers, along = self._support_features(x, batch.rows), self._layers(y), self._layers(v)
        p, t = torch.softmax(phi @ layers, -1), phi @ along
        bent = p * (t - (p * t).sum(-1, keepdim=True)) / self.lower_worth
        return (phi.mT @ bent + REGULARISER * along).flatten(1)

    def _back(
        self, x: Tensor, rows: Tensor, side: Side, value: Callable[..., Tensor], *vectors: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The derivatives of value(features, *vectors), summed over the tasks, in x and in the first of the
        vectors (N, T * dim_y). One trial after the other, so that one network's activations are held."""
        by_x, layers = torch.zeros_like(x), [self._layers(vector) for vector in vectors]
        by_y = torch.empty_like(layers[0])
        first = 0
        for tasks in self._together(self._images_of["tasks"][rows]):
            images, own = self._images(tasks, side), slice(first, first + len(tasks))
            for n in range(len(x)):
                at, y, *others = (part.detach() for part in (x[n], *(vector[n, own] for vector in layers)))
                with torch.enable_grad(), _exact():
                    found = value(self._network(at.requires_grad_(), images), y.requires_grad_(), *others)
                    slopes = torch.autograd.grad(found, (at, y))
                by_x[n] += slopes[0]
                by_y[n, own] = slopes[1]
            first += len(tasks)
        return by_x, by_y.flatten(1)

    def cross(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        def along(phi: Tensor, y: Tensor, v: Tensor) -> Tensor:
            return (_residuals(phi, y, self._support.labels) * (phi @ v)).sum()

        return self._back(x, batch.rows, self._support, along, y, v)[0]

    def joint_lower_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        def loss(phi: Tensor, y: Tensor) -> Tensor:
            return _losses(phi, y, self._support.labels).sum()

        by_x, by_y = self._back(x, batch.rows, self._support, loss, y)
        return by_x, by_y + REGULARISER * y

    def upper_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        def loss(phi: Tensor, y: Tensor) -> Tensor:
            return _losses(phi, y, self._query.labels).sum() / len(batch.rows)

        return self._back(x, batch.rows, self._query, loss, y)

    def lower_value(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        layers = self._layers(y)
        losses = _losses(self._support_features(x, batch.rows), layers, self._support.labels)
        return losses.sum(1) + REGULARISER / 2 * (layers * layers).sum((1, 2, 3))

    def upper_value(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        phi = torch.stack([self._features(row, batch.rows, self._query) for row in x])
        return _losses(phi, self._layers(y), self._query.labels).mean(1)

    # --- metrics and evaluation

    def metrics(self, x: Tensor, y: Tensor) -> list[dict[str, float]]:
        """The evaluation on `curve_tasks` tasks of each split: ten are 1500 images, at 64x64 pixels 1.5 s of
        one core, three quarters of an upper iteration of eight tasks."""
        return self._named(torch.stack([self._measure(row, self.curve_tasks) for row in x]))

    def evaluate(self, x: Tensor, y: Tensor) -> dict[str, float]:
        return self._named(self._measure(x, self.evaluation_tasks).unsqueeze(0))[0]

    def part_of_evaluation(self, x: Tensor, y: Tensor) -> float:
        tasks = min(PAIR, self.evaluation_tasks)
        for row in x:
            self._measure(row, tasks)
        return tasks / self.evaluation_tasks

    def _named(self, found: Tensor) -> list[dict[str, float]]:
        """Metrics of N trials as `_measure` has them."""
        names = [f"{split}_{name}" for split in SPLITS for name in ("loss", "accuracy")]
        return [dict(zip(names, row, strict=True)) for row in found.tolist()]

    def _measure(self, x: Tensor, number: int) -> Tensor:
        """Of one trial and each split, the mean loss and the mean accuracy in percent, in a row."""
        found = []
        for split in SPLITS:
            tasks = torch.split(
                self._images_of[split][:number], TOGETHER if self.statistics == "task" else PAIR
            )
            losses, accuracies = zip(*(self._adapted(x, some) for some in tasks), strict=True)
            found += [torch.cat(losses).double().mean(), 100 * torch.cat(accuracies).double().mean()]
        return torch.stack(found)

    def _adapted(self, x: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor]:
        """Losses and accuracies on the query images of each task (T,), after steps on its support images."""
        phi = self._network(x, self._images(tasks, self._support))
        layers = phi.new_zeros(len(tasks), self.features + 1, self.ways)
        for _ in range(ADAPTATION_STEPS):
            layers = layers - ADAPTATION_STEP_SIZE * self._lower_slope(phi, layers)
        phi = self._network(x, self._images(tasks, self._query))
        right = (phi @ layers).argmax(2) == self._query.labels
        return _losses(phi, layers, self._query.labels), right.double().mean(1)

    def memory(self, pack: int, batch_size: int | None) -> int:
        """Images, twice over while they are read; seven numbers for each of a first block's outputs, of the
        images that pass through the network together; and per trial the features of a mini-batch's support
        images, twice over, and some vectors."""
        drawn = self.tasks if batch_size is None else min(batch_size, self.tasks)
        _, height, width, _ = self._pixels.shape
        through = min(drawn, TOGETHER) if self.statistics == "task" else drawn
        images = through * max(self.lower_worth, self.upper_worth)
        network = 7 * images * self.channels * height * width
        features = 2 * drawn * self.lower_worth * (self.features + 1)
        trial = features + 6 * self.dim_x + 12 * drawn * self.dim_y
        return 2 * self._pixels.numel() + self._dtype.itemsize * (network + pack * trial)


def _exact() -> AbstractContextManager[None]:
    """Convolutions on a GPU in the precision of their numbers, and the same every time."""
    return cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)


def _residuals(phi: Tensor, layers: Tensor, labels: Tensor) -> Tensor:
    """(softmax(phi y) - E) / n, shape (..., n, c)."""
    p = torch.softmax(phi @ layers, -1)
    return (p - one_hot(labels, p.shape[-1])) / len(labels)


def _losses(phi: Tensor, layers: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropies of tasks, phi (..., n, d + 1), layers (..., d + 1, c): shape (...)."""
    logits = phi @ layers
    each = cross_entropy(logits.flatten(0, -2), labels.expand(logits.shape[:-1]).flatten(), reduction="none")
    return each.view(logits.shape[:-1]).mean(-1)
