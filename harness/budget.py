"""The accountant: what a sample costs, what a trial has used, and that it never uses more; all exact."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harness.errors import HarnessError, PluginError

if TYPE_CHECKING:  # a reader of studies needs KINDS, and no torch
    from torch import Tensor

KINDS = ("lower_gradient", "upper_gradient", "hessian_vector", "cross", "value")
"""What is charged. A joint (d_x, d_y) of one loss at one point is one gradient; a value is f or g alone."""
_COLUMN = {kind: column for column, kind in enumerate(KINDS)}
_MOST = 2**60
"""Priced units that a ledger can hold: sums of five products of this size still fit in int64."""


class Cost(NamedTuple):
    """Samples by kind, one entry per trial (int64, shape (N,)) or one for all (int)."""

    lower_gradient: Tensor | int = 0
    upper_gradient: Tensor | int = 0
    hessian_vector: Tensor | int = 0
    cross: Tensor | int = 0
    value: Tensor | int = 0

    def table(self, trials: int) -> np.ndarray:
        """Shape (5, trials), or (5, 1) where all declare the same, rows in the order of KINDS; read only.

        Raises PluginError: not whole, negative, or none at all."""
        if all(type(entry) is int for entry in self):
            return _plain_table(self)
        for kind, entry in zip(KINDS, self, strict=True):
            if type(entry) is not int and str(getattr(entry, "dtype", None)) != "torch.int64":
                raise PluginError(f"cost() declares {entry!r} {kind} samples; expected integers below 2^63")
        entries = [entry if isinstance(entry, int) else entry.numpy() for entry in self]
        table = np.array([np.broadcast_to(entry, trials) for entry in entries], dtype=np.int64)
        return _sensible(table)


@lru_cache(maxsize=16)
def _plain_table(cost: Cost) -> np.ndarray:
    """The same for all trials, and mostly the same in every upper iteration."""
    for kind, entry in zip(KINDS, cost, strict=True):
        if entry >= 2**63:
            raise PluginError(f"cost() declares {entry} {kind} samples; expected integers below 2^63")
    return _sensible(np.array(cost, dtype=np.int64)[:, None])


def _sensible(table: np.ndarray) -> np.ndarray:
    if (table < 0).any():
        raise PluginError("cost() declares a negative number of samples")
    if not table.any(0).all():
        raise PluginError("the solver's cost() declares no samples: the trial would never end")
    return table


class Accountant:
    """Ledgers of N trials, each with the same budget.

    Before an upper iteration a solver declares its cost by kind; `fits` says for which trials the
    priced declaration fits in what is left, `open` grants it, every oracle call draws from it before it
    computes, and `close` requires that all of it was drawn. So no ledger can exceed the budget.

    Prices and budget are decimals as they are written (0.1 is a tenth), counted in whole units of their
    common denominator.

    Attributes: watch: called after every charge, before that is computed; what it raises breaks the upper
    iteration off.

    Args: trials: N. budget: priced samples per trial; inf: none. prices: priced samples per sample of each
    kind, 1 where none is given.
    Raises HarnessError: the units of budget and prices are too many to count.
    """

    def __init__(self, trials: int, budget: float, prices: Mapping[str, float]) -> None:
        exact = [Fraction(str(prices.get(kind, 1))) for kind in KINDS]
        self._unit = math.lcm(*(price.denominator for price in exact))
        self._each = [int(price * self._unit) for price in exact]
        self._prices = np.array(self._each, dtype=np.int64)
        capacity = _MOST if math.isinf(budget) else math.floor(Fraction(str(budget)) * self._unit)
        if capacity > _MOST or max(self._prices) > _MOST // 8:
            raise HarnessError(
                f"a budget of {budget:g} at prices of {self._unit:g} parts per sample is too fine to count "
                "exactly; use prices with fewer decimals"
            )
        self._capacity = capacity
        self._budget = Fraction(capacity) if math.isinf(budget) else Fraction(str(budget)) * self._unit
        self._multiplied = _MOST // int(self._prices.sum())  # samples whose price cannot overflow
        self._used = np.zeros((len(KINDS), trials), dtype=np.int64)
        self._spent = np.zeros(trials, dtype=np.int64)
        self._trials: slice | np.ndarray = slice(0, 0)
        self._declared = self._used
        self._priced: tuple[np.ndarray, int] = self._used, 0
        self._granted: list[Any] = [0] * len(KINDS)
        self._drawn: list[Any] = [0] * len(KINDS)
        self.watch: Callable[[], None] | None = None

    @property
    def ledger(self) -> np.ndarray:
        """Samples used, shape (N, 5), columns in the order of KINDS; a copy."""
        used = self._used.copy()
        for row, drawn in zip(used, self._drawn, strict=True):
            row[self._trials] += drawn
        return used.T

    @property
    def spent(self) -> np.ndarray:
        """Priced samples granted to each trial, shape (N,); used, between upper iterations."""
        return np.asarray(self._spent / self._unit)

    def priced(self, declared: np.ndarray) -> np.ndarray:
        """Priced samples of a declaration (5, N), shape (N,), as floating-point numbers."""
        return np.asarray(self._prices.astype(np.float64) @ declared / self._unit)

    def fits(self, trials: slice | np.ndarray, declared: np.ndarray, share: float = 1.0) -> np.ndarray:
        """Which of `trials` can afford `declared` (shape (5, number of trials), or (5, 1)) of that share of
        the budget."""
        capacity = self._capacity if share == 1 else math.floor(self._budget * Fraction(str(share)))
        if declared.shape[1] == 1:
            return np.asarray(self._spent[trials] <= max(capacity - self._price(declared), -1))
        if declared.max() <= self._multiplied:
            return np.asarray(self._spent[trials] + self._prices @ declared <= capacity)
        dear = (declared > capacity // self._prices[:, None]).any(0)  # by one kind alone
        priced = self._prices @ np.where(dear, 0, declared)
        return np.asarray(~dear & (self._spent[trials] + priced <= capacity))

    def open(self, trials: slice | np.ndarray, declared: np.ndarray) -> None:
        """Grant one upper iteration."""
        self._trials, self._declared = trials, declared
        if declared.shape[1] == 1:
            self._granted = declared[:, 0].tolist()
            self._spent[trials] += self._price(declared)
        else:
            self._granted = list(declared)
            self._spent[trials] += self._prices @ declared

    def _price(self, declared: np.ndarray) -> int:
        """Of a declaration (5, 1) that is the same for all, of any size; mostly the last one again."""
        if declared is not self._priced[0]:
            self._priced = declared, sum(map(operator.mul, self._each, declared[:, 0].tolist()))
        return self._priced[1]

    def charge(self, kind: str, trials: slice | np.ndarray, samples: int | np.ndarray) -> None:
        """Draw samples from what is granted.

        trials: positions among those of `open`; one listed twice pays twice. Raises PluginError: more than
        was declared. Counts are one number for as long as they are the same for all."""
        if _any(samples < 0):
            raise PluginError(f"a charge of {samples} {kind} samples; expected 0 or more")
        column = _COLUMN[kind]
        drawn = self._drawn[column]
        if isinstance(trials, slice) and trials == slice(None):
            drawn = drawn + samples
        else:
            drawn = drawn + np.zeros_like(self._spent[self._trials])
            np.add.at(drawn, trials, samples)  # type: ignore[arg-type]  # a slice will do
        if _any(drawn > self._granted[column]):
            raise PluginError(f"the solver's cost() declares fewer {kind} samples than its step() uses")
        self._drawn[column] = drawn
        if self.watch is not None:
            self.watch()

    def abandon(self) -> None:
        """Forget an upper iteration that was broken off; what it was granted stays spent."""
        self._drawn = [0] * len(KINDS)

    def close(self) -> None:
        """End an upper iteration; raises PluginError where less was used than declared."""
        for kind, granted, drawn in zip(KINDS, self._granted, self._drawn, strict=True):
            if _any(drawn != granted):
                left = np.max(granted - drawn)
                raise PluginError(f"the solver's cost() declares {left} more {kind} samples than used")
        self._used[:, self._trials] += self._declared
        self._drawn = [0] * len(KINDS)


def _any(found: bool | np.ndarray) -> bool:
    return found if isinstance(found, bool) else bool(found.any())
