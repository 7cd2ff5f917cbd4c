"""The resolved specification of a study: everything its numbers depend on, and how tables call things.

It lies in the study's folder as study.json; a study can be run again from it alone.
"""

from __future__ import annotations

import os
from dataclasses import fields
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
GROWS = "trials"
NOT_COMPARED = {"versions", "metrics", "objective", "headline", GROWS}


class SolverSpec(BaseModel):
    """One solver of a study. parameters: symbol and meaning by name. space: `Space.entries`. published: the
    values of trial 0 where a study asks for the published ones; empty: drawn. since: when it came, UTC."""

    model_config = ConfigDict(extra="forbid")

    label: str
    reference: str
    parameters: dict[str, dict[str, str]]
    space: dict[str, dict[str, Any]]
    published: dict[str, Any] = {}
    since: str = ""


class StudySpec(BaseModel):
    """plugins: plug-in files with a fingerprint of their content. versions: of what made the first trial.

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
    versions: dict[str, str]

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

    def write(self, folder: Path) -> None:
        """Whole or not at all."""
        new = folder / f".{NAME}.new"
        new.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        os.replace(new, folder / NAME)


def read_spec(folder: Path) -> StudySpec:
    path = folder / NAME
    try:
        return StudySpec.model_validate_json(path.read_text("utf-8"))
    except FileNotFoundError:
        raise HarnessError(f"{folder} is not a study: it has no {NAME}; check the path") from None
    except (ValidationError, HarnessError, UnicodeDecodeError, OSError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise HarnessError(f"{path} cannot be read: {what}") from None


def differences(old: StudySpec, new: StudySpec) -> list[str]:
    """What keeps a folder's specification and a new one from being one study, as "field: old -> new". Solvers
    and plug-in files that only one of them has do not."""
    one, two = (spec.model_dump(exclude=NOT_COMPARED) for spec in (old, new))
    for field in ("solvers", "plugins"):
        common = sorted(set(one[field]) & set(two[field]))
        one[field], two[field] = ({name: values[field][name] for name in common} for values in (one, two))
    left, right = _flat(one), _flat(two)
    names = [name for name in {**left, **right} if left.get(name) != right.get(name)]
    found = [f"{name}: {left.get(name, 'absent')} → {right.get(name, 'absent')}" for name in names]
    if new.trials < old.trials:
        found.append(f"{GROWS}: {old.trials} → {new.trials} (may only grow)")
    if old.sampler == "sobol" and _searched(old) != _searched(grown(old, new)):
        found.append("solvers: new parameters would change the Sobol sequence of the others")
    return found


def _searched(spec: StudySpec) -> set[str]:
    return {name for space in spec.spaces().values() for name in space.searched()}


def grown(old: StudySpec, new: StudySpec) -> StudySpec:
    """A folder's specification with the solvers, plug-in files and trials of a new one."""
    return old.model_copy(
        update={
            "solvers": {**old.solvers, **{n: s for n, s in new.solvers.items() if n not in old.solvers}},
            "plugins": {**old.plugins, **new.plugins},
            "trials": max(old.trials, new.trials),
        }
    )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted names; a solver's own text is not compared, its space is, entry by entry."""
    if not isinstance(value, dict) or prefix.count(".") >= 3 or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if key not in ("label", "reference", "parameters", "since"):
            flat |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat
