"""The metered door from a solver to a problem, and the ragged loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar
from weakref import finalize

import torch
from torch import Tensor

from harness.batch import Level, MiniBatch
from harness.device import onto
from harness.errors import PluginError
from harness.params import MOST_STEPS
from harness.place import Place
from harness.streams import EPOCHS, generator

if TYPE_CHECKING:
    from harness.meter import Meter

Value = TypeVar("Value", Tensor, tuple[Tensor, ...])
Body = Callable[..., Value]

_METERS: dict[int, Meter] = {}  # by the identity of an oracle, for as long as it lives


class Oracle:
    """Derivatives of one problem for the trials of a pack that still run: all that a solver sees of it.

    Every derivative is charged, by kind and by the examples of its batch for each trial served, before it is
    computed. All tensors are (n, ...), a row for each trial that the batch serves. Nothing that hangs on an
    oracle leads to the problem, the accountant or the streams.
    """

    __slots__ = ("__weakref__",)

    @classmethod
    def of(cls, meter: Meter) -> Oracle:
        """The face of a meter."""
        oracle = cls()
        _METERS[id(oracle)] = meter
        finalize(oracle, _METERS.pop, id(oracle))
        return oracle

    @property
    def place(self) -> Place:
        """The current upper iteration, and the sizes of the problem."""
        return _METERS[id(self)].place

    @property
    def trials(self) -> int:
        """How many still run: N."""
        return _METERS[id(self)].trials

    @property
    def x0(self) -> Tensor:
        """The fixed start of x, shape (N, dim_x)."""
        return _METERS[id(self)].start[0].repeat(self.trials, 1)  # not expanded: a gather would copy it whole

    @property
    def y0(self) -> Tensor:
        """The fixed start of y, shape (N, dim_y); by example, of every example of the mini-batch."""
        return _METERS[id(self)].start[1].repeat(self.trials, self.place.mini_batch or 1)

    def normal(self, name: str, like: Tensor, step: int = 0) -> Tensor:
        """Independent standard normal numbers (1, width of `like`) that depend on the seed, the upper
        iteration, `name` and `step` alone: the same for all trials."""
        place = self.place
        draw = generator(place.seed, place.iteration, name, step).standard_normal((1, like.shape[1]))
        return torch.from_numpy(draw).to(like)

    # --- mini-batches

    def lower_batch(
        self, phase: str, batch_size: int | None = None, step: int = 0, within: MiniBatch | None = None
    ) -> MiniBatch:
        """The mini-batch of lower examples at (phase, step) of this upper iteration; batch_size None: all.

        phase: a name of the solver's own, or "epochs" or "partition" (`harness.streams`). within: the batch
        that a loop's body was given: then for the trials and at the step of that one."""
        return self._batch("lower", phase, batch_size, step, within)

    def upper_batch(
        self,
        phase: str = EPOCHS,
        batch_size: int | None = None,
        step: int = 0,
        within: MiniBatch | None = None,
    ) -> MiniBatch:
        """The same of upper examples."""
        return self._batch("upper", phase, batch_size, step, within)

    def _batch(
        self, level: Level, phase: str, batch_size: int | None, step: int, within: MiniBatch | None
    ) -> MiniBatch:
        if within is None:
            return MiniBatch(level, phase, batch_size, slice(0, self.trials), step)
        return MiniBatch(level, phase, batch_size, within.trials, within.step, within.nest)

    def lower_batches(self, phase: str, number: Tensor, batch_size: int | None = None) -> MiniBatch:
        """The first number[n] mini-batches of trial n as one, charged in full: the derivative is the mean of
        theirs, weighted by their sizes."""
        return MiniBatch("lower", phase, batch_size, slice(0, self.trials), number=number)

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
        within: MiniBatch | None = None,
    ) -> Value:
        """value <- body(batch, value, *operands), steps[n] times for trial n, a fresh batch of lower examples
        each time, or (`fixed`) always the first.

        value: a tensor or a tuple of tensors. The body sees the rows of the trials still in the loop,
        which batch.trials names, and nothing of the others: with the trials in order of falling counts
        these are leading slices, so nothing is copied when one drops out. within: the batch of the loop
        around this one, in whose body this is: the batches then depend on that loop's step too.
        """
        counts = steps.tolist()
        if max(counts, default=0) > MOST_STEPS:
            raise PluginError(f"a loop of {max(counts)} steps; expected at most {MOST_STEPS}")
        values: tuple[Tensor, ...] = value if isinstance(value, tuple) else (value,)
        order = sorted(range(len(counts)), key=lambda n: -counts[n])
        index = None if order == list(range(len(counts))) else torch.tensor(order)
        if index is not None:
            there = onto(values[0].device, index)
            counts = [counts[n] for n in order]
            values, operands = _rows(values, there), _rows(operands, there)
        finished: list[tuple[Tensor, ...]] = []
        live = len(counts)
        nest: tuple[int, ...] = () if within is None else within.nest + (within.step,)
        served = _served(within, live, index)
        for step in range(counts[0]):
            if counts[live - 1] <= step:
                now = next(n for n in range(live) if counts[n] <= step)
                finished.append(_rows(values, slice(now, live)))
                values, operands, live = _rows(values, slice(now)), _rows(operands, slice(now)), now
            trials = served[:live] if isinstance(served, Tensor) else slice(served.start, served.start + live)
            batch = MiniBatch("lower", phase, batch_size, trials, 0 if fixed else step, nest)
            if isinstance(value, tuple):
                values = body(batch, values, *operands)
            else:
                values = (body(batch, values[0], *operands),)
        if finished:
            values = tuple(torch.cat(parts) for parts in zip(values, *reversed(finished), strict=True))
        if index is not None:
            values = _rows(values, torch.argsort(there))
        return values if isinstance(value, tuple) else values[0]

    def when(
        self,
        condition: Tensor,
        phase: str,
        body: Body[Value],
        value: Value,
        *operands: Tensor,
        batch_size: int | None = None,
        within: MiniBatch | None = None,
    ) -> Value:
        """body(batch, value, *operands) for the trials where `condition` (n,) is true; the others keep
        `value` and pay nothing."""
        steps = condition.to(torch.int64)
        return self.loop(phase, steps, body, value, *operands, batch_size=batch_size, within=within)

    # --- derivatives

    def lower_gradient(self, x: Tensor, y: Tensor, batch: MiniBatch) -> Tensor:
        """d_y g(x, y; batch), shape of y."""
        meter = _METERS[id(self)]
        found: Tensor = meter.serve("lower_gradient", "lower", meter.problem.lower_gradient, batch, x, y)
        return found

    def joint_lower_gradient(self, x: Tensor, y: Tensor, batch: MiniBatch) -> tuple[Tensor, Tensor]:
        """(d_x g, d_y g) at (x, y; batch), charged once as a lower gradient; a fixed-point lower level has no
        g."""
        meter = _METERS[id(self)]
        by_x, by_y = meter.serve("lower_gradient", "lower", meter.problem.joint_lower_gradient, batch, x, y)
        return by_x, by_y

    def hessian_vector(self, x: Tensor, y: Tensor, v: Tensor, batch: MiniBatch) -> Tensor:
        """(d2_yy g(x, y; batch)) v, shape of y."""
        meter = _METERS[id(self)]
        found: Tensor = meter.serve("hessian_vector", "lower", meter.problem.hessian_vector, batch, x, y, v)
        return found

    def cross(self, x: Tensor, y: Tensor, v: Tensor, batch: MiniBatch) -> Tensor:
        """(d2_xy g(x, y; batch)) v, shape (n, dim_x)."""
        meter = _METERS[id(self)]
        found: Tensor = meter.serve("cross", "lower", meter.problem.cross, batch, x, y, v)
        return found

    def upper_gradient(self, x: Tensor, y: Tensor, batch: MiniBatch | None = None) -> tuple[Tensor, Tensor]:
        """(d_x f, d_y f) at (x, y; batch), charged once; no batch: all upper examples."""
        meter = _METERS[id(self)]
        batch = self.upper_batch() if batch is None else batch
        by_x, by_y = meter.serve("upper_gradient", "upper", meter.problem.upper_gradient, batch, x, y)
        return by_x if by_x.shape == x.shape else by_x.expand_as(x), by_y

    def lower_value(self, x: Tensor, y: Tensor, batch: MiniBatch) -> Tensor:
        """g(x, y; batch), shape (n, 1), charged as a value, also where a gradient is taken at the point."""
        meter = _METERS[id(self)]
        found: Tensor = meter.serve("value", "lower", meter.problem.lower_value, batch, x, y)
        return found.unsqueeze(1)

    def upper_value(self, x: Tensor, y: Tensor, batch: MiniBatch | None = None) -> Tensor:
        """f(x, y; batch), shape (n, 1), charged as a value; no batch: all upper examples."""
        meter = _METERS[id(self)]
        batch = self.upper_batch() if batch is None else batch
        found: Tensor = meter.serve("value", "upper", meter.problem.upper_value, batch, x, y)
        return found.unsqueeze(1)

    def hessian(self, x: Tensor, y: Tensor, batch: MiniBatch) -> Tensor:
        """d2_yy g(x, y; batch), shape (n, dim_y, dim_y), charged as dim_y Hessian-vector products."""
        meter = _METERS[id(self)]
        products, method = y.shape[-1], meter.problem.hessian
        found: Tensor = meter.serve("hessian_vector", "lower", method, batch, x, y, times=products)
        return found

    def cross_matrix(self, x: Tensor, y: Tensor, batch: MiniBatch) -> Tensor:
        """d2_xy g(x, y; batch), shape (n, dim_x, dim_y), charged as dim_y cross products."""
        meter = _METERS[id(self)]
        products, method = y.shape[-1], meter.problem.cross_matrix
        found: Tensor = meter.serve("cross", "lower", method, batch, x, y, times=products)
        return found

    # --- free of charge

    def project(self, x: Tensor) -> Tensor:
        """The nearest feasible points."""
        return _METERS[id(self)].problem.project(x)

    def projected_step(self, x: Tensor, direction: Tensor, step_size: Tensor) -> Tensor:
        """P(x - step_size * direction).

        direction: the method's estimate of the hypergradient, by which `harness check` judges it; whatever
        scales it belongs to step_size, (n, 1), or (n, dim_x) for a preconditioner."""
        return _METERS[id(self)].problem.projected_step(x, direction, step_size)

    def or_start(self, z: Tensor, start: Tensor, within: MiniBatch | None = None) -> Tensor:
        """A system solution; where it is not finite, its start vector, noted as a system fallback.

        within: the batch of the loop in whose body this is: z is of the trials that it serves. Costs
        nothing: what the failed solve used stays charged, and nothing is computed again."""
        if z.device.type == "cpu" and math.isfinite(float(z.sum())):  # a device would have to be waited for
            return z
        failed = ~torch.isfinite(z).all(1)
        meter = _METERS[id(self)]
        noted = failed.new_zeros(self.trials)
        noted[_there(within.trials, z.device) if within else slice(None)] = failed
        before = meter.system_failed
        meter.system_failed = noted if before is None else before | noted
        return torch.where(failed.unsqueeze(1), start, z)


def _there(trials: slice | Tensor, device: torch.device) -> slice | Tensor:
    return onto(device, trials) if isinstance(trials, Tensor) else trials


def _rows(values: tuple[Tensor, ...], rows: slice | Tensor) -> tuple[Tensor, ...]:
    return tuple(value[rows] for value in values)


def _served(within: MiniBatch | None, trials: int, index: Tensor | None) -> slice | Tensor:
    """Positions among the running trials of a loop's trials, in the loop's order."""
    outer = slice(0, trials) if within is None else within.trials
    if index is None:
        return outer
    return index + outer.start if isinstance(outer, slice) else outer[index]
