"""The worker's door: what a plug-in gives back is made plain and judged here, once, for every executor."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from harness.budget import KINDS
from harness.errors import PluginError
from harness.problem import Metric, Problem
from harness.runner import Result, failed

PLACE = ("upper_iteration", "seconds")
TAKEN = (*KINDS, "total", *PLACE)
"""Names that points of a curve have besides metrics."""


def require_declared(problem: Problem | type[Problem]) -> None:
    """Raises PluginError where a problem's metrics are not declared as tables and the record need them."""
    names = getattr(problem, "metric_names", None)
    if not isinstance(names, dict) or not all(isinstance(metric, Metric) for metric in names.values()):
        raise PluginError(f"metric_names must be a dict of Metric by name, but is {names!r}")
    for name in names:
        if not isinstance(name, str) or not name.isidentifier() or name in TAKEN:
            raise PluginError(
                f"metric_names has {name!r}; expected a word of letters, digits and _ which is none of "
                f"{', '.join(TAKEN)}"
            )
    lacking = {getattr(problem, "objective", None), getattr(problem, "headline", None)} - set(names)
    if lacking:
        raise PluginError(f"metric_names lacks {', '.join(sorted(map(str, lacking)))}")


def plain_metrics(found: Any, names: Collection[str]) -> dict[str, float]:
    """Metrics as floats, those of NumPy and PyTorch as well.

    Raises PluginError: not a dict, a name outside `names`, a value that is not one number."""
    if not isinstance(found, Mapping):
        raise PluginError(f"metrics must be a dict, but got {type(found).__name__}")
    unknown = [name for name in found if name not in names]
    if unknown:
        raise PluginError(f"evaluate and metric_names differ in {', '.join(sorted(map(repr, unknown)))}")
    return {name: _number(name, value) for name, value in found.items()}


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
        metrics = plain_metrics(result.metrics, problem.metric_names)
        missing = set(problem.metric_names) - set(metrics)
        if missing:
            raise PluginError(f"evaluate and metric_names differ in {', '.join(sorted(missing))}")
        curve = [_point(point, problem) for point in result.curve]
    except PluginError as error:
        return failed(result.config, str(error))
    if math.isnan(metrics[problem.objective]):
        return failed(result.config, "the objective is not a number")
    return dataclasses.replace(result, metrics=metrics, objective=metrics[problem.objective], curve=curve)


def _point(point: Mapping[str, Any], problem: Problem) -> dict[str, float]:
    own = {name: point[name] for name in TAKEN if name in point}
    return own | plain_metrics({n: v for n, v in point.items() if n not in own}, problem.metric_names)
