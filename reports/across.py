"""Solvers across problems: pure functions of `(problems, solvers)` arrays; lower is better."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reports.statistics import failures_last

Floats = NDArray[np.float64]
ENOUGH = 10
"""Problems from which on a critical difference of mean ranks means something."""


def ranks(best: Floats) -> Floats:
    """Rank of each solver's best objective on each problem, 1 the lowest, ties shared: as `best`."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(failures_last(best), axis=1), dtype=float)


def friedman(ranked: Floats) -> float:
    """p of all solvers being equal, from ranks `(problems, solvers)` (Friedman 1937); NaN for fewer than
    three of either."""
    from scipy.stats import friedmanchisquare

    if min(ranked.shape) < 3 or (ranked == ranked[:, :1]).all():
        return float("nan")
    return float(friedmanchisquare(*ranked.T).pvalue)


def critical_difference(problems: int, solvers: int, level: float = 0.05) -> float:
    """Of two mean ranks, by Nemenyi (Demsar 2006): q sqrt(k (k + 1) / 6 N); NaN below ENOUGH problems."""
    from scipy.stats import studentized_range

    if problems < ENOUGH:
        return float("nan")
    q = studentized_range.ppf(1 - level, solvers, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(solvers * (solvers + 1) / (6 * problems)))


def standing(values: Sequence[Floats]) -> list[Floats]:
    """Of one problem, the trials of each solver as the share of the trials of *all* solvers that they beat
    (ties half): 1 best, 0 worst, whatever the scale of the objective."""
    every = np.sort(failures_last(np.concatenate(values)))
    return [
        1 - (np.searchsorted(every, own, "left") + np.searchsorted(every, own, "right")) / 2 / every.size
        for own in map(failures_last, values)
    ]


def interquartile_mean(scores: Floats) -> float:
    """Mean of the middle half, whole values cut off at either end."""
    from scipy.stats import trim_mean

    return float(trim_mean(scores, 0.25))


def stratified(
    scores: Sequence[Floats], rng: np.random.Generator, resamples: int = 1000, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean over problems of the interquartile mean over a solver's trials, and its percentile-bootstrap
    interval: trials are resampled within each problem, the problems are these.

    scores: per problem, one value for each trial."""

    def middle(sample: Floats) -> Floats:
        ordered, cut = np.sort(sample, axis=-1), sample.shape[-1] // 4
        return np.asarray(ordered[..., cut : sample.shape[-1] - cut].mean(axis=-1))

    drawn = [middle(rng.choice(own, size=(resamples, own.size))) for own in scores]
    low, high = np.quantile(np.mean(drawn, axis=0), [(1 - level) / 2, (1 + level) / 2])
    return float(np.mean([middle(own) for own in scores])), float(low), float(high)


def performance_profile(needed: Floats, factors: Floats) -> Floats:
    """`(solvers, factors)`: share of tasks on which a solver needs at most so many times the samples of the
    best one (Dolan and More 2002). needed: `(tasks, solvers)`, inf where never; tasks that nobody does are
    left out."""
    done = needed[np.isfinite(needed).any(axis=1)]
    if not len(done):
        return np.zeros((needed.shape[1], factors.size))
    ratio = done / done.min(axis=1, keepdims=True)
    return np.asarray((ratio[:, :, None] <= factors).mean(axis=0), dtype=float)
