"""Where a trial is: all that a cost may depend on, and what random choices are a function of."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from harness.batch import Level
from harness.params import MOST_STEPS
from harness.problem import Problem
from harness.streams import EPOCHS, THROUGH, generator, part, samples


class Place(NamedTuple):
    """An upper iteration of the trials of a pack, and the sizes of their problem.

    iteration: s = 0, 1, ... lower_worth, upper_worth: samples an example is worth. dim_x, dim_y: of the
    problem; a dense Hessian is charged as dim_y products. mini_batch: by example, how many examples every
    batch of this upper iteration has; None where there is one lower problem.
    """

    seed: int
    iteration: int
    lower_examples: int
    upper_examples: int
    lower_worth: int
    upper_worth: int
    dim_x: int
    dim_y: int
    mini_batch: int | None

    def at(self, iteration: int, mini_batch: int | None = None) -> Place:
        """The same trials at another upper iteration."""
        examples = (self.lower_examples, self.upper_examples, self.lower_worth, self.upper_worth)
        return Place(self.seed, iteration, *examples, self.dim_x, self.dim_y, mini_batch)

    def uniform(self, name: str) -> float:
        """A number in [0, 1) that depends on the seed, the upper iteration and `name` alone: the same for all
        trials, and for `cost` and `step`."""
        return float(generator(self.seed, self.iteration, name).random())

    def lower_samples(
        self, steps: int | Tensor, batch_size: int | None, phase: str = "lower"
    ) -> Tensor | int:
        """Samples of one lower derivative on each of the first `steps` mini-batches; batch_size None: all
        examples. phase matters where it is "epochs" or "partition": one batch, for each of the `steps`."""
        return self._samples("lower", self.lower_worth, steps, batch_size, phase)

    def upper_samples(
        self, batch_size: int | None, phase: str = EPOCHS, steps: int | Tensor = 1
    ) -> Tensor | int:
        """Samples of one upper derivative on each of the first `steps` mini-batches."""
        return self._samples("upper", self.upper_worth, steps, batch_size, phase)

    def _samples(
        self, level: Level, worth: int, steps: int | Tensor, batch_size: int | None, phase: str
    ) -> Tensor | int:
        if isinstance(steps, int):
            steps = min(steps, MOST_STEPS)
        if self.mini_batch is not None:
            return steps * (self.mini_batch * worth)
        examples = self.examples(level)
        size = examples if batch_size is None else min(batch_size, examples)
        if phase in THROUGH:
            place = self.iteration % -(-examples // size) if phase == EPOCHS else self.part(level, batch_size)
            return steps * (min(size, examples - place * size) * worth)
        return samples(steps, size, examples) * worth

    def examples(self, level: Level) -> int:
        return self.lower_examples if level == "lower" else self.upper_examples

    def part(self, level: Level, batch_size: int | None) -> int:
        """Which part of the partition this upper iteration's "partition" batch is: 0, ..., parts - 1."""
        examples = self.examples(level)
        size = examples if batch_size is None else min(batch_size, examples)
        return part(self.seed, self.iteration, level, size, examples)

    def parts(self, level: Level, batch_size: int | None) -> int:
        """How many batches the partition has."""
        examples = self.examples(level)
        return -(-examples // (examples if batch_size is None else min(batch_size, examples)))


def first_place(problem: Problem, seed: int, batch_size: int | None) -> Place:
    """The first upper iteration on a problem; batch_size: of a mini-batch, where it is by example."""
    examples = problem.upper_examples
    mini_batch = None
    if problem.by_example:
        mini_batch = examples if batch_size is None else min(batch_size, examples)
    sizes = (problem.lower_examples, examples, problem.lower_worth, problem.upper_worth)
    return Place(seed, 0, *sizes, problem.dim_x, problem.dim_y, mini_batch)


def whole(number: Tensor) -> Tensor:
    """A real number of steps (N, 1) or (N,), rounded up, as a count (N,) of at least 1 and at most 2^31."""
    steps = torch.ceil(number.detach().cpu().double().flatten())
    return torch.nan_to_num(steps, nan=1.0).clamp(1, MOST_STEPS).long()
