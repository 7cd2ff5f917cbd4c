"""The options of the commands, checked, as values that the engine takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from harness.budget import KINDS
from harness.errors import HarnessError, nearest
from harness.params import check_values
from harness.plugins import Plugins
from harness.worker import Context, check_device

DIVERGENCE = ("x0", "last", "worst")
SYSTEM_FAILURE = ("start", "diverge")
T = TypeVar("T", int, float)


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


def prices(given: Sequence[str]) -> dict[str, float]:
    table = dict.fromkeys(KINDS, 1.0)
    for kind, text in pairs(given, "--price").items():
        if kind not in table:
            raise HarnessError(f"--price: unknown kind {kind!r}; {nearest(kind, KINDS)}")
        table[kind] = positive("--price " + kind, _number(text, f"--price {kind}"))
    return table


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise HarnessError(f"{where} must be a number, but got {text!r}") from None


def positive(name: str, value: T) -> T:
    if not (value > 0 and math.isfinite(value)):
        raise HarnessError(f"{name} must be a finite number above 0, but got {value:g}")
    return value


def one_of(name: str, value: str, valid: Sequence[str]) -> str:
    if value not in valid:
        raise HarnessError(f"{name}: unknown value {value!r}; {nearest(value, valid)}")
    return value


def not_negative(name: str, value: int) -> int:
    if value < 0:
        raise HarnessError(f"{name} must be 0 or above, but got {value}")
    return value


def make_context(given: Mapping[str, Any], plugins: Plugins) -> Context:
    """The options that `run` and `trial` have in common, checked."""
    main_seed = not_negative("--seed", given["seed"])
    data_seed = main_seed if given["data_seed"] is None else not_negative("--data-seed", given["data_seed"])
    if not (given["trial_timeout"] >= 0 and math.isfinite(given["trial_timeout"])):
        raise HarnessError(f"--trial-timeout must be 0 or above, but got {given['trial_timeout']}")
    options = check_values(plugins.problem(given["problem"]), pairs(given["options"], "--set"), "--set")
    return Context(
        problem=given["problem"],
        options=options,
        data_dir=str(given["data_dir"].resolve()) if given["data_dir"] else None,
        data_seed=data_seed,
        device=check_device(one_of("--device", given["device"], ("cpu", "cuda", "auto"))),
        plugins=[str(path.resolve()) for path in given["plugins"]],
        rules={
            "budget": positive("--budget", given["budget"]),
            "prices": prices(given["price"]),
            "seed": main_seed,
            "divergence": one_of("--divergence", given["divergence"], DIVERGENCE),
            "system_failure": one_of("--system-failure", given["system_failure"], SYSTEM_FAILURE),
            "curves": not_negative("--curves", given["curves"]),
        },
        trial_timeout=given["trial_timeout"],
    )
