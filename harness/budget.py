"""The accountant: what a sample costs, what a trial has used, and that it never uses more."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness.errors import PluginError

KINDS = ("lower_gradient", "upper_gradient", "hessian_vector", "cross")


class Cost(NamedTuple):
    """Samples by kind, one entry per trial (int64, shape (N,)) or one for all (int)."""

    lower_gradient: Tensor | int = 0
    upper_gradient: Tensor | int = 0
    hessian_vector: Tensor | int = 0
    cross: Tensor | int = 0

    def table(self, trials: int) -> np.ndarray:
        """Shape (trials, 4), columns in the order of KINDS."""
        columns = [torch.as_tensor(entry, dtype=torch.int64).expand(trials).numpy() for entry in self]
        return np.stack(columns, axis=1)


class Accountant:
    """Ledgers of N trials, each with the same budget.

    Before an upper iteration a solver declares its cost by kind; `fits` says for which trials the
    priced declaration fits in what is left, `open` grants it, every oracle call draws from it before it
    computes, and `close` requires that all of it was drawn. So no ledger can exceed the budget.

    Args: trials: N. budget: priced samples per trial. prices: priced samples per sample of each kind.
    """

    def __init__(self, trials: int, budget: float, prices: Mapping[str, float]) -> None:
        self.budget = budget
        self.prices = np.array([prices[kind] for kind in KINDS], dtype=np.float64)
        self.ledger = np.zeros((trials, len(KINDS)), dtype=np.int64)
        self._granted = np.zeros_like(self.ledger)

    @property
    def spent(self) -> np.ndarray:
        """Priced samples used by each trial, shape (N,)."""
        return self.ledger @ self.prices

    def fits(self, trials: np.ndarray, declared: np.ndarray) -> np.ndarray:
        """Which of `trials` can afford `declared` (shape (len(trials), 4))."""
        return np.asarray((self.ledger[trials] + declared) @ self.prices <= self.budget)

    def open(self, trials: np.ndarray, declared: np.ndarray) -> None:
        """Grant one upper iteration."""
        self._granted[:] = self.ledger
        self._granted[trials] += declared

    def charge(self, kind: str, trials: np.ndarray, samples: int | np.ndarray) -> None:
        """Enter samples in the ledgers; raises PluginError where they were not declared."""
        column = KINDS.index(kind)
        after = self.ledger[trials, column] + samples
        if (after > self._granted[trials, column]).any():
            raise PluginError(f"the solver's cost() declares fewer {kind} samples than its step() uses")
        self.ledger[trials, column] = after

    def close(self) -> None:
        """End an upper iteration; raises PluginError where less was used than declared."""
        short = (self._granted - self.ledger).max(axis=0)
        for kind, samples in zip(KINDS, short, strict=True):
            if samples:
                raise PluginError(f"the solver's cost() declares {samples} more {kind} samples than used")
