"""A study's journal written anew: what is damaged left out, or trials opened to run again.

The new journal replaces the old one in one step, so a crash in between loses neither.
"""

from __future__ import annotations

import bisect
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from harness.errors import HarnessError
from harness.journal import opened
from harness.record import (
    EARLIER,
    JOURNAL,
    RESULT,
    SPEC,
    TRIAL,
    named,
    open_storage,
    own,
    read_trials,
    require_same,
    result_from_json,
    result_of,
    study_name,
    told,
)
from harness.runner import Result
from harness.spec import LISTING, NAME, StudySpec, grown, read_spec

Results = dict[tuple[str, int], dict[str, Any]]
"""By solver and number, a result as the journal holds it."""


def write_journal(folder: Path, spec: StudySpec, trials: Mapping[str, Sequence[FrozenTrial]]) -> None:
    """Put a journal of these trials, by solver in order of their numbers, in the place of the folder's."""
    for left in folder.glob(".journal-*"):  # by a crash
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".journal-", dir=folder) as scratch:
        storage = open_storage(Path(scratch))
        for solver in trials:
            study = optuna.create_study(storage=storage, study_name=study_name(spec, solver))
            study.set_user_attr(SPEC, spec.of(solver).model_dump(mode="json"))
            study.add_trials(trials[solver])
        os.replace(Path(scratch) / JOURNAL, folder / JOURNAL)


# --- trials to run again


@dataclass(frozen=True)
class Again:
    """Which told trials run again: those that failed, of `solvers`, and all of `redo`."""

    solvers: Sequence[str]
    failed: bool
    redo: Sequence[str]

    def __call__(self, solver: str, result: Result) -> bool:
        return solver in self.redo or (self.failed and solver in self.solvers and result.state == "failed")


def reopen(folder: Path, old: StudySpec, new: StudySpec, again: Again) -> None:
    """Open these trials of the old specification under the new one, so that they run with the configurations
    they had; what was recorded stays beside them as the attribute "earlier"."""
    if not again.failed and not again.redo:
        return
    trials: dict[str, list[FrozenTrial]] = {}
    for solver, told_or_not in read_trials(folder, old).items():
        trials[solver] = [
            _opened(solver, trial) if told(trial) and again(solver, result_of(trial)) else trial
            for trial in told_or_not
        ]
    write_journal(folder, new, trials)


def _opened(solver: str, trial: FrozenTrial) -> FrozenTrial:
    earlier = [*trial.user_attrs.get(EARLIER, []), named(solver, trial)]
    return create_trial(
        state=TrialState.RUNNING,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={EARLIER: earlier},
    )


# --- what is damaged


def repair(folder: Path) -> list[str]:
    """Write study.json and the journal anew from what verifies, all of it sealed; in words, what was kept and
    dropped. The files as they were stay beside the new ones."""
    if _sound(folder):
        return [f"{folder}: nothing is damaged"]
    path = folder / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    entries, bare = _whole(lines)
    said = [f"{JOURNAL}: {len(lines) - len(entries) - bare} of {len(lines)} lines are damaged"]
    try:
        spec = read_spec(folder)
        for entry in entries:
            require_same(folder, spec, entry.get("user_attr", {}))
    except HarnessError:
        spec = _spec_of(folder, entries)
        said.append(f"{NAME}: restored from {JOURNAL}")
        _set_aside(folder / NAME)
        spec.write(folder)
    results, earlier = _results(spec, entries)
    results = _unsealed(folder, spec, lines[:bare]) | results
    trials = {solver: list(trials_of(spec, solver, results, earlier)) for solver in spec.solvers}
    _set_aside(path)
    write_journal(folder, spec, {solver: found for solver, found in trials.items() if found})
    for solver, found in trials.items():
        kept = sum(map(told, found))
        said.append(
            f"{solver}: {kept} of {spec.trials_of(solver)} trials kept, the run command makes the rest again"
        )
    return said


def _sound(folder: Path) -> bool:
    try:
        read_trials(folder, read_spec(folder))
        with (folder / JOURNAL).open("rb") as file:
            return all(opened(line)[1] is not None for line in file if line.endswith(b"\n"))
    except (HarnessError, OSError):
        return False


def _whole(lines: Sequence[bytes]) -> tuple[list[dict[str, Any]], int]:
    """The entries of the sealed lines that verify, wherever they stand; and how many lines at the start are
    whole and come from before there were seals."""
    entries, bare = [], 0
    for number, line in enumerate(lines):
        try:
            entry, place = opened(line)
        except ValueError:
            continue
        if place is not None:
            entries.append(entry)
        elif bare == number:
            bare += 1
    return entries, bare


def _spec_of(folder: Path, entries: Sequence[dict[str, Any]]) -> StudySpec:
    """The specification as the journal's studies hold it, the latest of each solver."""
    whole: StudySpec | None = None
    for entry in entries:
        if SPEC in entry.get("user_attr", {}):
            spec = StudySpec.model_validate(entry["user_attr"][SPEC])
            whole = spec if whole is None else grown(whole, spec)
    if whole is None:
        raise HarnessError(f"{folder / NAME} is damaged, and {JOURNAL} has no copy of it; restore it")
    return whole


def _results(spec: StudySpec, entries: Sequence[dict[str, Any]]) -> tuple[Results, dict[str, list[Any]]]:
    """Every sealed result under the trial that it names, the last where a trial has two; and by trial, what
    was recorded before it was opened to run again."""
    found: Results = {}
    earlier: dict[str, list[Any]] = {}
    for entry in entries:
        attributes = entry.get("user_attr", {}) | entry.get("user_attrs", {})
        if EARLIER in attributes:
            earlier[attributes[EARLIER][0][TRIAL]] = attributes[EARLIER]
        plain = attributes.get(RESULT, {})
        solver, _, number = plain.get(TRIAL, "").rpartition("/")
        if solver in spec.solvers:
            found[solver, int(number)] = plain
    return found, earlier


def _unsealed(folder: Path, spec: StudySpec, lines: Sequence[bytes]) -> Results:
    """The results of lines from before there were seals, which belong to the trial where they stand."""
    with tempfile.TemporaryDirectory(prefix=".journal-", dir=folder) as name:
        scratch = Path(name)

        def fails(number: int) -> bool:
            (scratch / JOURNAL).write_bytes(b"".join(lines[:number]))
            try:
                open_storage(scratch)
            except HarnessError:
                return True
            return False

        fails(bisect.bisect_left(range(len(lines) + 1), True, key=fails) - 1)
        storage = open_storage(scratch)
        found: Results = {}
        for study in storage.get_all_studies():
            solver = study.study_name.removeprefix(study_name(spec, ""))
            for trial in storage.get_all_trials(storage.get_study_id_from_name(study.study_name)):
                if solver in spec.solvers and told(trial) and own(spec, solver, trial):
                    found[solver, trial.number] = named(solver, trial)
        return found


def trials_of(
    spec: StudySpec, solver: str, results: Results, earlier: Mapping[str, list[Any]]
) -> Iterator[FrozenTrial]:
    """The trials of a solver in order, those without a result open."""
    distributions = {} if spec.sampler == LISTING else spec.spaces()[solver].distributions()
    numbers = [number for name, number in results if name == solver]
    for number in range(max(numbers, default=-1) + 1):
        before = earlier.get(f"{solver}/{number}")
        attributes: dict[str, Any] = {EARLIER: before} if before else {}
        plain = results.get((solver, number))
        if plain is None:
            yield create_trial(state=TrialState.RUNNING, user_attrs=attributes)
            continue
        result = result_from_json(plain)
        attributes[RESULT] = plain
        score = None if result.state == "failed" else result.objective
        try:
            params = {name: result.config[name] for name in distributions}
            yield _told(attributes, score, params, distributions)
        except (KeyError, ValueError):  # a published configuration lies outside its range
            yield _told(attributes, score, {}, {})


def _told(
    attributes: dict[str, Any], score: float | None, params: dict[str, Any], distributions: dict[str, Any]
) -> FrozenTrial:
    state = TrialState.FAIL if score is None else TrialState.COMPLETE
    return create_trial(
        state=state, value=score, params=params, distributions=distributions, user_attrs=attributes
    )


def _set_aside(path: Path) -> None:
    """A copy of a damaged file under the first free name."""
    if path.exists():
        places = (path.with_name(f"{path.name}.damaged-{n}") for n in range(1, 10**6))
        next(place for place in places if not place.exists()).write_bytes(path.read_bytes())
