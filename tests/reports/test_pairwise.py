"""Comparisons of two solvers against SciPy, brute force and hand."""

import numpy as np
import pytest
import scipy.stats

from reports import pairwise


def test_against_scipy_and_brute_force() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=30)
    b = a + rng.normal(0.3, 1.0, size=30)
    found = pairwise.compare(a, b, paired=True)
    assert found.n == 30
    assert found.superiority == pytest.approx(np.mean([x < y for x in a for y in b]))
    assert found.difference == pytest.approx(np.median(a - b))
    assert found.p == pytest.approx(scipy.stats.wilcoxon(a, b).pvalue)
    sign_interval = scipy.stats.quantile_test(a - b, q=0, p=0.5).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((sign_interval.low, sign_interval.high))
    apart = pairwise.compare(a, b, paired=False)
    assert apart.p == pytest.approx(scipy.stats.mannwhitneyu(a, b).pvalue) and np.isnan(apart.low)


def test_a_failed_trial_loses() -> None:
    found = pairwise.compare([1.0, np.nan, np.nan, 2.0], [2.0, 5.0, np.inf, np.nan], paired=True)
    assert found.superiority == pytest.approx((4 + 3 + 2 * 0.5 * 2 + 0.5) / 16)
    assert found.difference in (-1.0, -0.5, 0.0) and 0 < found.p <= 1
    assert pairwise.compare([1.0, 1.0], [1.0, 1.0], paired=True).p == 1
    assert pairwise.compare([], [1.0], paired=True).n == 0


def test_holm_by_hand() -> None:
    assert pairwise.holm([0.01, 0.04, 0.03, np.nan]) == pytest.approx([0.03, 0.06, 0.06, np.nan], nan_ok=True)
    assert pairwise.holm([0.9, 0.8]) == [1.0, 1.0]


def test_equal_solvers_are_told_apart_no_oftener_than_said() -> None:
    """Six equal solvers with common draws: some pair is called different in at most 5 % of studies."""
    rng, wrong = np.random.default_rng(3), 0
    for _ in range(100):
        trials = rng.normal(size=20) + rng.normal(size=(6, 20))
        p = [pairwise.compare(trials[i], trials[j], True).p for i in range(6) for j in range(i)]
        wrong += min(pairwise.holm(p)) < 0.05
    assert wrong <= 10
