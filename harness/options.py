"""Values from the command line, checked; a bad one is a HarnessError that names its option."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from harness.errors import HarnessError, nearest

T = TypeVar("T", int, float)
DEFAULTS = "defaults"


def pairs(given: Sequence[str], where: str) -> dict[str, str]:
    """NAME=VALUE words as a dict."""
    found: dict[str, str] = {}
    for word in given:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise HarnessError(f"{where}: expected NAME=VALUE, but got {word!r}")
        if name in found:
            raise HarnessError(f"{where}: {name} is given twice")
        found[name] = value
    return found


def names(text: str) -> tuple[str, ...]:
    """Names with commas between; none for ""."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def trials(given: str | None) -> int | None:
    """A number of trials; 1 for "defaults", of each solver its published configuration. None: not given."""
    if given is None:
        return None
    if given == DEFAULTS:
        return 1
    if not given.isdecimal() or len(given) > 9:
        raise HarnessError(f"--trials must be a number, 1 or above, or {DEFAULTS}, but got {given[:40]!r}")
    return int(given)


def prices(given: Sequence[str]) -> dict[str, float]:
    """KIND=PRICE words as a dict."""
    return {kind: _number(f"--price {kind}", text) for kind, text in pairs(given, "--price").items()}


def numbers(name: str, text: str) -> tuple[float, ...]:
    """Numbers with commas between; none for ""."""
    return tuple(_number(name, word) for word in text.split(",")) if text.strip() else ()


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise HarnessError(f"{name} must be a number, but got {text!r}") from None


def finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise HarnessError(f"{name} must be a finite number, but got {value:g}")
    return value


def positive(name: str, value: T) -> T:
    if not (value > 0 and math.isfinite(value)):
        raise HarnessError(f"{name} must be a finite number above 0, but got {str(value)[:40]}")
    return value


def at_most(name: str, value: T, most: T) -> T:
    """A count that is above 0 and, so that a slip of the hand ends here, not in a full memory, not above."""
    if positive(name, value) > most:
        raise HarnessError(f"{name} must be at most {most}, but got {str(value)[:40]}")
    return value


def not_negative(name: str, value: T) -> T:
    if not (value >= 0 and math.isfinite(value)):
        raise HarnessError(f"{name} must be a finite number, 0 or above, but got {str(value)[:40]}")
    return value


def valid_seed(name: str, value: int) -> int:
    """Every library that is given one takes seeds below 2^32."""
    if not 0 <= value < 2**32:
        raise HarnessError(f"{name} must be an integer from 0 to {2**32 - 1}, but got {str(value)[:40]}")
    return value


def one_of(name: str, value: str, valid: Sequence[str]) -> str:
    if value not in valid:
        raise HarnessError(f"{name}: unknown value {value!r}; {nearest(value, valid)}")
    return value
