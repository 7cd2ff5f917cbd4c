"""The metered door from a solver to a problem, and the ragged loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from harness.budget import Accountant
from harness.problem import Batch, Problem
from harness.streams import Streams, generator, samples

Value = TypeVar("Value", Tensor, tuple[Tensor, ...])
Body = Callable[..., Value]


class Oracle:
    """Derivatives of one problem for the trials of a pack that still run.

    Every derivative is charged, by kind and by the examples of its batch, before it is computed. A solver
    sees nothing else of the problem.

    Args: batch_size: examples of every batch where the problem is `by_example`; None: all.
    Attributes: iteration: the current upper iteration s = 0, 1, ...
    """

    def __init__(
        self,
        problem: Problem,
        streams: Streams,
        accountant: Accountant,
        start: tuple[Tensor, Tensor],
        batch_size: int | None = None,
    ):
        self._problem = problem
        self._streams = streams
        self._accountant = accountant
        self._live = np.arange(len(accountant.ledger))
        self._start = start
        self._batch_size = batch_size
        self.iteration = 0
        self.system_failed = torch.zeros(len(self._live), dtype=torch.bool)

    @property
    def trials(self) -> int:
        """How many still run: N."""
        return len(self._live)

    @property
    def live(self) -> np.ndarray:
        """Positions in the pack of the trials that still run."""
        return self._live

    @property
    def x0(self) -> Tensor:
        """The fixed start of x, shape (N, dim_x)."""
        return self._start[0].repeat(self.trials, 1)  # not expanded: a gather would copy it whole every time

    @property
    def y0(self) -> Tensor:
        """The fixed start of y, shape (N, dim_y); by example, of every example of the mini-batch."""
        copies = len(self.mini_batch) if self._problem.by_example else 1
        return self._start[1].repeat(self.trials, copies)

    @property
    def mini_batch(self) -> Tensor:
        """The upper examples that this upper iteration is about, by example: all its batches are these."""
        return self._streams.rows(self.iteration, "upper", 0, self._batch_size)

    def begin(self, iteration: int, keep: slice | Tensor) -> None:
        """Called by the engine: the next upper iteration, of the trials that go on."""
        self._live = self._live[keep if isinstance(keep, slice) else keep.numpy()]
        self.iteration = iteration
        self.system_failed = torch.zeros(self.trials, dtype=torch.bool)

    def uniform(self, name: str) -> float:
        """A number in [0, 1) that depends on the seed, the upper iteration and `name` alone: the same for
        all trials, and for `cost` and `step`."""
        return float(generator(self._streams.seed, self.iteration, name).random())

    # --- mini-batches and what they cost

    def lower_samples(self, steps: Tensor | int, batch_size: int | None = None) -> Tensor:
        """Samples of one lower derivative on each of the first `steps` mini-batches (None: full batches)."""
        counts = torch.as_tensor(steps)
        if self._problem.by_example:
            return counts * len(self.mini_batch)
        examples = self._problem.lower_examples
        return samples(counts, examples if batch_size is None else min(batch_size, examples), examples)

    def upper_samples(self, batch_size: int | None = None) -> int:
        """Samples of the upper gradient on this upper iteration's batch (None: all upper examples)."""
        return len(self.batch("upper", batch_size).rows)

    def batch(
        self, phase: str, batch_size: int | None = None, step: int = 0, trials: slice | Tensor = slice(None)
    ) -> Batch:
        """The mini-batch at (phase, step) of this upper iteration; batch_size None: the full set."""
        if self._problem.by_example:
            rows = self.mini_batch
        else:
            rows = self._streams.rows(self.iteration, phase, step, batch_size)
        return Batch(rows, trials, step, full=len(rows) == self._streams.examples(phase))

    def batches(self, phase: str, number: Tensor | int, batch_size: int | None = None) -> Batch:
        """The first number[n] mini-batches of trial n as one: a row drawn several times is computed once,
        with its count, and charged in full."""
        steps = torch.as_tensor(number).expand(self.trials).tolist()
        first = self.batch(phase, batch_size)
        if set(steps) == {1}:
            return first
        if first.full or self._problem.by_example:
            counts = torch.tensor(steps, device=first.rows.device).unsqueeze(1).expand(-1, len(first.rows))
            return Batch(first.rows, first.trials, counts=counts, full=first.full)
        counts = self._streams.counts(self.iteration, phase, steps, batch_size)
        rows = counts.any(0).nonzero().squeeze(1)
        return Batch(rows, slice(None), counts=counts[:, rows], full=len(rows) == counts.shape[1])

    # --- the ragged loop

    def loop(
        self,
        phase: str,
        steps: Tensor,
        body: Body[Value],
        value: Value,
        *operands: Tensor,
        batch_size: int | None = None,
        fixed: bool = False,
    ) -> Value:
        """value <- body(batch, value, *operands), steps[n] times for trial n, a fresh batch each time, or
        (`fixed`) always the first.

        value: a tensor or a tuple of tensors. The body sees the rows of the trials still in the loop,
        which batch.trials names, and nothing of the others: with the trials in order of falling counts
        these are leading slices, so nothing is copied when one drops out.
        """
        counts = steps.tolist()
        values: tuple[Tensor, ...] = value if isinstance(value, tuple) else (value,)
        order = sorted(range(len(counts)), key=lambda n: -counts[n])
        index = None if order == list(range(len(counts))) else torch.tensor(order)
        if index is not None:
            onto = index.to(values[0].device)
            counts = [counts[n] for n in order]
            values, operands = _rows(values, onto), _rows(operands, onto)
        finished: list[tuple[Tensor, ...]] = []
        live = len(counts)
        trials: slice | Tensor = slice(0, live) if index is None else index
        for step in range(counts[0]):
            if counts[live - 1] <= step:
                now = next(n for n in range(live) if counts[n] <= step)
                finished.append(_rows(values, slice(now, live)))
                values, operands, live = _rows(values, slice(now)), _rows(operands, slice(now)), now
                trials = slice(0, live) if index is None else index[:live]
            batch = self.batch(phase, batch_size, 0 if fixed else step, trials)
            if isinstance(value, tuple):
                values = body(batch, values, *operands)
            else:
                values = (body(batch, values[0], *operands),)
        if finished:
            values = tuple(torch.cat(parts) for parts in zip(values, *reversed(finished), strict=True))
        if index is not None:
            values = _rows(values, torch.argsort(onto))
        return values if isinstance(value, tuple) else values[0]

    # --- derivatives

    def _charge(self, kind: str, batch: Batch) -> None:
        trials = batch.trials if isinstance(batch.trials, slice) else batch.trials.numpy()
        drawn = len(batch.rows) if batch.counts is None else batch.counts.sum(1).cpu().numpy()
        self._accountant.charge(kind, self._live[trials], drawn)

    def lower_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        """d_y g(x, y; batch), shape of y."""
        self._charge("lower_gradient", batch)
        return self._problem.lower_gradient(x, y, batch)

    def hessian_vector(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        """(d2_yy g(x, y; batch)) v, shape of y."""
        self._charge("hessian_vector", batch)
        return self._problem.hessian_vector(x, y, v, batch)

    def cross(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        """(d2_xy g(x, y; batch)) v, shape (N, dim_x)."""
        self._charge("cross", batch)
        return self._problem.cross(x, y, v, batch)

    def upper_gradient(self, x: Tensor, y: Tensor, batch: Batch | None = None) -> tuple[Tensor, Tensor]:
        """(d_x f, d_y f) at (x, y; batch), charged once; no batch: all upper examples."""
        batch = self.batch("upper") if batch is None else batch
        self._charge("upper_gradient", batch)
        return self._problem.upper_gradient(x, y, batch)

    # --- free of charge

    def projected_step(self, x: Tensor, direction: Tensor, step_size: Tensor) -> Tensor:
        """P(x - step_size * direction)."""
        return self._problem.projected_step(x, direction, step_size)

    def or_start(self, z: Tensor, start: Tensor) -> Tensor:
        """A system solution; where it is not finite, its start vector, noted as a system fallback.

        Costs nothing: what the failed solve used stays charged, and nothing is computed again."""
        failed = ~torch.isfinite(z.sum(1))
        if failed.any():
            failed = ~torch.isfinite(z).all(1)
        self.system_failed |= failed.cpu()
        return torch.where(failed.unsqueeze(1), start, z)


def _rows(values: tuple[Tensor, ...], rows: slice | Tensor) -> tuple[Tensor, ...]:
    return tuple(value[rows] for value in values)
