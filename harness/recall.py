"""What the engine remembers for a solver: by example, where y belongs to a mini-batch, what each example was
left with last time; by batch of a partition, what each batch was."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from harness.device import onto
from harness.solver import S


class ByExample:
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
        trials = onto(rows.device, torch.from_numpy(live)).unsqueeze(1)
        held = {name: table[trials, rows].flatten(1) for name, table in self._rows.items()}
        return dataclasses.replace(state, **held)

    def keep(self, state: S, live: np.ndarray, rows: Tensor) -> None:
        """Remember what examples `rows` are left with."""
        trials = onto(rows.device, torch.from_numpy(live)).unsqueeze(1)
        for name, table in self._rows.items():
            table[trials, rows] = getattr(state, name).view(len(live), len(rows), -1)


class ByBatch:
    """For every trial, every batch of the partition and every field: what the batch was last left with.

    Costs trials * batches numbers per number of the field, on the device.

    Args: state: the start, of every batch. parts: by field, how many batches its partition has.
    """

    def __init__(self, state: S, parts: Mapping[str, int]) -> None:
        self._tables: dict[str, Tensor] = {}
        for name, number in parts.items():
            value: Tensor = getattr(state, name)
            self._tables[name] = value.unsqueeze(1).repeat(1, number, 1)

    def recall(self, state: S, live: np.ndarray, parts: Mapping[str, int]) -> S:
        """The state with these fields as the batches `parts` were left."""
        trials = onto(state.x.device, torch.from_numpy(live))
        held = {name: table[trials, parts[name]] for name, table in self._tables.items()}
        return dataclasses.replace(state, **held)

    def keep(self, state: S, live: np.ndarray, parts: Mapping[str, int]) -> None:
        """Remember what these batches are left with."""
        trials = onto(state.x.device, torch.from_numpy(live))
        for name, table in self._tables.items():
            table[trials, parts[name]] = getattr(state, name)
