"""The worker's door: what a plug-in gives back is made plain and judged here, once, for every executor."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from harness.budget import KINDS
from harness.errors import PluginError
from harness.problem import Problem
from harness.result import Metric, Result, failed

PLACE = ("upper_iteration", "seconds")
TAKEN = (*KINDS, "total", *PLACE)
"""Names that points of a curve have besides metrics."""


def require_declared(problem: Problem | type[Problem]) -> None:
    """Raises PluginError where a problem's metrics are not declared as tables and the record need them."""
    names = getattr(problem, "metric_names", None)
    if not isinstance(names, dict) or not all(isinstance(metric, Metric) for metric in names.values()):
        raise PluginError(f"metric_names must be a dict of Metric by name, but is {names!r}")
    for name in names:
        _require_word(name)
    lacking = {getattr(problem, "objective", None), getattr(problem, "headline", None)} - set(names)
    if lacking:
        raise PluginError(f"metric_names lacks {', '.join(sorted(map(str, lacking)))}")


def _require_word(name: Any) -> None:
    if not isinstance(name, str) or not name.isidentifier() or name in TAKEN:
        raise PluginError(
            f"a metric is called {name!r}; expected a word of letters, digits and _ which is none of "
            f"{', '.join(TAKEN)}"
        )


def plain_metrics(found: Any) -> dict[str, float]:
    """Metrics as floats, those of NumPy and PyTorch as well.

    Raises PluginError: not a dict, a name that tables cannot hold, a value that is not one number."""
    if not isinstance(found, Mapping):
        raise PluginError(f"metrics must be a dict, but got {type(found).__name__}")
    for name in found:
        _require_word(name)
    return {name: _number(name, value) for name, value in found.items()}


def evaluated(found: Any, problem: Problem) -> dict[str, float]:
    """What an evaluation gave: every metric of `metric_names` and no other, plain. Raises PluginError."""
    metrics = plain_metrics(found)
    differ = set(problem.metric_names) ^ set(metrics)
    if differ:
        raise PluginError(f"evaluate and metric_names differ in {', '.join(sorted(differ))}")
    return metrics


def _number(name: str, value: Any) -> float:
    if isinstance(value, Tensor | np.ndarray | np.generic) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, int | float):
        raise PluginError(f"metric {name} must be a number, but got {str(value)[:80]!r}")
    try:
        return float(value)
    except OverflowError:
        raise PluginError(f"metric {name} is beyond what a float holds") from None


def checked(result: Result, problem: Problem) -> Result:
    """The result with plain numbers; a failed one with its reason where the metrics are not as declared, or
    the objective is not a number."""
    if result.state == "failed" or (not result.metrics and math.isinf(result.objective)):  # not evaluated
        return result
    try:
        metrics = evaluated(result.metrics, problem)
        curve = [_point(point) for point in result.curve]
    except PluginError as error:
        return failed(result.config, str(error))
    if math.isnan(metrics[problem.objective]):
        return failed(result.config, "the objective is not a number")
    return dataclasses.replace(result, metrics=metrics, objective=metrics[problem.objective], curve=curve)


def _point(point: Any) -> dict[str, float]:
    """A point of a curve; the runner has put its own numbers before the problem's."""
    own = {name: point[name] for name in TAKEN if name in point}
    return own | plain_metrics({name: value for name, value in point.items() if name not in own})
