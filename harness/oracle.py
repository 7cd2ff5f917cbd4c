"""The metered door from a solver to a problem, and the ragged loop."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from harness.budget import Accountant
from harness.problem import Batch, Problem
from harness.streams import Streams, samples

Body = Callable[..., Tensor]


class Oracle:
    """Derivatives of one problem for the trials of a pack that still run.

    Every derivative is charged, by kind and by the examples of its batch, before it is computed. A solver
    sees nothing else of the problem.

    Attributes: iteration: the current upper iteration s = 0, 1, ...  x0 (N, dim_x), y0 (N, dim_y): the
    fixed start. trials: how many still run (N). upper_samples: examples of the upper level.
    """

    def __init__(
        self, problem: Problem, streams: Streams, accountant: Accountant, start: tuple[Tensor, Tensor]
    ):
        self._problem = problem
        self._streams = streams
        self._accountant = accountant
        self._live = np.arange(len(accountant.ledger))
        self._start = start
        self.iteration = 0
        self.system_failed = torch.zeros(len(self._live), dtype=torch.bool)

    @property
    def trials(self) -> int:
        return len(self._live)

    @property
    def live(self) -> np.ndarray:
        """Positions in the pack of the trials that still run."""
        return self._live

    @property
    def x0(self) -> Tensor:
        return self._start[0].repeat(self.trials, 1)  # not expanded: a gather would copy it whole every time

    @property
    def y0(self) -> Tensor:
        return self._start[1].repeat(self.trials, 1)

    @property
    def upper_samples(self) -> int:
        return self._problem.upper_examples

    def begin(self, iteration: int, keep: slice | Tensor) -> None:
        """Called by the engine: the next upper iteration, of the trials that go on."""
        self._live = self._live[keep if isinstance(keep, slice) else keep.numpy()]
        self.iteration = iteration
        self.system_failed = torch.zeros(self.trials, dtype=torch.bool)

    def lower_samples(self, steps: Tensor | int, batch_size: int | None = None) -> Tensor:
        """Samples of one derivative on each of the first `steps` mini-batches (None: full batches)."""
        examples = self._problem.lower_examples
        size = examples if batch_size is None else min(batch_size, examples)
        return samples(torch.as_tensor(steps), size, examples)

    # --- mini-batches and the ragged loop

    def batch(
        self, phase: str, batch_size: int | None = None, step: int = 0, trials: slice | Tensor = slice(None)
    ) -> Batch:
        """The mini-batch at (phase, step) of this upper iteration; batch_size None: the full set."""
        rows = self._streams.rows(self.iteration, phase, step, batch_size)
        return Batch(rows, trials, step, full=len(rows) == self._streams.examples(phase))

    def loop(
        self,
        phase: str,
        steps: Tensor,
        body: Body,
        value: Tensor,
        *operands: Tensor,
        batch_size: int | None = None,
    ) -> Tensor:
        """value <- body(batch, value, *operands), steps[n] times for trial n, a fresh batch each time.

        The body sees the rows of the trials still in the loop and nothing of the others: with the trials
        in order of falling counts these are leading slices, so nothing is copied when one drops out.
        """
        counts = steps.tolist()
        order = sorted(range(len(counts)), key=lambda n: -counts[n])
        if order == list(range(len(counts))):
            return self._sorted_loop(phase, counts, body, value, operands, batch_size, None)
        index = torch.tensor(order)
        onto = index.to(value.device)
        picked = [operand[onto] for operand in operands]
        sorted_counts = [counts[n] for n in order]
        result = self._sorted_loop(phase, sorted_counts, body, value[onto], picked, batch_size, index)
        return result[torch.argsort(onto)]

    def _sorted_loop(
        self,
        phase: str,
        counts: list[int],
        body: Body,
        value: Tensor,
        operands: tuple[Tensor, ...] | list[Tensor],
        batch_size: int | None,
        index: Tensor | None,
    ) -> Tensor:
        finished: list[Tensor] = []
        live = len(counts)
        view = list(operands)
        trials: slice | Tensor = slice(0, live) if index is None else index
        for step in range(counts[0]):
            if counts[live - 1] <= step:
                now = next(n for n in range(live) if counts[n] <= step)
                finished.append(value[now:live])
                value, view, live = value[:now], [operand[:now] for operand in operands], now
                trials = slice(0, live) if index is None else index[:live]
            value = body(self.batch(phase, batch_size, step, trials), value, *view)
        return torch.cat([value, *reversed(finished)]) if finished else value

    # --- derivatives

    def _charge(self, kind: str, batch: Batch) -> None:
        trials = batch.trials if isinstance(batch.trials, slice) else batch.trials.numpy()
        drawn = len(batch.rows) if batch.counts is None else batch.counts.sum(1).cpu().numpy()
        self._accountant.charge(kind, self._live[trials], drawn)

    def lower_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        """d_y g(x, y; batch), shape (N, dim_y)."""
        self._charge("lower_gradient", batch)
        return self._problem.lower_gradient(x, y, batch)

    def hessian_vector(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        """(d2_yy g(x, y; batch)) v, shape (N, dim_y)."""
        self._charge("hessian_vector", batch)
        return self._problem.hessian_vector(x, y, v, batch)

    def upper_gradient(self, x: Tensor, y: Tensor, batch: Batch | None = None) -> tuple[Tensor, Tensor]:
        """(d_x f, d_y f) at (x, y; batch), charged once; no batch: all upper examples."""
        batch = self.batch("upper") if batch is None else batch
        self._charge("upper_gradient", batch)
        return self._problem.upper_gradient(x, y, batch)

    def cross(
        self, x: Tensor, y: Tensor, v: Tensor, batches: Tensor | int, batch_size: int | None = None
    ) -> Tensor:
        """(d2_xy g(x, y)) v averaged over the draws of the first `batches` mini-batches, (N, dim_x).

        An example drawn several times is computed once, with its count, and charged in full."""
        steps = torch.as_tensor(batches).expand(self.trials).tolist()
        examples = self._problem.lower_examples
        if batch_size is None or batch_size >= examples or set(steps) == {1}:
            batch = self.batch("cross", batch_size)
            if set(steps) != {1}:
                counts = torch.tensor(steps, device=x.device).unsqueeze(1).expand(-1, examples)
                batch = Batch(batch.rows, batch.trials, counts=counts, full=True)
        else:
            counts = self._streams.counts(self.iteration, "cross", steps, batch_size)
            rows = counts.any(0).nonzero().squeeze(1)
            batch = Batch(rows, slice(None), counts=counts[:, rows], full=len(rows) == examples)
        self._charge("cross", batch)
        return self._problem.cross(x, y, v, batch)

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
