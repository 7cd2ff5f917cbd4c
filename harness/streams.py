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
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.batch import Batch, Level
from harness.device import onto
from harness.permutation import keys_of, permuted

EPOCHS, PARTITION = "epochs", "partition"
THROUGH = (EPOCHS, PARTITION)
KEPT = 16  # permutations kept
MOST_WRITTEN = 100_000
"""Of more examples, a permutation is computed where it is met: most of it never is."""
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


Between = Callable[[int, int], tuple[Tensor, Tensor]]
"""The examples at the places of a permutation from one to another, sorted inside each batch, on the device
and on the CPU."""


@dataclass(frozen=True)
class _Epoch:
    """A permutation in batches, and the blocks of batches that were met."""

    examples: int
    size: int
    between: Between
    blocks: dict[int, tuple[Batch, ...]]

    def batch(self, place: int) -> Batch:
        block, within = divmod(place, BLOCK)
        if block not in self.blocks:
            start = block * BLOCK * self.size
            rows, on_host = self.between(start, min(start + BLOCK * self.size, self.examples))
            cut = torch.split(rows, self.size)
            there = cut if on_host is rows else torch.split(on_host, self.size)
            pairs = zip(cut, there, strict=True)
            self.blocks[block] = tuple(Batch(here, on_host=its) for here, its in pairs)
        return self.blocks[block][within]

    def first(self, places: int) -> Tensor:
        """The examples at the first places, whole batches or all, on the CPU."""
        return self.between(0, places)[1]


def _written(draw: np.random.Generator, examples: int, size: int, device: torch.device) -> Between:
    """A permutation drawn and sent to the device as a whole."""
    on_host = torch.from_numpy(_sorted(draw.permutation(examples), size))
    rows = onto(device, on_host)

    def between(start: int, stop: int) -> tuple[Tensor, Tensor]:
        part = on_host[start:stop]
        return (part if rows is on_host else rows[start:stop]), part

    return between


def _computed(draw: np.random.Generator, examples: int, size: int, device: torch.device) -> Between:
    """A permutation of which no more is computed than what is met."""
    keys = keys_of(draw)

    def between(start: int, stop: int) -> tuple[Tensor, Tensor]:
        part = torch.from_numpy(_sorted(permuted(np.arange(start, stop), keys, examples), size))
        return onto(device, part), part

    return between


def _sorted(order: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """In place, inside each batch."""
    whole = len(order) // size * size
    order[:whole] = np.sort(order[:whole].reshape(-1, size), axis=1).ravel()
    order[whole:].sort()
    return order


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
            make = _written if examples <= MOST_WRITTEN else _computed
            between = make(generator(self.seed, iteration, word, epoch), examples, size, self.device)
            kept = place, _Epoch(examples, size, between, {})
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
            first = torch.sort(self._epoch(iteration, phase, 0, size, examples).first(most)).values
            drawn = Batch(onto(self.device, first), on_host=first)
        assert drawn.on_host is not None
        counts = onto(self.device, epochs).repeat(1, len(drawn.on_host))
        for epoch in sorted({number for number, left in split.tolist() if left}):
            met = min(most, examples)
            place = torch.full((examples,), met)
            order = self._epoch(iteration, phase, epoch, size, examples).first(met)
            place[order] = torch.arange(met) // size
            within = torch.where(epochs == epoch, rest, 0)
            counts += onto(self.device, place[drawn.on_host]) < onto(self.device, within)
        return Batch(drawn.rows, counts, drawn.full, drawn.on_host)
