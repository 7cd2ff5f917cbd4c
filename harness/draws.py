"""Samplers whose draw depends on its place only, so that a resumed study draws what it would have drawn.

random: a pure function of (search seed, trial number, parameter name): parameters of one name get the
same quantile in trial i of every solver.  sobol: point i of one scrambled sequence over all parameter names
of the study.  grid: point i of the product of the listed choices.  tpe: Optuna's, which learns from what
has been told and so depends on the order in which trials end.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import TPESampler
from optuna.trial import Trial as Asked
from optuna.trial import TrialState, create_trial

from harness.book import Trial
from harness.errors import HarnessError
from harness.space import Entry, Space
from harness.spec import LISTING
from harness.streams import generator

optuna.logging.set_verbosity(optuna.logging.ERROR)
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


class Draws(Protocol):
    """The draws of one solver."""

    @abstractmethod
    def draw(self, number: int) -> dict[str, Any]:
        """The searched parameters of trial `number`."""

    def tell(self, number: int, objective: float | None) -> None:
        """How the trial ended; None: it failed. Only what learns makes use of it."""
        return None


class _Placed(Draws, ABC):
    """Every parameter is drawn by its place. Where the space has published values, trial 0 has them."""

    def __init__(self, space: Space) -> None:
        self.published, self.distributions = space.published, space.distributions()

    def draw(self, number: int) -> dict[str, Any]:
        found = {name: self.value(number, name, kind) for name, kind in self.distributions.items()}
        given = self.published if number == 0 else {}
        return found | {name: value for name, value in given.items() if name in found}

    @abstractmethod
    def value(self, number: int, name: str, distribution: BaseDistribution) -> Any:
        """The value of parameter `name` in trial `number`."""


class RandomDraws(_Placed):
    def __init__(self, seed: int, space: Space) -> None:
        super().__init__(space)
        self.seed = seed

    def value(self, number: int, name: str, distribution: BaseDistribution) -> Any:
        return at_quantile(distribution, generator(self.seed, number, name).random())


class SobolDraws(_Placed):
    """names: of every solver's searched parameters, since all share one sequence."""

    def __init__(self, seed: int, space: Space, names: Sequence[str]) -> None:
        super().__init__(space)
        self.seed, self.places = seed, {name: place for place, name in enumerate(names)}
        self._begin()

    def _begin(self) -> None:
        from scipy.stats import qmc

        rng = np.random.default_rng(self.seed)
        self._sequence, self._number = qmc.Sobol(len(self.places), scramble=True, rng=rng), -1

    def value(self, number: int, name: str, distribution: BaseDistribution) -> Any:
        if number < self._number:
            self._begin()
        if ahead := number - self._number - 1 if number > self._number else 0:
            self._sequence.fast_forward(ahead)
        if number > self._number:
            self._point, self._number = self._sequence.random(1)[0], number
        return at_quantile(distribution, float(self._point[self.places[name]]))


class GridDraws(_Placed):
    def __init__(self, space: Space) -> None:
        super().__init__(space)
        self.axes = {name: entry["choices"] for name, entry in space.searched().items()}

    def value(self, number: int, name: str, distribution: BaseDistribution) -> Any:
        """The last parameter varies fastest."""
        for axis in reversed(self.axes):
            number, place = divmod(number, len(self.axes[axis]))
            if axis == name:
                return self.axes[name][place]
        raise KeyError(name)


class LearnedDraws(Draws):
    """Optuna's TPE on the trials so far, in their order. Their number goes into its seed, since it would else
    propose its first configurations again after a restart."""

    def __init__(self, seed: int, space: Space, trials: Sequence[Trial]) -> None:
        seeded = int(generator(seed, "tpe", len(trials)).integers(2**31))
        self.searched, self.distributions = space.searched(), space.distributions()
        self._study = optuna.create_study(sampler=TPESampler(seed=seeded))
        for trial in trials:
            self._add(trial.params, trial)

    def _add(self, params: Mapping[str, Any], trial: Trial | None = None) -> None:
        state, value = TrialState.RUNNING, None
        if trial is not None and trial.told:
            state, value = TrialState.FAIL if trial.value is None else TrialState.COMPLETE, trial.value
        kinds = {name: self.distributions[name] for name in params}
        self._study.add_trial(
            create_trial(state=state, value=value, params=dict(params), distributions=kinds)
        )

    def draw(self, number: int) -> dict[str, Any]:
        if number == len(self._study.get_trials(deepcopy=False)):
            self._add({})
        trial = Asked(self._study, number)  # in memory, a study's trials are numbered as it is asked
        return {name: _suggested(trial, name, entry) for name, entry in self.searched.items()}

    def tell(self, number: int, objective: float | None) -> None:
        state = TrialState.FAIL if objective is None else TrialState.COMPLETE
        self._study.tell(number, objective, state=state)


def _suggested(trial: Asked, name: str, entry: Entry) -> Any:
    if "choices" in entry:
        return trial.suggest_categorical(name, entry["choices"])
    suggest = trial.suggest_int if entry["integer"] else trial.suggest_float
    return suggest(name, entry["low"], entry["high"], log=entry["log"])


def grid_size(space: Space) -> int:
    """Points of the grid. Raises HarnessError where a parameter has a range instead of a list."""
    for name, entry in space.searched().items():
        if "choices" not in entry:
            raise HarnessError(
                f"--sampler grid: {name} of solver {space.solver!r} has a range; list its values"
            )
    return math.prod(len(entry["choices"]) for entry in space.searched().values())


def draws(
    kind: str, seed: int, solver: str, spaces: Mapping[str, Space], trials: Sequence[Trial] = ()
) -> Draws:
    """Those of one solver, of whom nothing is asked where configurations are listed. trials: that it has."""
    space = spaces[solver]
    if kind == "sobol":
        return SobolDraws(seed, space, sorted({name for one in spaces.values() for name in one.searched()}))
    if kind in ("random", LISTING):
        return RandomDraws(seed, space)
    return GridDraws(space) if kind == "grid" else LearnedDraws(seed, space, trials)
