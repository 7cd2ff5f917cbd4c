"""What a bilevel method is to the harness: settings, a state, a cost and a step.

A solver is a frozen dataclass whose fields are parameters (`harness.params`). The engine calls `init`
once, then `step` for every upper iteration whose declared `cost` still fits in the budget. All tensors
carry a leading trial axis, so a solver is plain linear algebra, the same for one trial and for 200.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor

from harness.budget import Cost
from harness.oracle import Oracle
from harness.params import parameters


@dataclasses.dataclass(frozen=True)
class State:
    """What a solver carries from one upper iteration to the next; subclasses add tensors (N, ...).

    x (N, dim_x), y (N, dim_y): the current upper and lower variable."""

    x: Tensor
    y: Tensor

    def at(self, trials: slice | Tensor) -> Self:
        """The state of some of the trials."""
        values = {field.name: getattr(self, field.name)[trials] for field in dataclasses.fields(self)}
        return type(self)(**values)

    def finite(self) -> dict[str, Tensor]:
        """Per field, which trials hold finite numbers only, shape (N,); x last, as the others cause it."""
        names = sorted((f.name for f in dataclasses.fields(self)), key=lambda name: name == "x")
        return {name: _finite(getattr(self, name)) for name in names}


def _finite(value: Tensor) -> Tensor:
    """Rows without inf or nan. A sum shows them in one cheap pass; an overflowed sum is looked at again."""
    rows = value.flatten(1)
    good = torch.isfinite(rows.sum(1))
    if not good.all():
        good = torch.isfinite(rows).all(1)
    return good


S = TypeVar("S", bound=State)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solver(ABC, Generic[S]):
    """warm_starts: fields of the state shaped like y that the next upper iteration starts from. Where the
    lower level falls apart by example, the engine remembers these row by row for every example.
    floor: what keeps the hypergradient from the exact one however many steps; empty: nothing."""

    label: ClassVar[str]
    reference: ClassVar[str]
    warm_starts: ClassVar[tuple[str, ...]] = ()
    floor: ClassVar[str] = ""

    @property
    def mini_batch_size(self) -> int | None:
        """Examples of an upper iteration where the lower level falls apart by example: the parameter
        batch_size; all (None) for a method without it."""
        return getattr(self, "batch_size", None)

    @abstractmethod
    def cost(self, oracle: Oracle) -> Cost:
        """Samples that `step` will use at upper iteration `oracle.iteration`."""

    @abstractmethod
    def init(self, oracle: Oracle) -> S:
        """The state before the first upper iteration; charges nothing."""

    @abstractmethod
    def step(self, oracle: Oracle, state: S) -> S:
        """One upper iteration: a new state, the old one untouched."""

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
        held = {name: getattr(self, name) for name in parameters(type(self))}
        chosen = {name: v[trials] if isinstance(v, Tensor) else v for name, v in held.items()}
        return type(self)(**chosen)
