"""Which examples a derivative is taken on: as a solver names them, and as a problem gets them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Level = Literal["lower", "upper"]


@dataclass(frozen=True)
class MiniBatch:
    """A mini-batch as a solver holds it: its place in the streams, never the examples themselves. The oracle
    finds and charges what lies there, so a copy with other values is simply another mini-batch.

    level: of whose examples. phase, size, step, nest: the place (`harness.streams`); size None: all examples.
    trials: positions among the running trials of those it serves.
    number: the first so many batches of the stream as one, for each trial served, shape (n,); None: just one.
    """

    level: Level
    phase: str
    size: int | None
    trials: slice | Tensor
    step: int = 0
    nest: tuple[int, ...] = ()
    number: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Examples as a problem gets them, the same for every trial that the derivative serves.

    rows: example numbers, shape (B,), ascending.
    counts: how often each trial drew each row, shape (N, B); None where every trial drew each row once.
    full: rows are all examples of the level.
    on_host: rows on the CPU, where a device has them as well: for what is decided by them before anything is
    computed, since reading them off a device would wait for it.
    """

    rows: Tensor
    counts: Tensor | None = None
    full: bool = False
    on_host: Tensor | None = None

    def below(self, example: int) -> int:
        """How many rows are below an example's number: they come first, as rows ascend."""
        rows = self.rows if self.on_host is None else self.on_host
        return int(torch.searchsorted(rows, example))

    def weights(self, like: Tensor) -> Tensor | None:
        """counts as weights of a mean, each row summing to one, in the dtype of `like`."""
        if self.counts is None:
            return None
        return self.counts.to(like.dtype) / self.counts.sum(1, keepdim=True)
