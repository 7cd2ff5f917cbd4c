"""Two solvers against each other, and many such comparisons at once; lower is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reports.statistics import failures_last, median_interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """a against b. superiority: chance that a trial of a beats one of b, ties half. difference: median of
    a - b over the pairs (unpaired: difference of medians); low, high: its exact 95 % interval (unpaired:
    NaN). p: of no difference, by Wilcoxon's signed ranks (unpaired: by Mann and Whitney's ranks)."""

    n: int
    superiority: float
    difference: float
    low: float
    high: float
    p: float


def compare(a: ArrayLike, b: ArrayLike, paired: bool) -> Comparison:
    """Objectives of the trials of two solvers, failures not finite; paired: a[i] and b[i] belong together."""
    one, other = failures_last(a), failures_last(b)
    if not one.size or not other.size:
        return Comparison(0, *[float("nan")] * 5)
    chance = superiority(one, other)
    if not paired:
        gap = _less(np.median(one), np.median(other))
        return Comparison(
            min(one.size, other.size), chance, float(gap), np.nan, np.nan, _rank_sum(one, other)
        )
    differences = _less(one, other)
    low, high = median_interval(differences)
    return Comparison(one.size, chance, _median(differences), low, high, signed_ranks(differences))


def _median(values: Floats) -> float:
    """Also of infinite values, where those in the middle agree; else nan."""
    low, high = np.sort(values)[[(values.size - 1) // 2, values.size // 2]]
    with np.errstate(invalid="ignore"):
        return float(low if low == high else (low + high) / 2)


def superiority(a: Floats, b: Floats) -> float:
    """P(A < B) + P(A = B) / 2 over all pairs of a trial of a and one of b."""
    below, at_most = (np.searchsorted(np.sort(a), b, side=side) for side in ("left", "right"))
    return float((below + at_most).mean() / 2 / a.size)


def signed_ranks(differences: Floats) -> float:
    """Two-sided p of Wilcoxon's signed-rank test, zeros ranked with the rest (Pratt 1959); infinite
    differences rank above all others. 1 where all are zero."""
    from scipy.stats import wilcoxon

    finite = differences[np.isfinite(differences)]
    beyond = 2 * float(np.abs(finite).max(initial=0.0)) + 1
    ranked = np.clip(differences, -beyond, beyond)
    if not ranked.any():
        return 1.0
    return float(wilcoxon(ranked, zero_method="pratt").pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p values of several tests, in their order; NaN stays out."""
    values = np.asarray(p, dtype=float)
    there = np.flatnonzero(np.isfinite(values))
    order = there[np.argsort(values[there], kind="stable")]
    adjusted = np.full(values.size, np.nan)
    steps = values[order] * (order.size - np.arange(order.size))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in adjusted]


def _rank_sum(a: Floats, b: Floats) -> float:
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(a, b).pvalue)


def _less(a: ArrayLike, b: ArrayLike) -> Floats:
    """a - b, 0 where both are infinite."""
    one, other = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    same = one == other
    return np.asarray(np.where(same, 0.0, np.where(same, 0.0, one) - np.where(same, 0.0, other)), dtype=float)
