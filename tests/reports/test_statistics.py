"""Every statistic against a value worked out by hand or by brute force."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import statistics

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8)


@given(VALUES)
def test_expected_best_is_the_mean_over_all_subsets(values: list[float]) -> None:
    brute = [np.mean([min(s) for s in combinations(values, n)]) for n in range(1, len(values) + 1)]
    np.testing.assert_allclose(statistics.expected_best(values), brute, rtol=1e-9, atol=1e-9)


def test_expected_best_by_hand() -> None:
    np.testing.assert_allclose(statistics.expected_best([3.0, 1.0, 2.0]), [2.0, 4 / 3, 1.0])


@given(VALUES)
def test_expected_best_falls_from_the_mean_to_the_minimum(values: list[float]) -> None:
    expected = statistics.expected_best(values)
    assert expected[0] == pytest.approx(np.mean(values), abs=1e-9)
    assert expected[-1] == pytest.approx(min(values), abs=1e-9)
    assert (np.diff(expected) <= 1e-9).all()


def test_expected_best_stays_finite_for_many_trials() -> None:
    assert np.isfinite(statistics.expected_best(np.arange(2000.0))).all()


def test_same_generator_same_band() -> None:
    values = np.random.default_rng(1).normal(size=30)
    first = statistics.expected_best_band(values, np.random.default_rng(5))
    again = statistics.expected_best_band(values, np.random.default_rng(5))
    other = statistics.expected_best_band(values, np.random.default_rng(6))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert (first[0] <= first[1]).all()


def test_band_of_one_trial_is_that_trial() -> None:
    low, high = statistics.expected_best_band([2.0], np.random.default_rng(0))
    assert low.tolist() == high.tolist() == [2.0]


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.3085), (10, 10, 0.6915, 1.0), (5, 10, 0.1871, 0.8129), (0, 0, 0.0, 1.0)],
)
def test_clopper_pearson(successes: int, trials: int, low: float, high: float) -> None:
    assert statistics.clopper_pearson(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_top_takes_finite_objectives_and_breaks_ties_by_number() -> None:
    trials = pd.DataFrame({"number": [4, 3, 2, 1, 0], "objective": [1.0, 1.0, np.nan, np.inf, 0.5]})
    assert statistics.top(trials, 2)["number"].tolist() == [0, 3]
    assert statistics.top(trials, 10)["number"].tolist() == [0, 3, 4]


def test_mean_std() -> None:
    assert statistics.mean_std([1.0, 3.0, np.nan]) == pytest.approx((2.0, 2**0.5))
    mean, std = statistics.mean_std([4.0])
    assert mean == 4.0 and np.isnan(std)
    assert np.isnan(statistics.mean_std([])).all()


def test_failures_count_as_the_worst() -> None:
    assert statistics.fill_failures([1.0, np.nan, np.inf], 9.0).tolist() == [1.0, 9.0, 9.0]


def test_running_median() -> None:
    x, y = statistics.running_median([3, 1, 2, 4], [30, 10, 90, 40], window=3)
    assert x.tolist() == [2.0, 3.0]
    assert y.tolist() == [30.0, 40.0]
    assert statistics.running_median([1], [1], window=3)[0].size == 0


def test_share_counts_what_is_never_reached() -> None:
    reached, share = statistics.share_at_or_below([2.0, np.nan, 1.0, np.inf])
    assert reached.tolist() == [1.0, 2.0]
    assert share.tolist() == [0.25, 0.5]


def test_carried_forward() -> None:
    grid = np.array([1.0, 2.0, 3.0, 5.0])
    carried = statistics.carried_forward([4, 2, 3], [7.0, 5.0, np.nan], grid)
    np.testing.assert_array_equal(carried, [np.nan, 5.0, 5.0, 7.0])


def test_quantiles_need_more_than_half_of_the_trials() -> None:
    values = np.array([[1.0, 1.0], [np.nan, 2.0], [np.nan, 3.0]])
    np.testing.assert_array_equal(statistics.quantiles(values, (0.5,)), [[np.nan, 2.0]])


def test_sample_grid_spans_first_point_to_budget() -> None:
    curves = pd.DataFrame({"ledger.total": [0.0, 10.0, 50.0]})
    grid = statistics.sample_grid(curves, 1000.0)
    assert grid[0] == pytest.approx(10) and grid[-1] == pytest.approx(1000)
    assert statistics.sample_grid(curves.head(1), 1000.0).size == 0


def test_best_at_budget_by_hand() -> None:
    rows = [  # number, upper_iteration, samples, objective, headline
        (0, 0, 0, 1.0, 1.0),
        (0, 1, 10, 8.0, 80.0),
        (0, 2, 20, 7.0, 70.0),
        (1, 0, 0, 1.0, 1.0),
        (1, 1, 15, 5.0, 55.0),
        (1, 2, 30, 9.0, 90.0),
    ]
    curves = pd.DataFrame(rows, columns=["number", "upper_iteration", "ledger.total", "o", "h"])
    chosen = statistics.best_at_budget(curves, "o", "h", np.array([5.0, 10.0, 15.0, 20.0, 30.0]))
    np.testing.assert_array_equal(chosen["number"], [np.nan, 0, 1, 1, 0])
    np.testing.assert_array_equal(chosen["objective"], [np.nan, 8, 5, 5, 7])
    np.testing.assert_array_equal(chosen["headline"], [np.nan, 80, 55, 55, 70])
    assert statistics.best_at_budget(curves.head(0), "o", "h", np.array([1.0]))["headline"].isna().all()
