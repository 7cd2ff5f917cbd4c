"""The driver of a study: which configurations are next, and what has been told."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.book import Book, OptunaStudy, Trial, new_trial, with_params
from harness.draws import draws
from harness.params import check_values, parameters
from harness.points import Points
from harness.problem import Problem
from harness.record import JOURNAL, SPEC, require_points, result_of, study_name, tell, trials_in
from harness.result import Result, Tally, failed
from harness.runner import first_cost
from harness.share import WHOLE, Share
from harness.sizing import Packing
from harness.solver import Solver
from harness.spec import LISTING, StudySpec
from harness.surroundings import restored
from harness.worker import Pack

WINDOW = 8
"""Packs whose trials are sorted by cost together, so that trials of a pack end at about the same time."""
ATTEMPTS = 3
"""Times a worker may die of a trial alone before it is recorded as failed."""


class Study:
    """One study folder, open for writing: the trials of `solvers`, perhaps not all that it has, and of these
    a share. `next_pack` and `record` are all that an executor calls.

    For whoever shows it, set by the executor: stage, what goes on before packs run, in words, and
    in_flight_samples, which gives those that running packs have used, by solver."""

    def __init__(
        self,
        folder: Path,
        spec: StudySpec,
        problem: Problem,
        solvers: Mapping[str, type[Solver[Any]]],
        packing: Packing,
        share: Share = WHOLE,
    ) -> None:
        self.folder, self.spec, self.problem, self.solvers = folder, spec, problem, solvers
        self.packing, self.share = packing, share
        self.spaces = spec.spaces()
        self.tallies = {solver: Tally(share.count(spec.trials_of(solver))) for solver in solvers}
        self.stage = ""
        self.in_flight_samples: Callable[[], Mapping[str, float]] = dict
        self.in_flight = 0
        self._trials: dict[tuple[str, int], Trial] = {}
        self._queue: deque[Pack] = deque()
        self._book, self._points = Book(folder / JOURNAL), Points(folder)
        self._kinds = {solver: space.distributions() for solver, space in self.spaces.items()}
        self._tally()
        self._studies = {solver: self._open(solver) for solver in solvers}
        self._draws = {
            solver: draws(spec.sampler, spec.search_seed, solver, self.spaces, study.trials)
            for solver, study in self._studies.items()
        }
        self._refill = itertools.chain.from_iterable(
            itertools.zip_longest(*(self._windows(solver) for solver in solvers))
        )

    def _tally(self) -> None:
        """Count what is told, and keep no more of it: a driver has no use for results."""
        trials = trials_in(self._book, self.folder, self.spec)
        require_points(self.folder, trials)
        for solver, some in trials.items():
            for trial in some:
                if trial.told and solver in self.tallies and self.share.has(trial.number):
                    self.tallies[solver].add(result_of(trial))
                trial.forget()

    def _open(self, solver: str) -> OptunaStudy:
        mine = {SPEC: self.spec.of(solver).model_dump(mode="json")}
        return self._book.study(study_name(self.spec, solver), mine)

    def _windows(self, solver: str) -> Iterator[list[Pack]]:
        """First what an earlier session left unfinished, then new configurations, in packs."""
        trials, whole = self._studies[solver].trials, self.spec.trials_of(solver)
        size = self.packing.most * (1 if self.spec.sampler == "tpe" else WINDOW)
        left = [trial for trial in trials if not trial.told]
        for window in _in(size, [trial for trial in left if self.share.has(trial.number)]):
            yield self._packs(solver, {trial.number: self._again(solver, trial) for trial in window})
        while len(trials) < whole:
            # also another share's, which stays open: numbers follow from their order
            numbers = range(len(trials), min(len(trials) + size * self.share.of, whole))
            yield self._packs(solver, self._new(solver, numbers))

    def _new(self, solver: str, numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
        """The configurations of new trials, but for those of other shares."""
        study = self._studies[solver]
        drawn = {n: {} if self._listed else self._draws[solver].draw(n) for n in numbers}
        self._book.write([new_trial(study, drawn[n], self._kinds[solver], {}) for n in numbers])
        mine = [n for n in numbers if self.share.has(n)]
        return {n: self._configuration(solver, study.trials[n], drawn[n]) for n in mine}

    def _again(self, solver: str, trial: Trial) -> dict[str, Any]:
        """The configuration of a trial that was asked for before an interruption."""
        drawn = dict(trial.params)
        if not self._listed and not set(self._kinds[solver]) <= set(drawn):
            drawn = self._draws[solver].draw(trial.number) | drawn
            self._book.write(with_params(trial, drawn, self._kinds[solver]))
        return self._configuration(solver, trial, drawn)

    @property
    def _listed(self) -> bool:
        return self.spec.sampler == LISTING

    def _configuration(self, solver: str, trial: Trial, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Listed, or drawn; a parameter that an old folder lacks has its default."""
        self._trials[solver, trial.number] = trial
        space, values = self.spaces[solver], {}
        if self._listed:
            values = self.spec.solvers[solver].configs[trial.number]
        else:
            values = space.resolve({**drawn, **(space.published if trial.number == 0 else {})})
        return check_values(self.solvers[solver], values, solver)

    def _packs(self, solver: str, configs: dict[int, dict[str, Any]]) -> list[Pack]:
        """Packs of trials that agree on the shared parameters, dear ones first."""
        plugin = self.solvers[solver]
        shared = [name for name, p in parameters(plugin).items() if p.common]
        groups: dict[tuple[Any, ...], list[int]] = {}
        for number in configs:
            groups.setdefault(tuple(configs[number][name] for name in shared), []).append(number)
        packs = []
        for numbers in groups.values():
            for chosen in self._cut(plugin, {n: configs[n] for n in numbers}):
                packs.append(Pack(solver, tuple(chosen), tuple(configs[n] for n in chosen)))
        return packs

    def _cut(self, plugin: type[Solver[Any]], configs: dict[int, dict[str, Any]]) -> list[list[int]]:
        """Trials that run together, dear ones first; where the plug-in fails to say what they need, each runs
        alone, and a worker finds the one at fault."""
        numbers, given = list(configs), list(configs.values())
        try:
            with restored():
                costs = first_cost(self.problem, plugin, given, self.spec.rules.seed)
                order = [n for _, n in sorted(zip(-costs, numbers, strict=True))]
                cuts = self.packing.cut(self.problem, plugin, [configs[n] for n in order])
                return [order[cut] for cut in cuts]
        except (Exception, SystemExit):  # noqa: BLE001 - the worker meets it again, as its trial's reason
            return [[n] for n in numbers]

    def next_pack(self) -> Pack | None:
        """None: nothing to start now (and nothing at all where none is in flight)."""
        while not self._queue:
            try:
                self._queue.extend(next(self._refill) or [])
            except StopIteration:
                return None
        self.in_flight += 1
        return self._queue.popleft()

    def record(self, pack: Pack, results: Sequence[Result]) -> None:
        """Write the results of a pack; from here on they are safe."""
        self.in_flight -= 1
        trials = [self._trials.pop((pack.solver, number)) for number in pack.numbers]
        tell(self._book, self._points, pack.solver, list(zip(trials, results, strict=True)))
        for trial, result in zip(trials, results, strict=True):
            self._draws[pack.solver].tell(trial.number, trial.value)
            self.tallies[pack.solver].add(result)

    def died(self, pack: Pack, reason: str) -> None:
        """A worker died with this pack: it runs again in halves, down to single trials, and one of these at
        most ATTEMPTS times."""
        alone = len(pack.numbers) == 1
        if alone and pack.attempt + 1 >= ATTEMPTS:
            self.record(pack, [failed(pack.configs[0], f"{reason}, {ATTEMPTS} times")])
            return
        self.in_flight -= 1
        self._queue.extend([replace(pack, attempt=pack.attempt + 1)] if alone else pack.parts(pack.half))

    def give_back(self, pack: Pack) -> None:
        """A pack that was not begun."""
        self.in_flight -= 1
        self._queue.appendleft(pack)

    def finished(self) -> bool:
        return all(tally.told >= tally.trials for tally in self.tallies.values())


def _in(size: int, trials: Sequence[Trial]) -> Iterator[Sequence[Trial]]:
    """One after another, so many at once."""
    return (trials[first : first + size] for first in range(0, len(trials), size))


Executor = Callable[[Study], None]
