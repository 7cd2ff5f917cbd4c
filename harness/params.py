"""Declaring what a plug-in can be given: the parameters of a solver, the options of a problem.

A plug-in is a dataclass; each field is made by one of the functions below, which carry the
meaning, default and usual range that `harness show` prints and the search spaces are checked against.

Inside a pack of N trials a `count` is a CPU int64 tensor of shape (N,), a `real` is a tensor of shape
(N, 1) on the problem's device, and a `shared` number or a `choice` is one plain value: only trials that
agree on it are packed together.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from harness.errors import HarnessError, nearest

REQUIRED = dataclasses.MISSING
MOST_STEPS = 2**31
"""The most steps, batches or examples of a batch: far above any budget, and their products fit in int64."""


@dataclasses.dataclass(frozen=True)
class Parameter:
    """What is known about one parameter; `kind` is "count", "real", "shared", "choice" or "option"."""

    kind: str
    meaning: str
    symbol: str
    default: Any
    type: type
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] | None = None

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    @property
    def common(self) -> bool:
        """Whether all trials of a pack have the same value."""
        return self.kind in ("shared", "choice")


def _field(parameter: Parameter) -> Any:
    return dataclasses.field(default=parameter.default, metadata={"parameter": parameter}, kw_only=True)


def count(meaning: str, *, symbol: str = "", default: Any = REQUIRED, low: int = 1) -> Any:
    """An integer per trial: steps, batches."""
    return _field(Parameter("count", meaning, symbol, default, int, low, MOST_STEPS))


def real(
    meaning: str, *, symbol: str = "", default: Any = REQUIRED, low: float = 0.0, high: float | None = None
) -> Any:
    """A float per trial: step sizes, momenta."""
    return _field(Parameter("real", meaning, symbol, default, float, low, high))


def shared(meaning: str, *, symbol: str = "", default: Any = REQUIRED, low: int = 1) -> Any:
    """An integer that all trials of one pack have in common: mini-batch sizes."""
    return _field(Parameter("shared", meaning, symbol, default, int, low, MOST_STEPS))


def choice(meaning: str, *, default: Any, choices: tuple[Any, ...]) -> Any:
    """A word or a switch that all trials of one pack have in common."""
    return _field(Parameter("choice", meaning, "", default, type(default), choices=choices))


def option(meaning: str, *, default: Any, choices: tuple[Any, ...] | None = None) -> Any:
    """An option of a problem; its type is the default's."""
    return _field(Parameter("option", meaning, "", default, type(default), choices=choices))


def parameters(plugin: type) -> dict[str, Parameter]:
    """The declared parameters of a plug-in class by name, in order of declaration."""
    return {
        field.name: field.metadata["parameter"]
        for field in dataclasses.fields(plugin)
        if "parameter" in field.metadata
    }


def _convert(name: str, parameter: Parameter, value: Any, where: str) -> Any:
    wanted = parameter.type
    if isinstance(value, str) and wanted is not str:
        try:
            value = {"true": True, "false": False}[value.lower()] if wanted is bool else float(value)
        except (ValueError, KeyError):
            raise HarnessError(f"{where}: {name} must be {wanted.__name__}, but got {value!r}") from None
    if wanted is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise HarnessError(f"{where}: {name} must be {wanted.__name__}, but got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise HarnessError(f"{where}: {name} must be finite, but got {value!r}")
    return value


def check_value(name: str, parameter: Parameter, value: Any, where: str) -> Any:
    """`value` (perhaps still text from a command line) as the parameter's type, inside its range.

    Raises HarnessError: wrong type, outside the range, not one of the choices."""
    value = _convert(name, parameter, value, where)
    if parameter.choices is not None and value not in parameter.choices:
        raise HarnessError(f"{where}: {name} must be one of {parameter.choices}, but got {value!r}")
    if parameter.low is not None and value < parameter.low:
        raise HarnessError(f"{where}: {name} must be at least {parameter.low:g}, but got {value!r}")
    if parameter.high is not None and value > parameter.high:
        raise HarnessError(f"{where}: {name} must be at most {parameter.high:g}, but got {value!r}")
    return value


def check_values(plugin: type, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Every parameter of `plugin` with its given or default value.

    Raises HarnessError: unknown name (with the nearest valid ones), missing parameter, bad value."""
    known = parameters(plugin)
    for name in given:
        if name not in known:
            raise HarnessError(f"{where}: unknown parameter {name!r}; {nearest(name, known)}")
    missing = [name for name, parameter in known.items() if parameter.required and name not in given]
    if missing:
        raise HarnessError(f"{where}: missing parameter {', '.join(map(repr, missing))}")
    return {
        name: check_value(name, parameter, given[name], where) if name in given else parameter.default
        for name, parameter in known.items()
    }
