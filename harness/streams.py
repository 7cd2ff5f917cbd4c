"""Mini-batches as a pure function of (seed, upper iteration, level, phase, step): random access, no state.

A phase is any name. Within one phase of one upper iteration the batches cut a fresh random permutation of
the level's examples into consecutive slices, then another permutation, epoch by epoch: without replacement
inside an epoch, the last batch of an epoch short where the batch size does not divide the number of
examples. Streams of different phases and of different upper iterations are independent. Two phases are one
stream through all upper iterations, one batch in each:

    "epochs"     the epochs go on from upper iteration to upper iteration
    "partition"  the same with the examples cut into batches once and for all: a batch comes again, as a
                 whole, in every epoch, at another place of it

All trials of a seed meet the same batch at the same place.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from harness.batch import Batch, Level
from harness.device import onto

EPOCHS, PARTITION = "epochs", "partition"
THROUGH = (EPOCHS, PARTITION)
KEPT = 16  # permutations kept
BLOCK = 16  # batches cut at once: a view by itself costs as much as all of them


def generator(*place: int | str) -> np.random.Generator:
    """A generator that depends on `place` and nothing else."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in place]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def samples(steps: int | Tensor, size: int, examples: int) -> int | Tensor:
    """Examples in the first `steps` batches of a stream, short last batches counted exactly."""
    per_epoch = -(-examples // size)
    left = steps % per_epoch * size
    rest = torch.clamp(left, max=examples) if isinstance(left, Tensor) else min(left, examples)
    return steps // per_epoch * examples + rest


def _word(level: Level, phase: str, nest: tuple[int, ...] = ()) -> str:
    own = phase if level == "lower" else f"{level} {phase}"
    return own if not nest else f"{own} in {nest}"


@lru_cache(maxsize=8)
def _order(seed: int, word: str, epoch: int, parts: int) -> tuple[int, ...]:
    """Which part of the partition is met when in an epoch."""
    return tuple(generator(seed, epoch, word, "order").permutation(parts).tolist())


def part(seed: int, iteration: int, level: Level, size: int, examples: int) -> int:
    """The part of the partition that an upper iteration meets."""
    parts = -(-examples // size)
    epoch, place = divmod(iteration, parts)
    return _order(seed, _word(level, PARTITION), epoch, parts)[place]


@dataclass(frozen=True)
class _Epoch:
    """A permutation, sorted inside each batch, on the device and on the CPU, and its blocks of batches."""

    rows: Tensor
    on_host: Tensor
    size: int
    blocks: dict[int, tuple[Batch, ...]]

    def batch(self, place: int) -> Batch:
        block, within = divmod(place, BLOCK)
        if block not in self.blocks:
            rows = self._cut(self.rows, block)
            on_host = rows if self.on_host is self.rows else self._cut(self.on_host, block)
            pairs = zip(rows, on_host, strict=True)
            self.blocks[block] = tuple(Batch(here, on_host=there) for here, there in pairs)
        return self.blocks[block][within]

    def _cut(self, rows: Tensor, block: int) -> tuple[Tensor, ...]:
        start, most = block * BLOCK * self.size, BLOCK * self.size
        return torch.split(rows[start : start + most], self.size)


class Streams:
    """The mini-batches of one seed over a lower and an upper set of examples."""

    def __init__(self, seed: int, lower_examples: int, upper_examples: int, device: torch.device) -> None:
        self.seed = seed
        self.device = device
        self.examples = {"lower": lower_examples, "upper": upper_examples}
        self._full = {
            n: Batch(torch.arange(n, device=device), full=True, on_host=torch.arange(n))
            for n in {lower_examples, upper_examples}
        }
        self._kept: OrderedDict[tuple[str, int], tuple[tuple[int, int], _Epoch]] = OrderedDict()

    def _epoch(self, iteration: int, word: str, epoch: int, size: int, examples: int) -> _Epoch:
        """One epoch is kept per stream and size."""
        key, place = (word, size), (iteration, epoch)
        kept = self._kept.get(key)
        if kept is None or kept[0] != place:
            order = generator(self.seed, iteration, word, epoch).permutation(examples)
            whole = examples // size * size
            order[:whole] = np.sort(order[:whole].reshape(-1, size), axis=1).ravel()
            order[whole:].sort()
            on_host = torch.from_numpy(order)
            kept = place, _Epoch(onto(self.device, on_host), on_host, size, {})
            self._kept[key] = kept
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return kept[1]

    def batch(
        self,
        iteration: int,
        level: Level,
        phase: str,
        step: int,
        size: int | None,
        nest: tuple[int, ...] = (),
    ) -> Batch:
        """One mini-batch; size None, or at least the set: all examples.

        nest: the steps of the loops around the one that `step` counts."""
        examples = self.examples[level]
        if size is None or size >= examples:
            return self._full[examples]
        word = _word(level, phase, nest)
        if phase == PARTITION:
            place = part(self.seed, iteration, level, size, examples)
            return self._epoch(0, word, 0, size, examples).batch(place)
        if phase == EPOCHS:
            iteration, step = 0, iteration
        epoch, place = divmod(step, -(-examples // size))
        return self._epoch(iteration, word, epoch, size, examples).batch(place)

    def several(self, iteration: int, phase: str, steps: list[int], size: int | None) -> Batch:
        """The first steps[n] lower mini-batches of trial n as one: every row that some trial draws, with how
        often each does."""
        examples = self.examples["lower"]
        size = examples if size is None else min(size, examples)
        split = torch.tensor([divmod(number, -(-examples // size)) for number in steps])
        epochs, rest = split[:, :1], split[:, 1:]
        most = max(steps) * size
        every = self._full[examples]
        drawn = every
        if most < examples:
            first = torch.sort(self._epoch(iteration, phase, 0, size, examples).on_host[:most]).values
            drawn = Batch(onto(self.device, first), on_host=first)
        assert drawn.on_host is not None
        counts = onto(self.device, epochs).repeat(1, len(drawn.on_host))
        for epoch in sorted({number for number, left in split.tolist() if left}):
            order = self._epoch(iteration, phase, epoch, size, examples).on_host
            place = torch.empty_like(order)
            place[order] = torch.arange(examples) // size
            within = torch.where(epochs == epoch, rest, 0)
            counts += onto(self.device, place[drawn.on_host]) < onto(self.device, within)
        return Batch(drawn.rows, counts, drawn.full, drawn.on_host)
