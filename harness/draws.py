"""Samplers whose draw depends on its place only, so that a resumed study draws what it would have drawn.

random: a pure function of (search seed, trial number, parameter name): parameters of one name get the
same quantile in trial i of every solver.  sobol: point i of one scrambled sequence over all parameter names
of the study.  grid: point i of the product of the listed choices.  tpe: Optuna's, which learns from what
has been told and so depends on the order in which trials end.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from harness.errors import HarnessError
from harness.space import Space
from harness.spec import LISTING
from harness.streams import generator

SAMPLERS = ("random", "sobol", "grid", "tpe")


def at_quantile(distribution: BaseDistribution, u: float) -> Any:
    """The value at quantile 0 <= u < 1. Integers are floors of the float, as the papers draw."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(u * len(distribution.choices))]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    integer = isinstance(distribution, IntDistribution)
    if distribution.log:
        value = math.exp(math.log(low) + u * (math.log(high) - math.log(low)))
    else:
        value = low + u * (high - low + integer)
    value = min(max(value, low), high)
    return math.floor(value + 1e-9) if integer else value


class _Placed(BaseSampler):
    """Every parameter is drawn alone, by its place. first: values of trial 0 that are given, not drawn."""

    first: Mapping[str, Any] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if trial.number == 0 and param_name in self.first:
            return self.first[param_name]
        return self.value(trial.number, param_name, param_distribution)

    @abstractmethod
    def value(self, number: int, name: str, distribution: BaseDistribution) -> Any:
        """The value of parameter `name` in trial `number`."""


class RandomDraws(_Placed):
    def __init__(self, seed: int) -> None:
        self.seed = seed

    def value(self, number: int, name: str, distribution: BaseDistribution) -> Any:
        return at_quantile(distribution, generator(self.seed, number, name).random())


class SobolDraws(_Placed):
    def __init__(self, seed: int, names: Sequence[str]) -> None:
        self.seed, self.names = seed, list(names)

    def value(self, number: int, name: str, distribution: BaseDistribution) -> Any:
        from scipy.stats import qmc

        sequence = qmc.Sobol(len(self.names), scramble=True, rng=np.random.default_rng(self.seed))
        if number:
            sequence.fast_forward(number)
        point = sequence.random(1)[0]
        return at_quantile(distribution, float(point[self.names.index(name)]))


class GridDraws(_Placed):
    def __init__(self, space: Space) -> None:
        self.axes = {name: entry["choices"] for name, entry in space.searched().items()}

    def value(self, number: int, name: str, distribution: BaseDistribution) -> Any:
        """The last parameter varies fastest."""
        for axis in reversed(self.axes):
            number, place = divmod(number, len(self.axes[axis]))
            if axis == name:
                return self.axes[name][place]
        raise KeyError(name)

    @property
    def points(self) -> Iterator[dict[str, Any]]:
        """Every point, in order."""
        for point in itertools.product(*self.axes.values()):
            yield dict(zip(self.axes, point, strict=True))


def grid_size(space: Space) -> int:
    """Points of the grid. Raises HarnessError where a parameter has a range instead of a list."""
    for name, entry in space.searched().items():
        if "choices" not in entry:
            raise HarnessError(
                f"--sampler grid: {name} of solver {space.solver!r} has a range; list its values"
            )
    return math.prod(len(entry["choices"]) for entry in space.searched().values())


def sampler(kind: str, seed: int, solver: str, spaces: Mapping[str, Space], told: int) -> BaseSampler:
    """The sampler of one solver's Optuna study. Where its space has published values, trial 0 has them.

    Where configurations are listed nothing is asked of it.

    told: trials already there; it goes into the seed of TPE, which else would propose its first
    configurations again after a restart."""
    if kind in ("random", "sobol", LISTING):
        names = sorted({name for space in spaces.values() for name in space.searched()})
        placed = SobolDraws(seed, names) if kind == "sobol" else RandomDraws(seed)
        placed.first = spaces[solver].published
        return placed
    if kind == "grid":
        return GridDraws(spaces[solver])
    seeded = int(generator(seed, "tpe", told).integers(2**31))
    return TPESampler(seed=seeded)
