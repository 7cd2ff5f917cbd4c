"""How much a parameter of a solver decides: PED-ANOVA, by Optuna."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from harness.space import Space

optuna.logging.set_verbosity(optuna.logging.ERROR)


def importances(
    entries: Mapping[str, Mapping[str, Any]],
    configurations: Sequence[Mapping[str, Any]],
    objectives: Sequence[float],
    best: float,
) -> dict[str, float]:
    """Share of each searched parameter in what tells the best trials from all (Watanabe et al. 2023).

    entries: `Space.entries`. configurations, objectives: of trials with a finite objective, lower is better.
    best: the share of the trials that counts as the best ones. Empty where nothing is searched, or where ties
    make more than half of the trials the best ones."""
    distributions = Space("", {name: dict(entry) for name, entry in entries.items()}).distributions()
    worst_of_best = sorted(objectives)[math.ceil(best * len(objectives)) - 1]
    if not distributions or 2 * sum(value <= worst_of_best for value in objectives) > len(objectives):
        return {}
    study = optuna.create_study()
    for configuration, objective in zip(configurations, objectives, strict=True):
        values = {
            name: int(configuration[name])
            if isinstance(kind, optuna.distributions.IntDistribution)
            else configuration[name]
            for name, kind in distributions.items()
        }
        study.add_trial(
            optuna.trial.create_trial(params=values, distributions=distributions, value=float(objective))
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=best)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(found.get(name, 0.0)) for name in distributions}
