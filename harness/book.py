"""Optuna's journal read and written: the studies of a folder, and their trials.

Optuna's own storage holds every trial with its whole history, lists them all whenever one is asked for, and
writes to the disk at every step. This one knows the few operations that a study needs and writes many at
once; the file is Optuna's, which optuna-dashboard and `optuna.load_study` open.
"""

from __future__ import annotations

import json
import marshal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from sys import intern
from typing import TYPE_CHECKING, Any

from harness.journal import Journal, damaged

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

NEW_STUDY, STUDY_ATTRIBUTE, NEW_TRIAL, PARAMETER, STATE, ATTRIBUTE = 0, 2, 4, 5, 6, 8
PASSED_OVER = (3, 7, 9)
"""Attributes of Optuna's own, and intermediate values."""
RUNNING, COMPLETE, FAILED = 0, 1, 3
OPEN = (RUNNING, 4)
Distributions = Mapping[str, "BaseDistribution"]
Entry = dict[str, Any]
NOTHING = marshal.dumps({})


@dataclass(slots=True)
class Trial:
    """number: in its study; place: among all trials of the journal; value: None where it failed. Attributes
    are packed: those of a hundred thousand trials as dictionaries fill a memory."""

    number: int
    place: int
    params: dict[str, Any]
    told: bool = False
    value: float | None = None
    _packed: bytes = NOTHING

    @property
    def attributes(self) -> dict[str, Any]:
        """A copy."""
        found: dict[str, Any] = marshal.loads(self._packed)
        return found

    def note(self, attributes: Mapping[str, Any]) -> None:
        """Add them to its attributes."""
        self._packed = marshal.dumps({**self.attributes, **attributes})

    def forget(self) -> None:
        """A driver has no use for what is told."""
        self._packed = NOTHING


@dataclass
class OptunaStudy:
    """place: among the studies of the journal."""

    place: int
    attributes: dict[str, Any] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)


class Book:
    """What a journal says; what is written to it is in the book as well.

    Raises HarnessError: a line is damaged, or contradicts those before it."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.touch()
        self.journal = Journal(path)
        self.studies: dict[str, OptunaStudy] = {}
        self._studies: list[OptunaStudy] = []
        self._trials: list[Trial] = []
        for entry in self.journal.read():
            try:
                self._apply(entry)
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                what = f"line {self.journal.lines} contradicts those before it ({type(error).__name__})"
                raise damaged(path, what) from None

    def study(self, name: str, attributes: Mapping[str, Any]) -> OptunaStudy:
        """The study of this name, made where there is none, with these attributes."""
        if name not in self.studies:
            self.write([{"op_code": NEW_STUDY, "study_name": name, "directions": [1]}])
        study = self.studies[name]
        changed = {key: value for key, value in attributes.items() if study.attributes.get(key) != value}
        self.write([study_attribute(study, key, value) for key, value in changed.items()])
        return study

    def write(self, entries: Sequence[Entry]) -> None:
        """All or none, through to the disk."""
        if entries:
            self.journal.append([{"worker_id": "harness", **entry} for entry in entries])
            for entry in entries:
                self._apply(entry)

    def _apply(self, entry: Entry) -> None:
        operation = entry["op_code"]
        if operation == NEW_STUDY:
            if entry["study_name"] in self.studies:
                return  # Optuna's storage said so at every opening, and passes over it
            self._studies.append(OptunaStudy(len(self._studies)))
            self.studies[entry["study_name"]] = self._studies[-1]
        elif operation == STUDY_ATTRIBUTE:
            self._studies[entry["study_id"]].attributes.update(entry["user_attr"])
        elif operation == NEW_TRIAL:
            trials = self._studies[entry["study_id"]].trials
            given, kinds = entry.get("params", {}), entry.get("distributions", {})
            params = {intern(name): _external(given[name], kinds[name]) for name in given}
            trial = Trial(len(trials), len(self._trials), params)
            trial.note(entry.get("user_attrs", {}))
            self._close(trial, entry.get("state", RUNNING), entry.get("values") or [entry.get("value")])
            trials.append(trial)
            self._trials.append(trial)
        elif operation in (PARAMETER, STATE, ATTRIBUTE):
            trial = self._trials[entry["trial_id"]]
            if trial.told:
                raise ValueError
            if operation == PARAMETER:
                value = _external(entry["param_value_internal"], entry["distribution"])
                trial.params[intern(entry["param_name"])] = value
            elif operation == ATTRIBUTE:
                trial.note(entry["user_attr"])
            else:
                self._close(trial, entry["state"], entry["values"] or [None])
        elif operation not in PASSED_OVER:
            raise ValueError

    def _close(self, trial: Trial, state: int, values: Sequence[float | None]) -> None:
        trial.told = state not in OPEN
        trial.value = values[0] if trial.told else None


# --- entries


def study_attribute(study: OptunaStudy, key: str, value: Any) -> Entry:
    return {"op_code": STUDY_ATTRIBUTE, "study_id": study.place, "user_attr": {key: value}}


def new_trial(
    study: OptunaStudy,
    params: Mapping[str, Any],
    distributions: Distributions,
    attributes: Mapping[str, Any],
    state: int = RUNNING,
    value: float | None = None,
) -> Entry:
    """A trial at the end of a study. Values that lie outside their distribution, as published ones may, are
    left out: Optuna has no place for them."""
    from optuna.distributions import distribution_to_json

    internal = _internal(params, distributions)
    closed = {} if state == RUNNING else {"datetime_complete": _now()}
    return {
        "op_code": NEW_TRIAL,
        "study_id": study.place,
        "datetime_start": _now(),
        **closed,
        "state": state,
        "value": value,
        "values": None,
        "distributions": {name: distribution_to_json(distributions[name]) for name in internal},
        "params": internal,
        "user_attrs": dict(attributes),
        "system_attrs": {},
        "intermediate_values": {},
    }


def with_params(trial: Trial, params: Mapping[str, Any], distributions: Distributions) -> list[Entry]:
    """Those that the trial has not."""
    from optuna.distributions import distribution_to_json

    lacking = {name: value for name, value in params.items() if name not in trial.params}
    return [
        {
            "op_code": PARAMETER,
            "trial_id": trial.place,
            "param_name": name,
            "param_value_internal": value,
            "distribution": distribution_to_json(distributions[name]),
        }
        for name, value in _internal(lacking, distributions).items()
    ]


def closed(trial: Trial, attributes: Mapping[str, Any], value: float | None) -> list[Entry]:
    """Attributes, and the end of the trial; value None: it failed."""
    state, values = (FAILED, None) if value is None else (COMPLETE, [value])
    end = {"state": state, "values": values, "datetime_complete": _now()}
    return [
        {"op_code": ATTRIBUTE, "trial_id": trial.place, "user_attr": dict(attributes)},
        {"op_code": STATE, "trial_id": trial.place, **end},
    ]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _internal(params: Mapping[str, Any], distributions: Distributions) -> dict[str, float]:
    """Numbers as Optuna writes them: of a choice, its place."""
    found = {}
    for name, value in params.items():
        kind = distributions[name]
        try:
            internal = float(kind.to_internal_repr(value))
        except ValueError:  # none of the choices
            continue
        if getattr(kind, "low", internal) <= internal <= getattr(kind, "high", internal):
            found[name] = internal
    return found


def _external(internal: float, distribution: str) -> Any:
    """A parameter's value, of what Optuna writes."""
    kind, choices = _kind(distribution)
    if choices is not None:
        return choices[int(internal)]
    return int(internal) if kind.startswith("Int") else float(internal)


@lru_cache(maxsize=1024)
def _kind(distribution: str) -> tuple[str, list[Any] | None]:
    told = json.loads(distribution)
    return told["name"], told["attributes"].get("choices")
