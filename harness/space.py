"""Search spaces: for one problem, per solver, what each parameter may be.

A TOML file with one table per solver:

    [bsgm]
    lower_steps = { low = 10, high = 10000 }   # log-uniform unless log = false; integers are floors
    system_steps = "= lower_steps"             # a tie, also { tie = "lower_steps" }
    growth = [1, 10, 100]                      # a choice
    batch_size = 90                            # fixed

    [bsgm.published]                           # what its authors run: `harness run --published`
    lower_steps = 287                          # what is not named here is tied, fixed or has its default
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, nearest
from harness.params import Parameter, check_value, check_values, parameters

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

PUBLISHED = "published"
Entry = dict[str, Any]
"""One of {low, high, log, integer}, {choices}, {tie}, {value}: plain data, as the study records it."""


@dataclass(frozen=True)
class Space:
    """The space of one solver; `entries` has every parameter of the solver. published: the values of its
    authors, in the space or not; empty: none are known for this problem."""

    solver: str
    entries: dict[str, Entry]
    published: dict[str, Any] = field(default_factory=dict)

    def searched(self) -> dict[str, Entry]:
        """The parameters that are drawn."""
        return {name: e for name, e in self.entries.items() if "low" in e or "choices" in e}

    def largest(self) -> dict[str, Any]:
        """The largest value of every parameter that is not tied."""
        ends = {name: [entry.get("value", entry.get("high"))] for name, entry in self.entries.items()}
        choices = {name: entry["choices"] for name, entry in self.entries.items() if "choices" in entry}
        return {name: max(values) for name, values in (ends | choices).items() if None not in values}

    def distributions(self) -> dict[str, BaseDistribution]:
        return {name: _distribution(entry) for name, entry in self.searched().items()}

    def resolve(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """`given` values with the ties and fixed values filled in; what is neither stays out."""
        config = dict(given)
        for name in self.entries:
            value = self._follow(name, given)
            if value is not None:
                config[name] = value
        return {name: config[name] for name in [*self.entries, *config] if name in config}

    def _follow(self, name: str, given: Mapping[str, Any]) -> Any:
        while name not in given and "tie" in self.entries[name]:
            name = self.entries[name]["tie"]
        return given[name] if name in given else self.entries[name].get("value")


def in_words(entry: Entry) -> str:
    if "tie" in entry:
        return f"= {entry['tie']}"
    if "choices" in entry:
        return f"one of {', '.join(map(str, entry['choices']))}"
    if "value" in entry:
        return str(entry["value"])
    return f"{entry['low']:g} to {entry['high']:g}"


def _distribution(entry: Entry) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if "choices" in entry:
        return CategoricalDistribution(entry["choices"])
    kind = IntDistribution if entry["integer"] else FloatDistribution
    return kind(entry["low"], entry["high"], log=entry["log"])


class SpaceFile:
    """Parsed tables; one is checked when its solver is asked for, so that a removed solver, whose table stays
    behind, harms nobody. own: those of a user's file, which stand before the shipped ones."""

    def __init__(self, problem: str, path: str, text: str, own: SpaceFile | None = None) -> None:
        self.problem = problem
        try:
            tables: dict[str, Any] = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # also a number of 5000 digits, tables without end
            raise HarnessError(f"search space {path} is not valid TOML: {error}") from None
        self.where: dict[str, str] = dict.fromkeys(tables, path) | (own.where if own else {})
        self.tables: dict[str, Any] = tables | (own.tables if own else {})

    def solvers(self) -> list[str]:
        return list(self.tables)

    def space(self, solver: str, plugin: type) -> Space:
        """Raises HarnessError: no table for the solver, or anything wrong in it."""
        if solver not in self.tables:
            raise HarnessError(
                f"no search space of problem {self.problem!r} has a table for solver {solver!r}; write "
                f"[{solver}] with its ranges to a file of yours and give it by --space FILE.toml"
            )
        path = self.where[solver]
        table, where = self.tables[solver], f"{path} [{solver}]"
        if not isinstance(table, dict):
            raise HarnessError(f"{where} must be a table of parameters, but got {table!r}")
        published = table.get(PUBLISHED, {})
        if not isinstance(published, dict):
            raise HarnessError(f"{where}: {PUBLISHED} must be a table of values, but got {published!r}")
        ranges = {name: entry for name, entry in table.items() if name != PUBLISHED}
        space = Space(solver, _check_table(ranges, plugin, where))
        if not published:
            return space
        typed = complete(space, plugin, published, f"{path} [{solver}.{PUBLISHED}]")
        return replace(space, published={name: typed[name] for name in published})


def find_space(problem: str, given: Path | None, known: Collection[str] = ()) -> SpaceFile:
    """The shipped tables of a problem, replaced and added to by those of --space. known: every solver.

    Raises HarnessError: `given` cannot be read, or has a table that is no solver's. There may be no table."""
    shipped = _shipped(problem)
    path, text = f"search_spaces/{problem}.toml", shipped.read_text("utf-8") if shipped.is_file() else ""
    if given is None:
        return SpaceFile(problem, path, text)
    try:
        own = SpaceFile(problem, str(given), given.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"search space {given} cannot be read ({error}); check --space") from None
    for name in own.solvers():
        if name not in known:
            raise HarnessError(f"{given}: [{name}] is no solver; {nearest(name, known)}")
    return SpaceFile(problem, path, text, own)


def _shipped(problem: str) -> Traversable:
    return files("search_spaces") / f"{problem}.toml"


def shipped_text(problem: str, solver: str) -> str:
    """The shipped search space of a problem as it is written; of one solver, if one is named, its tables with
    the comments right above them.

    Raises HarnessError: there is none."""
    shipped = _shipped(problem)
    if not shipped.is_file():
        known = [
            Path(entry.name).stem for entry in files("search_spaces").iterdir() if entry.name.endswith("toml")
        ]
        raise HarnessError(f"no search space is shipped for {problem!r}; {nearest(problem, known)}")
    text = shipped.read_text("utf-8")
    if not solver:
        return text.rstrip()
    header = re.compile(rf"^\[{re.escape(solver)}[\].]", re.MULTILINE)
    own = [block for block in text.split("\n\n") if header.search(block)]
    if not own:
        raise HarnessError(f"{problem} has no table for {solver!r}; {nearest(solver, tomllib.loads(text))}")
    return "\n\n".join(own).rstrip()


def _check_table(table: Mapping[str, Any], plugin: type, where: str) -> dict[str, Entry]:
    known = parameters(plugin)
    for name in table:
        if name not in known:
            raise HarnessError(f"{where}: unknown parameter {name!r}; {nearest(name, known)}")
    missing = [name for name, p in known.items() if p.required and name not in table]
    if missing:
        raise HarnessError(
            f"{where}: missing parameter {', '.join(map(repr, missing))}; give a range or a value"
        )
    entries = {
        name: _entry(name, known[name], table[name], where) if name in table else {"value": parameter.default}
        for name, parameter in known.items()
    }
    _check_ties(entries, where)
    return entries


def _entry(name: str, parameter: Parameter, given: Any, where: str) -> Entry:
    if isinstance(given, str) and given.strip().startswith("="):
        return {"tie": given.strip()[1:].strip()}
    if isinstance(given, list):
        if not given:
            raise HarnessError(f"{where}: {name} has no choices; list at least one value")
        return {"choices": [check_value(name, parameter, value, where) for value in given]}
    if isinstance(given, dict):
        if parameter.choices is not None and set(given) != {"tie"}:
            raise HarnessError(f"{where}: {name} is one of {parameter.choices}, not a range; list its values")
        return _tie_or_range(name, parameter, given, where)
    return {"value": check_value(name, parameter, given, where)}


def _tie_or_range(name: str, parameter: Parameter, given: dict[str, Any], where: str) -> Entry:
    if set(given) == {"tie"}:
        return {"tie": str(given["tie"])}
    if not {"low", "high"} <= set(given) <= {"low", "high", "log"}:
        raise HarnessError(
            f"{where}: {name} must be {{ low, high, log }} or {{ tie }}, but has {sorted(given)}"
        )
    low, high = (_bound(name, parameter, given[key], where) for key in ("low", "high"))
    log = given.get("log", True)
    if not isinstance(log, bool):
        raise HarnessError(f"{where}: {name}: log must be true or false, but got {log!r}")
    if low >= high:
        raise HarnessError(f"{where}: {name}: low must be below high, but got low = {low:g}, high = {high:g}")
    if log and low <= 0:
        raise HarnessError(f"{where}: {name}: low must be above 0 where log = true, but got {low:g}")
    check_value(name, parameter, low, where)
    return {"low": low, "high": high, "log": log, "integer": parameter.type is int}


def _bound(name: str, parameter: Parameter, value: Any, where: str) -> Any:
    """A bound's type and finiteness; its sign is judged with the other bound."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise HarnessError(f"{where}: {name}: bounds must be finite numbers, but got {value!r}")
    if parameter.type is int and value != int(value):
        raise HarnessError(f"{where}: {name}: bounds must be integers, but got {value!r}")
    return parameter.type(value)


def _check_ties(entries: dict[str, Entry], where: str) -> None:
    for name in entries:
        path = [name]
        while "tie" in entries[path[-1]]:
            target = entries[path[-1]]["tie"]
            if target not in entries:
                raise HarnessError(
                    f"{where}: {path[-1]} is tied to unknown parameter {target!r}; {nearest(target, entries)}"
                )
            if target in path:
                raise HarnessError(f"{where}: ties go in a circle: {' = '.join([*path, target])}")
            path.append(target)


def complete(space: Space, plugin: type, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A configuration typed by hand: checked, with the ties and fixed values of the space."""
    known = parameters(plugin)
    for name in given:
        if name not in known:
            raise HarnessError(f"{where}: unknown parameter {name!r}; {nearest(name, known)}")
    typed = {name: check_value(name, known[name], value, where) for name, value in given.items()}
    return check_values(plugin, space.resolve(typed), where)
