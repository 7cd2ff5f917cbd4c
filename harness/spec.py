"""The resolved specification of a study: everything its numbers depend on, and how tables call things.

It lies in the study's folder as study.json; a study can be run again from it alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from dataclasses import fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from harness.errors import HarnessError
from harness.rules import Rules
from harness.space import Space

NAME = "study.json"
LISTING = "listed"
"""The sampler of a study that draws nothing: its specification lists the configurations."""
CHECKSUM = "checksum"
GROWS = "trials"
TEXT = ("label", "reference", "parameters", "since", "defaults")
LISTED = ("configs", "of")
NOT_COMPARED = {"versions", "metrics", "objective", "headline", GROWS}


class SolverSpec(BaseModel):
    """One solver of a study. parameters: symbol and meaning by name. space: `Space.entries`. published: the
    values of trial 0 where a study asks for the published ones; empty: drawn. since: when it came, UTC.
    source: the fingerprint of the plug-in file that defines it; empty: it is installed. defaults: of its
    parameters, as in a StudySpec. configs: where the sampler is "listed", the configuration of every trial,
    whole; of: the numbers of the trials of another study that they are of."""

    model_config = ConfigDict(extra="forbid")

    label: str
    reference: str
    parameters: dict[str, dict[str, str]]
    space: dict[str, dict[str, Any]]
    published: dict[str, Any] = {}
    since: str = ""
    source: str = ""
    defaults: dict[str, Any] = {}
    configs: list[dict[str, Any]] = []
    of: list[int] = []


class StudySpec(BaseModel):
    """plugins: plug-in files with a fingerprint of their content, latest last. source: that of the file which
    defines the problem; empty: it is installed. versions: of what made the first trial. defaults: of the
    problem's options: what a study is taken to have that is older than an option.

    As plain data the rules lie flat beside the other fields."""

    model_config = ConfigDict(extra="forbid")

    problem: str
    options: dict[str, Any]
    rules: Rules
    trials: int
    data_seed: int
    search_seed: int
    sampler: str
    metrics: dict[str, dict[str, str]]
    objective: str
    headline: str
    solvers: dict[str, SolverSpec]
    plugins: dict[str, str]
    source: str = ""
    versions: dict[str, str]
    defaults: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _with_rules(cls, values: dict[str, Any]) -> dict[str, Any]:
        if "rules" in values:
            return values
        names = {field.name for field in fields(Rules)} & set(values)
        rest = {name: value for name, value in values.items() if name not in names}
        return rest | {"rules": {name: values[name] for name in names}}

    @model_serializer(mode="wrap")
    def _flat(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialize(self)
        rules: dict[str, Any] = values.pop("rules")
        return rules | values

    def spaces(self) -> dict[str, Space]:
        return {name: Space(name, solver.space, solver.published) for name, solver in self.solvers.items()}

    def trials_of(self, solver: str) -> int:
        """How many trials this solver has when the study is finished."""
        return len(self.solvers[solver].configs) if self.sampler == LISTING else self.trials

    def traced(self) -> bool:
        """Whether some plug-in's file is known; before it was, `plugins` was compared as a whole."""
        return any([self.source, *(solver.source for solver in self.solvers.values())])

    def of(self, solver: str) -> StudySpec:
        """The specification with this solver only."""
        return self.model_copy(update={"solvers": {solver: self.solvers[solver]}})

    def write(self, folder: Path) -> None:
        """Whole or not at all, with a checksum of all values."""
        values = self.model_dump(mode="json")
        new = folder / f".{NAME}.new"
        text = json.dumps(values | {CHECKSUM: _checksum(values)}, indent=2, ensure_ascii=False)
        new.write_text(text + "\n", encoding="utf-8")
        os.replace(new, folder / NAME)


def _checksum(values: dict[str, Any]) -> str:
    return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def read_spec(folder: Path) -> StudySpec:
    """Raises HarnessError: it is missing, damaged, or was edited since a driver wrote it."""
    path = folder / NAME
    try:
        values = json.loads(path.read_text("utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it is not a JSON object")
        checksum = values.pop(CHECKSUM, None)  # absent from before it was written
        if checksum not in (None, _checksum(values)):
            raise ValueError("it was changed since a driver wrote it")
        return StudySpec.model_validate(values)
    except FileNotFoundError:
        raise HarnessError(f"{folder} is not a study: it has no {NAME}; check the path") from None
    except (ValueError, RecursionError, HarnessError, OSError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise HarnessError(
            f"{path} cannot be read: {what}; restore it from a copy, or `harness repair {folder}`"
        ) from None


def differences(old: StudySpec, new: StudySpec) -> list[str]:
    """What keeps a folder's study from growing into a new one, as "field: old -> new"."""
    found = contradictions(old, new)
    if old.sampler == "sobol" and _searched(old) != _searched(grown(old, new)):
        found.append("solvers: new parameters would change the Sobol sequence of the others")
    return found


def contradictions(old: StudySpec, new: StudySpec) -> list[str]:
    """Where two specifications are not of one study. Solvers and plug-in files that only one of them has do
    not count."""
    one, two = _in_full(old, new), _in_full(new, old)
    for field in ("solvers", "plugins"):
        common = sorted(set(one[field]) & set(two[field]))
        one[field], two[field] = ({name: values[field][name] for name in common} for values in (one, two))
    skip = "plugins" if old.traced() else "source"
    left, right = (_flat(values, but=(*TEXT, *LISTED, skip)) for values in (one, two))
    names = [name for name in {**left, **right} if left.get(name) != right.get(name)]
    found = [f"{name}: {left.get(name, 'absent')} → {right.get(name, 'absent')}" for name in names]
    for name in sorted(set(old.solvers) & set(new.solvers)):
        had = old.solvers[name].configs
        if new.solvers[name].configs[: len(had)] != had:
            found.append(f"solvers.{name}.configs: others, or fewer (may only grow)")
    if new.trials < old.trials:
        found.append(f"{GROWS}: {old.trials} → {new.trials} (may only grow)")
    return found


def _in_full(spec: StudySpec, other: StudySpec) -> dict[str, Any]:
    """What is compared of a specification. An option or a parameter that there was not when it was written
    has the other's default."""
    values = spec.model_dump(exclude=NOT_COMPARED)
    values["options"] = {n: other.defaults[n] for n in other.options if n in other.defaults} | spec.options
    for name in set(spec.solvers) & set(other.solvers):
        space, defaults = values["solvers"][name]["space"], other.solvers[name].defaults
        space |= {n: {"value": v} for n, v in defaults.items() if n not in space}
    return values


def _searched(spec: StudySpec) -> set[str]:
    return {name for space in spec.spaces().values() for name in space.searched()}


def grown(old: StudySpec, new: StudySpec) -> StudySpec:
    """A folder's specification with the solvers, plug-in files and trials of a new one."""
    if not old.traced():
        old = with_sources(old, new, old.solvers).model_copy(update={"source": new.source})
    added = {n: s for n, s in new.solvers.items() if n not in old.solvers}
    lists = {n: {key: getattr(new.solvers[n], key) for key in LISTED} for n in new.solvers if n not in added}
    longer = {n: old.solvers[n].model_copy(update=update) for n, update in lists.items()}
    return old.model_copy(
        update={
            "solvers": {**old.solvers, **longer, **added},
            "plugins": {**old.plugins, **new.plugins},
            "trials": max(old.trials, new.trials),
        }
    )


def with_sources(old: StudySpec, new: StudySpec, solvers: Iterable[str]) -> StudySpec:
    """The old specification, but the fingerprints of these solvers are the new one's."""
    common = [name for name in solvers if name in old.solvers and name in new.solvers]
    update = {n: old.solvers[n].model_copy(update={"source": new.solvers[n].source}) for n in common}
    return old.model_copy(update={"solvers": {**old.solvers, **update}})


def _flat(value: Any, prefix: str = "", but: Collection[str] = ()) -> dict[str, Any]:
    """Nested tables as dotted names, without some keys."""
    if not isinstance(value, dict) or prefix.count(".") >= 3 or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if key not in but:
            flat |= _flat(inner, f"{prefix}.{key}" if prefix else str(key), but)
    return flat
