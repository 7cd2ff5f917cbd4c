"""The driver of a study: which configurations are next, what has been told, and who may write."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.trial import Trial

from harness.draws import sampler
from harness.errors import HarnessError
from harness.journal import mend
from harness.params import check_values, parameters
from harness.plugins import keep_sources
from harness.problem import Problem
from harness.record import (
    JOURNAL,
    SPEC,
    open_storage,
    require_own,
    require_same,
    result_of,
    study_name,
    tell,
    told,
)
from harness.repair import Again, reopen
from harness.runner import Result, failed, first_cost
from harness.share import WHOLE, Share
from harness.sizing import Packing
from harness.solver import Solver
from harness.space import Entry
from harness.spec import LISTING, NAME, StudySpec, differences, grown, read_spec, with_sources
from harness.surroundings import restored
from harness.worker import Pack

WINDOW = 8
"""Packs whose trials are sorted by cost together, so that trials of a pack end at about the same time."""
ATTEMPTS = 3
"""Times a worker may die of a trial alone before it is recorded as failed."""


DIED = "the worker died (killed, or out of memory)"


@dataclass
class Tally:
    """How far one solver has come. in_flight: samples that packs which run now have used."""

    trials: int
    states: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("completed", "diverged", "failed"), 0)
    )
    best: float = float("inf")
    in_flight: float = 0.0

    @property
    def told(self) -> int:
        return sum(self.states.values())

    def add(self, result: Result) -> None:
        self.states[result.state] += 1
        if result.state != "failed":
            self.best = min(self.best, result.objective)


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
        self._storage = open_storage(folder)
        self._studies = {solver: self._open(solver) for solver in solvers}
        self._refill = itertools.chain.from_iterable(
            itertools.zip_longest(*(self._windows(solver) for solver in solvers))
        )

    def _open(self, solver: str) -> optuna.Study:
        study = optuna.create_study(
            storage=self._storage,
            study_name=study_name(self.spec, solver),
            load_if_exists=True,
            direction="minimize",
        )
        require_same(self.folder, self.spec, study.user_attrs)
        mine = self.spec.of(solver).model_dump(mode="json")
        if study.user_attrs.get(SPEC) != mine:
            study.set_user_attr(SPEC, mine)
        trials = study.get_trials(deepcopy=False)
        study.sampler = sampler(self.spec.sampler, self.spec.search_seed, solver, self.spaces, len(trials))
        for trial in filter(told, trials):
            require_own(self.folder, self.spec, solver, trial)
            if self.share.has(trial.number):
                self.tallies[solver].add(result_of(trial))
        return study

    def _windows(self, solver: str) -> Iterator[list[Pack]]:
        """First what an earlier session left unfinished, then new configurations, in packs."""
        study = self._studies[solver]
        size = self.packing.most * (1 if self.spec.sampler == "tpe" else WINDOW)
        trials = study.get_trials(deepcopy=False)
        new = self.spec.trials_of(solver) - len(trials)
        left = [t.number for t in trials if not t.state.is_finished() and self.share.has(t.number)]
        asked = [self._again(study, number) for number in left]
        while True:
            while len(asked) < size and new > 0:
                trial = study.ask()  # also another share's, which stays open: numbers follow from their order
                asked += [trial] if self.share.has(trial.number) else []
                new -= 1
            if not asked:
                return
            window, asked = asked[:size], asked[size:]
            yield self._packs(solver, {t.number: self._configuration(solver, t) for t in window})

    def _again(self, study: optuna.Study, number: int) -> Trial:
        """A trial that was asked for before an interruption."""
        place = self._storage.get_study_id_from_name(study.study_name)
        return Trial(study, self._storage.get_trial_id_from_study_id_trial_number(place, number))

    def _configuration(self, solver: str, trial: Trial) -> dict[str, Any]:
        """Listed, or drawn, or read back where it was drawn before an interruption; a parameter that an old
        folder lacks has its default."""
        self._trials[solver, trial.number] = trial
        if self.spec.sampler == LISTING:
            return check_values(self.solvers[solver], self.spec.solvers[solver].configs[trial.number], solver)
        space = self.spaces[solver]
        drawn = {name: _value(trial, name, entry) for name, entry in space.searched().items()}
        if trial.number == 0:
            drawn |= space.published
        return check_values(self.solvers[solver], space.resolve(drawn), solver)

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
        for number, result in zip(pack.numbers, results, strict=True):
            tell(self._trials.pop((pack.solver, number)), pack.solver, result)
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


def _value(trial: Trial, name: str, entry: Entry) -> Any:
    if "choices" in entry:
        return trial.suggest_categorical(name, entry["choices"])
    suggest = trial.suggest_int if entry["integer"] else trial.suggest_float
    return suggest(name, entry["low"], entry["high"], log=entry["log"])


@contextmanager
def sole_driver(folder: Path) -> Iterator[None]:
    """Raises HarnessError where another driver is at work in the folder."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise HarnessError(
            f"another driver is running the study {folder}; wait for it, or use another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def locked(folder: Path, spec: StudySpec, again: Again) -> Iterator[StudySpec]:
    """The specification of a new, resumed or growing study's folder, its lock held and its journal whole.

    Raises HarnessError: another driver is at work, or the folder holds another study."""
    _no_file(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with sole_driver(folder):
        mend(folder / JOURNAL)
        old = read_spec(folder) if (folder / NAME).exists() else None
        whole = agreed(folder, spec, again.redo)
        keep_sources(folder, spec.plugins)
        if old is not None:
            reopen(folder, old, whole, again)
        if whole != old:
            whole.write(folder)
        yield whole


def agreed(folder: Path, spec: StudySpec, redo: Collection[str] = ()) -> StudySpec:
    """The specification of a folder, new or grown by `spec`; writes nothing. redo: solvers whose source may
    have changed.

    Raises HarnessError: the folder holds another study."""
    _no_file(folder)
    if not (folder / NAME).exists():
        if (folder / JOURNAL).exists():
            raise HarnessError(f"{folder} has a {JOURNAL} but no {NAME}; restore it, or `harness repair` it")
        return spec
    old = read_spec(folder)
    base = with_sources(old, spec, redo)
    found = differences(base, spec)
    if found:
        changed = [what.split(".")[1] for what in found if what.startswith("solvers.") and ".source:" in what]
        hint = f", or --redo {','.join(changed)}" if changed else ""
        raise HarnessError(
            f"{folder} holds another study, {'; '.join(found)}; use another --out or the same settings{hint}"
        )
    return grown(base, spec)


def _no_file(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise HarnessError(f"--out {folder} is a file; give a folder")


Executor = Callable[[Study], None]
