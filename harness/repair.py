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

from harness.book import COMPLETE, FAILED, RUNNING, Book, Trial, new_trial
from harness.errors import HarnessError
from harness.journal import mend, opened
from harness.points import POINTS, Points
from harness.record import (
    EARLIER,
    JOURNAL,
    RESULT,
    SEAL,
    SPEC,
    TRIAL,
    named,
    own,
    read_trials,
    require_points,
    require_same,
    result_of,
    study_name,
)
from harness.result import Result
from harness.spec import LISTING, NAME, StudySpec, grown, read_spec

Heads = dict[tuple[str, int], dict[str, Any]]
"""By solver and number, a result as the journal holds it."""


def write_journal(folder: Path, spec: StudySpec, trials: Mapping[str, Sequence[Trial]]) -> None:
    """Put a journal of these trials, by solver in order of their numbers, in the place of the folder's."""
    for left in folder.glob(".journal-*"):  # by a crash
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".journal-", dir=folder) as scratch:
        book = Book(Path(scratch) / JOURNAL)
        for solver in trials:
            mine = {SPEC: spec.of(solver).model_dump(mode="json")}
            study = book.study(study_name(spec, solver), mine)
            kinds = {} if spec.sampler == LISTING else spec.spaces()[solver].distributions()
            book.write(
                [
                    new_trial(study, trial.params, kinds, trial.attributes, _state(trial), trial.value)
                    for trial in trials[solver]
                ]
            )
        os.replace(Path(scratch) / JOURNAL, folder / JOURNAL)


def _state(trial: Trial) -> int:
    if not trial.told:
        return RUNNING
    return FAILED if trial.value is None else COMPLETE


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
    trials: dict[str, list[Trial]] = {}
    for solver, told_or_not in read_trials(folder, old).items():
        trials[solver] = [
            _opened(solver, trial) if trial.told and again(solver, result_of(trial)) else trial
            for trial in told_or_not
        ]
    write_journal(folder, new, trials)


def _opened(solver: str, trial: Trial) -> Trial:
    earlier = [*trial.attributes.get(EARLIER, []), named(solver, trial)]
    found = Trial(trial.number, trial.place, trial.params)
    found.note({EARLIER: earlier})
    return found


# --- what is damaged


def repair(folder: Path) -> list[str]:
    """Write study.json and the journal anew from what verifies, all of it sealed; in words, what was kept and
    dropped. The files as they were stay beside the new ones. Points stay where they are: a result whose
    points are damaged is dropped."""
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
    mend(folder / POINTS)
    places = {"", *Points(folder).places()}
    results, earlier = _results(spec, entries)
    whole = {key: head for key, head in results.items() if head.get(SEAL, "") in places}
    if len(whole) < len(results):
        said.append(f"{POINTS}: the points of {len(results) - len(whole)} trials are missing or damaged")
    results = _unsealed(folder, spec, lines[:bare]) | whole
    trials = {solver: list(trials_of(spec, solver, results, earlier)) for solver in spec.solvers}
    _set_aside(path)
    write_journal(folder, spec, {solver: found for solver, found in trials.items() if found})
    for solver, found in trials.items():
        kept = sum(trial.told for trial in found)
        said.append(
            f"{solver}: {kept} of {spec.trials_of(solver)} trials kept, the run command makes the rest again"
        )
    return said


def _sound(folder: Path) -> bool:
    try:
        require_points(folder, read_trials(folder, read_spec(folder)))
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


def _results(spec: StudySpec, entries: Sequence[dict[str, Any]]) -> tuple[Heads, dict[str, list[Any]]]:
    """Every sealed result under the trial that it names, the last where a trial has two; and by trial, what
    was recorded before it was opened to run again."""
    found: Heads = {}
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


def _unsealed(folder: Path, spec: StudySpec, lines: Sequence[bytes]) -> Heads:
    """The results of lines from before there were seals, which belong to the trial where they stand."""
    with tempfile.TemporaryDirectory(prefix=".journal-", dir=folder) as name:
        journal = Path(name) / JOURNAL

        def fails(number: int) -> bool:
            journal.write_bytes(b"".join(lines[:number]))
            try:
                Book(journal)
            except HarnessError:
                return True
            return False

        fails(bisect.bisect_left(range(len(lines) + 1), True, key=fails) - 1)
        found: Heads = {}
        for name, study in Book(journal).studies.items():
            solver = name.removeprefix(study_name(spec, ""))
            for trial in study.trials:
                if solver in spec.solvers and trial.told and own(spec, solver, trial):
                    found[solver, trial.number] = named(solver, trial)
        return found


def trials_of(
    spec: StudySpec, solver: str, heads: Heads, earlier: Mapping[str, list[Any]]
) -> Iterator[Trial]:
    """The trials of a solver in order, those without a result open."""
    searched = [] if spec.sampler == LISTING else list(spec.spaces()[solver].searched())
    numbers = [number for name, number in heads if name == solver]
    for number in range(max(numbers, default=-1) + 1):
        trial = Trial(number, number, {})
        if before := earlier.get(f"{solver}/{number}"):
            trial.note({EARLIER: before})
        if (head := heads.get((solver, number))) is not None:
            trial.note({RESULT: head})
            trial.told = True
            trial.params = {name: head["config"][name] for name in searched if name in head["config"]}
            trial.value = None if head["state"] == "failed" else float(head["objective"])
        yield trial


def _set_aside(path: Path) -> None:
    """A copy of a damaged file under the first free name."""
    if path.exists():
        places = (path.with_name(f"{path.name}.damaged-{n}") for n in range(1, 10**6))
        next(place for place in places if not place.exists()).write_bytes(path.read_bytes())
