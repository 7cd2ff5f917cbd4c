"""The engine's side of the door: serves derivatives of a problem to the trials of a pack, charging first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from harness.batch import Batch, Level, MiniBatch
from harness.budget import Accountant
from harness.device import onto
from harness.errors import PluginError
from harness.place import Place, first_place
from harness.problem import DERIVATIVES, Problem
from harness.streams import EPOCHS, THROUGH, Streams

WATCHED = (
    *("lower_loss", "lower_map", "upper_loss", "lower_value", "upper_value", "metrics"),
    *DERIVATIVES,
    *("hessian", "cross_matrix", "evaluate", "evaluate_pack", "part_of_evaluation"),
)


class Meter:
    """What an `Oracle` stands for. A solver is never handed this.

    Args: start: x0 (dim_x,) and y0 (dim_y,). batch_size: examples of every batch where the problem is
    `by_example`; None: all.
    Attributes: live: positions in the pack of the trials that still run. trials: how many they are. place:
    the current upper iteration.
    system_failed: trials whose system solve was not finite in it, shape (N,).
    """

    def __init__(
        self,
        problem: Problem,
        streams: Streams,
        accountant: Accountant,
        start: tuple[Tensor, Tensor],
        batch_size: int | None = None,
    ) -> None:
        self.problem, self.streams, self.accountant, self.start = problem, streams, accountant, start
        self.batch_size = batch_size
        self.live = np.arange(len(accountant.spent))
        self.trials = len(self.live)
        self.everyone = True
        self.place: Place = first_place(problem, streams.seed, batch_size)
        self.system_failed: Tensor | None = None
        self.trespass = ""
        self._closed = False
        self._met: dict[Level, tuple[MiniBatch, Batch, int]] = {}  # the last of each level: mostly met again

    @property
    def running(self) -> slice | np.ndarray:
        """`live`, as a slice while no trial has ended."""
        return slice(None) if self.everyone else self.live

    def begin(self, iteration: int, keep: slice | Tensor = slice(None)) -> None:
        """The next upper iteration, of the trials that go on."""
        if isinstance(keep, Tensor) or keep != slice(None):
            self.live = self.live[keep if isinstance(keep, slice) else keep.numpy()]
            self.trials = len(self.live)
            self.everyone = False
        self.place = self.place.at(iteration)
        if self.problem.by_example:
            self.place = self.place.at(iteration, len(self.mini_batch))
        self.system_failed = None
        self._met.clear()

    @property
    def mini_batch(self) -> Tensor:
        """By example, the upper examples that this upper iteration is about: all its batches are these."""
        return self._by_example().rows

    def _by_example(self) -> Batch:
        return self.streams.batch(self.place.iteration, "upper", EPOCHS, 0, self.batch_size)

    # --- no way past the door

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Notice whatever of the problem is called while a solver is at work, but by this meter."""
        own = {name: value for name, value in vars(self.problem).items() if name in WATCHED}
        for name in WATCHED:
            setattr(self.problem, name, self._watched(name, getattr(self.problem, name)))
        try:
            yield
        finally:
            for name in WATCHED:
                delattr(self.problem, name)
            vars(self.problem).update(own)

    def _watched(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if self._closed:
                self.trespass = f"the solver called {name} of the problem itself, past the oracle"
                raise PluginError(self.trespass)
            return method(*args)

        return call

    def at_work(self, call: Callable[..., Any], *args: Any) -> Any:
        """What a solver's method returns. Raises PluginError where it went past the oracle, even if it caught
        the error."""
        self._closed = True
        try:
            returned = call(*args)
        finally:
            self._closed = False
        if self.trespass:
            raise PluginError(self.trespass)
        return returned

    # --- serving

    def serve(
        self,
        kind: str,
        level: Level,
        method: Callable[..., Any],
        batch: MiniBatch,
        *variables: Tensor,
        times: int = 1,
    ) -> Any:
        """method(*variables, examples of the batch), charged `times` its samples of `kind` first.

        level: that the derivative is of. variables: x (n, dim_x), then any number shaped like y, of the n
        trials that the batch serves."""
        if batch.level != level:
            raise PluginError(f"a batch of {batch.level} examples for a derivative of the {level} level")
        trials: slice | np.ndarray
        if batch.trials == slice(0, self.trials):
            trials, served = slice(None), self.trials
        elif isinstance(batch.trials, slice):
            trials, served = batch.trials, len(range(*batch.trials.indices(self.trials)))
        elif batch.trials.dtype == torch.int64:
            trials, served = batch.trials.numpy(), len(batch.trials)
        else:
            raise PluginError(f"a batch for trials {batch.trials.dtype}; expected their positions, int64")
        own = self._own(variables, served)
        examples, drawn = self._examples(batch, served)
        self.accountant.charge(kind, trials, times * drawn)
        closed, self._closed = self._closed, False
        try:
            return method(*own, examples)
        finally:
            self._closed = closed

    def _own(self, variables: tuple[Tensor, ...], served: int) -> list[Tensor]:
        """Variables that one derivative can be taken at and no more: neither more rows than trials, nor a
        tensor through which others would follow for nothing (batched, dual or complex numbers, a graph)."""
        name, shape, dtype = "x", (served, self.place.dim_x), self.start[0].dtype
        own = []
        for value in variables:
            if type(value) is not Tensor or value.size() != shape:
                found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise PluginError(f"{name} is {found}; expected {shape}: one row for each trial served")
            if value.dtype != dtype:
                raise PluginError(f"{name} is {value.dtype}; expected {dtype}")
            try:
                value.data_ptr()
            except RuntimeError:
                raise PluginError(
                    f"{name} is under a transformation of torch.func; expected a plain tensor"
                ) from None
            tangent: Tensor | None = forward_ad.unpack_dual(value).tangent  # type: ignore[no-untyped-call]
            if tangent is not None:
                raise PluginError(f"{name} is a dual number; expected a plain tensor")
            own.append(value.detach() if value.requires_grad else value)
            name, shape = "y or a vector like y", (served, self.place.dim_y * (self.place.mini_batch or 1))
        return own

    def _examples(self, batch: MiniBatch, served: int) -> tuple[Batch, int | np.ndarray]:
        """The examples at a place, and how many samples they are for each trial served."""
        met, examples, drawn = self._met.get(batch.level, (None, None, 0))
        if met is not batch:
            examples = self._drawn(batch)
            worth = self.place.lower_worth if batch.level == "lower" else self.place.upper_worth
            drawn = examples.rows.shape[0] * worth
            self._met[batch.level] = batch, examples, drawn
        assert examples is not None
        if batch.number is None:
            return examples, drawn
        if batch.number.shape != (served,) or not (batch.number >= 1).all():
            raise PluginError(f"a number of batches for each of {served} trials, 1 or more, was expected")
        samples = self.place.lower_samples(batch.number, batch.size)
        assert isinstance(samples, Tensor)
        return self._several(batch, examples), samples.numpy()

    def _drawn(self, batch: MiniBatch) -> Batch:
        if self.problem.by_example:
            return self._by_example()
        if batch.phase in THROUGH and batch.step:
            raise PluginError(
                f'the phase "{batch.phase}" has one batch in an upper iteration, but step {batch.step} '
                "was asked for; give the phase a name of your own"
            )
        place = (batch.level, batch.phase, batch.step, batch.size, batch.nest)
        return self.streams.batch(self.place.iteration, *place)

    def _several(self, batch: MiniBatch, first: Batch) -> Batch:
        """The first batches of a stream as one: a row drawn several times is computed once, with its
        count."""
        assert batch.number is not None
        steps = batch.number.tolist()
        if set(steps) == {1}:
            return first
        if first.full or self.problem.by_example:
            counts = onto(first.rows.device, torch.tensor(steps)).unsqueeze(1).expand(-1, len(first.rows))
            return dataclasses.replace(first, counts=counts)
        return self.streams.several(self.place.iteration, batch.phase, steps, batch.size)
