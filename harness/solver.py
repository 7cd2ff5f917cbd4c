"""What a bilevel method is to the harness: settings, a state, a cost and a step.

A solver is a frozen dataclass whose fields are parameters (`harness.params`). The engine calls `init`
once, then `step` for every upper iteration whose declared `cost` still fits in the budget. All tensors
carry a leading trial axis, so a solver is plain linear algebra, the same for one trial and for 200.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import torch
from torch import Tensor

from harness.batch import Level
from harness.budget import Cost
from harness.device import onto
from harness.errors import HarnessError
from harness.oracle import Oracle
from harness.params import parameters
from harness.place import Place
from harness.problem import Problem


@dataclasses.dataclass(frozen=True)
class State:
    """What a solver carries from one upper iteration to the next; subclasses add tensors (N, ...).

    x (N, dim_x), y (N, dim_y): the current upper and lower variable."""

    x: Tensor
    y: Tensor

    def at(self, trials: slice | Tensor) -> Self:
        """The state of some of the trials."""
        return type(self)(**{name: _chosen(value, trials) for name, value in vars(self).items()})

    def total(self) -> Tensor:
        """The sum of all numbers of all trials, a scalar: finite only where they all are."""
        total: Tensor = reduce(torch.add, (value.sum() for value in vars(self).values()))
        return total

    def finite(self) -> Tensor:
        """Which trials hold finite numbers only, shape (N,)."""
        return torch.stack([torch.isfinite(value.flatten(1)).all(1) for value in vars(self).values()]).all(0)

    def not_finite(self, trial: int) -> str:
        """The field in which a trial is not finite; x last, as the others cause it."""
        bad = [name for name, value in vars(self).items() if not torch.isfinite(value[trial]).all()]
        return sorted(bad, key=lambda name: name == "x")[0]


S = TypeVar("S", bound=State)


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a solver needs of a problem.

    loss: a lower level that minimises a loss; a fixed-point map has no g, and its system is not symmetric.
    one_lower_problem: not one small lower problem per example. dim_y: at most so many lower variables.
    """

    loss: bool = False
    one_lower_problem: bool = False
    dim_y: int | None = None

    def unmet(self, problem: Problem | type[Problem]) -> str:
        """What a problem lacks, or a problem's class as far as can be told before its data are read; empty:
        nothing."""
        if self.loss and problem.is_map():
            return "its lower level is a fixed-point map, not a loss"
        if self.one_lower_problem and problem.by_example:
            return "its lower level falls apart by example"
        if self.dim_y is not None and isinstance(problem, Problem) and problem.dim_y > self.dim_y:
            return f"its lower level has {problem.dim_y} variables, more than {self.dim_y}"
        return ""


class Held(NamedTuple):
    """How many vectors a trial holds at once, by the space they lie in; per trial, or for all alike."""

    x: Tensor | int
    y: Tensor | int


@dataclasses.dataclass(frozen=True)
class Bias:
    """What keeps a hypergradient from the exact one however many steps, and what it is governed by.

    parameter: its name. rate: the relative error falls like parameter^rate: negative where it falls as the
    parameter grows (a penalty), positive where it falls with it (a smoothing).
    stiff: step sizes that must shrink as the parameter grows.
    nested: whether every upper iteration finds the lower solutions it needs by many steps at its x, so that
    all this holds for a moving x; else a still one."""

    parameter: str
    rate: float
    stiff: tuple[str, ...] = ()
    nested: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solver(ABC, Generic[S]):
    """warm_starts: fields of the state shaped like y that the next upper iteration starts from. Where the
    lower level falls apart by example, the engine remembers these row by row for every example.
    tables: fields of the state that are remembered for each batch of the phase "partition", and its level: a
    step finds in them what the same batch was last left with (at first, what `init` gives).
    needs: what a problem must have. adaptive: upper_step_size scales steps of x that the method sizes itself.
    bias: what the error of the hypergradient is governed by besides steps; None: nothing.
    floor: in words, what else keeps it from the exact one however many steps; empty: nothing.
    estimates_hypergradient: whether the direction of x's steps estimates it; a search that moves x without
    one has none to judge."""

    label: ClassVar[str]
    reference: ClassVar[str]
    warm_starts: ClassVar[tuple[str, ...]] = ()
    tables: ClassVar[Mapping[str, Level]] = {}
    needs: ClassVar[Needs] = Needs()
    adaptive: ClassVar[bool] = False
    bias: ClassVar[Bias | None] = None
    floor: ClassVar[str] = ""
    estimates_hypergradient: ClassVar[bool] = True

    def size_of(self, level: Level) -> int | None:
        """Examples of a mini-batch: the parameter batch_size (by example, of every batch of an upper
        iteration) or upper_batch_size; None, all, for a method without it or where it is 0."""
        return getattr(self, "batch_size" if level == "lower" else "upper_batch_size", None) or None

    @abstractmethod
    def cost(self, place: Place) -> Cost:
        """Samples that `step` will use at an upper iteration."""

    @abstractmethod
    def init(self, oracle: Oracle) -> S:
        """The state before the first upper iteration; charges nothing."""

    @abstractmethod
    def step(self, oracle: Oracle, state: S) -> S:
        """One upper iteration: a new state, the old one untouched."""

    def held(self, place: Place) -> Held:
        """What a trial holds besides the working space of a derivative: the state before and after a step,
        and what grows with a parameter: iterates kept for a backward sweep, tables (a vector for each of
        `place.parts`)."""
        return Held(x=4, y=6)

    @classmethod
    def pack(cls, configs: Sequence[Mapping[str, Any]], device: torch.device, dtype: torch.dtype) -> Self:
        """One solver that holds N checked configurations along the trial axis."""
        values: dict[str, Any] = {}
        for name, parameter in parameters(cls).items():
            column = [config[name] for config in configs]
            if parameter.kind == "count":
                values[name] = torch.tensor(column, dtype=torch.int64)
            elif parameter.kind == "real":
                values[name] = torch.tensor(column, dtype=dtype, device=device).unsqueeze(1)
            else:
                (values[name],) = set(column)
        return cls(**values)

    def at(self, trials: slice | Tensor) -> Self:
        """The solver of some of the trials."""
        own = vars(self).items()
        return type(self)(**{n: _chosen(v, trials) if isinstance(v, Tensor) else v for n, v in own})


def _chosen(value: Tensor, trials: slice | Tensor) -> Tensor:
    return value[onto(value.device, trials) if isinstance(trials, Tensor) else trials]


def oversized(problem: Problem, config: Mapping[str, Any]) -> list[str]:
    """Batch sizes of a configuration above what their level has, in words: the engine takes all examples. A
    level of one example is deterministic: no words."""
    found = []
    for name, size in config.items():
        level = "upper" if "upper" in name or problem.by_example else "lower"
        examples = problem.upper_examples if level == "upper" else problem.lower_examples
        if name.endswith("batch_size") and size > examples > 1:
            found.append(f"{name} {size} is more than the {examples} {level} examples")
    return found


def require_defined(solver: type[Solver[Any]], problem: Problem | type[Problem]) -> None:
    """Raises HarnessError where a problem lacks what a solver needs."""
    unmet = solver.needs.unmet(problem)
    if unmet:
        hint = "`harness list` shows what runs where"
        raise HarnessError(f"{solver.label} is not defined for {problem.label}: {unmet}; {hint}")
