"""The answer of a study in two sentences: who is best, by how much, how sure, under what budget."""

from __future__ import annotations

import numpy as np
import pandas as pd

from reports import text
from reports.view import View

DRAWS = 2000
"""Studies that are drawn anew from the trials, with replacement."""


def answer(view: View) -> str:
    """Two sentences; of a study with one solver, or none with a score, what there is to say."""
    found = {solver: _objectives(view.of_solver(solver)) for solver in view.solvers}
    found = {solver: values for solver, values in found.items() if len(values)}
    if not found:
        return "No trial has a score yet."
    best = sorted(found, key=lambda solver: found[solver].min())
    metric = view.metric_label(view.objective)
    digits = text.decimals(pd.Series([found[solver].min() for solver in best[:2]]))
    first = text.score(float(found[best[0]].min()), digits)
    budget = text.count(view.spec["budget"])
    under = f"under a budget of {budget} samples a trial and {_trials(found)} of each solver"
    if len(best) == 1:
        return f"The best trial of {view.label(best[0])} reaches {first} in {metric}, {under}."
    second = text.score(float(found[best[1]].min()), digits)
    sure = _wins(list(found.values()), list(found).index(best[0]))
    winner, next_one = (view.label(solver) for solver in best[:2])
    return (
        f"{winner} is best: its best trial reaches {first} in {metric}, that of {next_one}, the next, "
        f"{second}, {under}. Were the trials drawn anew, from those that were, it would be best again in "
        f"{sure:.0%} of the studies; that says nothing of other seeds or data."
    )


def _objectives(trials: pd.DataFrame) -> np.ndarray:
    """Objectives, lower is better; a diverged trial that ranks last is not a number that counts."""
    values = trials["objective"].to_numpy(dtype=float)
    finite: np.ndarray = values[np.isfinite(values)]
    return finite


def _trials(found: dict[str, np.ndarray]) -> str:
    numbers = {len(values) for values in found.values()}
    most, least = max(numbers), min(numbers)
    if most == 1:
        return "one trial"
    return f"{most} trials" if most == least else f"{least} to {most} trials with a score"


def _wins(objectives: list[np.ndarray], winner: int) -> float:
    """The share of resampled studies in which the winner's best trial is the best; a tie is shared.

    The rank of the best of N draws with replacement from N trials exceeds k with chance (1 - k / N)^N."""
    rng, minima = np.random.default_rng(0), []
    for values in objectives:
        ranks = values.size * (1 - rng.random(DRAWS) ** (1 / values.size))
        minima.append(np.sort(values)[ranks.astype(int)])
    best = np.stack(minima) == np.min(minima, axis=0)
    return float((best[winner] / best.sum(0)).mean())
