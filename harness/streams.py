"""Mini-batches as a pure function of (seed, upper iteration, phase, step): random access, no shared state.

Within one phase of one upper iteration the batches cut a fresh random permutation of the examples into
consecutive slices, then another permutation, epoch by epoch: without replacement inside an epoch, the
last batch of an epoch short where the batch size does not divide the number of examples. Streams of
different phases and of different upper iterations are independent, but for the phase "upper": it is one
stream through all upper iterations, one batch each. All trials of a seed meet the same batch at the same
place.
"""

import zlib

import numpy as np
import torch
from torch import Tensor

PHASES = ("lower", "system", "cross", "upper")


def generator(*place: int | str) -> np.random.Generator:
    """A generator that depends on `place` and nothing else."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in place]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def samples(steps: Tensor, batch_size: int, examples: int) -> Tensor:
    """Examples in the first `steps` batches of a stream, short last batches counted exactly."""
    per_epoch = -(-examples // batch_size)
    rest = torch.clamp(steps % per_epoch * batch_size, max=examples)
    return steps // per_epoch * examples + rest


class Streams:
    """The mini-batches of one seed over a lower and an upper set of examples."""

    def __init__(self, seed: int, lower_examples: int, upper_examples: int, device: torch.device) -> None:
        self.seed = seed
        self.device = device
        self._examples = {phase: lower_examples for phase in PHASES} | {"upper": upper_examples}
        self._full = {n: torch.arange(n, device=device) for n in {lower_examples, upper_examples}}
        self._cache: dict[tuple[str, int], tuple[int, Tensor, tuple[Tensor, ...]]] = {}

    def examples(self, phase: str) -> int:
        return self._examples[phase]

    def _epoch(self, iteration: int, phase: str, epoch: int, size: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The epoch's permutation, sorted inside each batch, and its batches; one kept per phase and size."""
        key, place = (phase, size), iteration << 32 | epoch
        if key not in self._cache or self._cache[key][0] != place:
            examples = self._examples[phase]
            order = generator(self.seed, iteration, phase, epoch).permutation(examples)
            whole = examples // size * size
            order[:whole] = np.sort(order[:whole].reshape(-1, size), axis=1).ravel()
            order[whole:].sort()
            rows = torch.from_numpy(order).to(self.device)
            self._cache[key] = (place, rows, torch.split(rows, size))
        return self._cache[key][1:]

    def rows(self, iteration: int, phase: str, step: int, size: int | None) -> Tensor:
        """Sorted example numbers of one mini-batch; size None, or at least the set: all of them."""
        examples = self._examples[phase]
        if size is None or size >= examples:
            return self._full[examples]
        if phase == "upper":
            iteration, step = 0, iteration + step
        epoch, place = divmod(step, -(-examples // size))
        return self._epoch(iteration, phase, epoch, size)[1][place]

    def counts(self, iteration: int, phase: str, steps: list[int], size: int | None) -> Tensor:
        """How often each example occurs in the first steps[n] batches, shape (N, examples), int64."""
        examples = self._examples[phase]
        size = examples if size is None else min(size, examples)
        table = torch.zeros(len(steps), examples, dtype=torch.int64, device=self.device)
        for row, number in zip(table, steps, strict=True):
            epochs, rest = divmod(number, -(-examples // size))
            row += epochs
            if rest:
                row[self._epoch(iteration, phase, epochs, size)[0][: rest * size]] += 1
        return table
