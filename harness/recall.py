"""Warm starts by example: where y belongs to a mini-batch, what each example was left with last time."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from harness.solver import S


class Memory:
    """For every trial, every example and every field: the rows that the example was last left with.

    Nothing is kept of a field that the method does not warm-start. Costs trials * examples * dim_y numbers
    per field, on the device.

    Args: state: the start, in which all examples have the same rows. examples: how many there are.
    """

    def __init__(self, state: S, fields: Sequence[str], examples: int, dim_y: int) -> None:
        self._rows: dict[str, Tensor] = {}
        for name in fields:
            value: Tensor = getattr(state, name)
            first = value.view(len(value), -1, dim_y)[:, :1]
            self._rows[name] = first.repeat(1, examples, 1)

    def recall(self, state: S, live: np.ndarray, rows: Tensor) -> S:
        """The state with its warm-started fields as examples `rows` were left."""
        trials = torch.from_numpy(live).to(rows.device).unsqueeze(1)
        held = {name: table[trials, rows].flatten(1) for name, table in self._rows.items()}
        return dataclasses.replace(state, **held)

    def keep(self, state: S, live: np.ndarray, rows: Tensor) -> None:
        """Remember what examples `rows` are left with."""
        trials = torch.from_numpy(live).to(rows.device).unsqueeze(1)
        for name, table in self._rows.items():
            table[trials, rows] = getattr(state, name).view(len(live), len(rows), -1)
