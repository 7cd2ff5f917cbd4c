"""Every statistic against a value worked out by hand or by brute force."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from reports import bands, statistics

POINTS = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.sampled_from([np.nan, 0, 1, 1, 2, 7]),
        st.sampled_from([np.nan, np.inf, 1, 2, 3]),
    ),
    max_size=30,
)


def every(values: ArrayLike) -> NDArray[np.int64]:
    return np.arange(1, np.size(values) + 1)


VALUES = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8)


@given(VALUES)
def test_expected_best_is_the_mean_over_all_subsets(values: list[float]) -> None:
    brute = [np.mean([min(s) for s in combinations(values, n)]) for n in range(1, len(values) + 1)]
    np.testing.assert_allclose(statistics.best_of_n_mean(values, every(values)), brute, rtol=1e-9, atol=1e-9)


def test_expected_best_by_hand() -> None:
    np.testing.assert_allclose(
        statistics.best_of_n_mean([3.0, 1.0, 2.0], every([3.0, 1.0, 2.0])), [2.0, 4 / 3, 1.0]
    )


@given(VALUES)
def test_expected_best_falls_from_the_mean_to_the_minimum(values: list[float]) -> None:
    expected = statistics.best_of_n_mean(values, every(values))
    assert expected[0] == pytest.approx(np.mean(values), abs=1e-9)
    assert expected[-1] == pytest.approx(min(values), abs=1e-9)
    assert (np.diff(expected) <= 1e-9).all()


def test_expected_best_stays_finite_for_many_trials() -> None:
    assert np.isfinite(statistics.best_of_n_mean(np.arange(2000.0), every(np.arange(2000.0)))).all()


def test_a_failure_counts_last_whatever_others_did() -> None:
    assert statistics.best_of_n_mean([np.nan, 1.0, 3.0], every([np.nan, 1.0, 3.0])).tolist() == [
        np.inf,
        pytest.approx(5 / 3),
        1.0,
    ]
    assert statistics.best_of_n_mean([np.nan, np.inf], every([np.nan, np.inf])).tolist() == [np.inf, np.inf]
    assert statistics.best_of_n_median([np.nan, 1.0, 3.0], every([np.nan, 1.0, 3.0]))[0] == 3.0


def test_median_of_the_best_against_simulation() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=400)
    best = np.sort(rng.choice(values, size=(20_000, 7)).min(axis=1))
    assert (
        abs(np.searchsorted(best, statistics.best_of_n_median(values, every(values))[6]) / 20_000 - 0.5)
        < 0.02
    )


def test_band_by_hand() -> None:
    low, high = np.array([0.0, 0.1, 0.4, 0.6]), np.array([0.25, 0.55, 0.9, 1.0])
    lower, upper = statistics.best_of_n_band(
        [30.0, 10.0, 20.0], np.arange(1, 4), low, high
    )  # levels 0.5, 0.293, 0.206
    assert lower.tolist() == [10.0, 10.0, -np.inf]
    assert upper.tolist() == [30.0, 20.0, 20.0]


@pytest.mark.parametrize("ties", [False, True])
def test_bands_cover(ties: bool) -> None:
    """Simulated studies of 8 trials: the band of F covers in 93 to 97 % of them, with ties more often; the
    medians of the best of n, which it holds at once, at least as often."""
    size, studies = 8, 1000
    low, high = bands.cdf_band(size)
    values = np.sort(np.random.default_rng(1).random((studies, size)), axis=1)
    level = 1 - 0.5 ** (1 / np.arange(1, size + 1))
    truth = (
        np.ceil(level * 4) / 4 if ties else level
    )  # quantiles of the uniform distribution, on 4 steps or none
    values = np.ceil(values * 4) / 4 if ties else values
    inside = [
        ((lower <= truth) & (truth <= upper)).all()
        for lower, upper in (statistics.best_of_n_band(study, every(study), low, high) for study in values)
    ]
    assert np.mean(inside) >= 0.95
    if not ties:
        whole = ((low[1:] <= values) & (values <= high[:-1])).all(axis=1)
        assert 0.93 <= whole.mean() <= 0.97


def test_the_band_of_many_trials_covers_at_its_level() -> None:
    """All of F at once, by the ranks of N draws, whose law is known."""
    size, rng = 3000, np.random.default_rng(0)
    low, high = bands.cdf_band(size)
    assert low.shape == high.shape == (size + 1,) and low[0] == 0 and high[-1] == 1 and (low < high).all()
    assert (np.diff(low) >= 0).all() and (np.diff(high) >= 0).all() and (high - low).max() < 0.09
    ranks = np.sort(rng.random((1000, size)), axis=1)
    held = ((low[1:] <= ranks) & (ranks <= high[:-1])).all(axis=1).mean()
    assert 0.95 <= held < 1


def test_cut_offs_are_kept_and_made_anew_where_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bands.cdf_band.cache_clear()
    first = bands.cdf_band(3)
    (kept,) = tmp_path.rglob("*.json")
    for content in (kept.read_text(), "[[0, 1]", "[[0.1], [1]]"):
        kept.write_text(content)
        bands.cdf_band.cache_clear()
        np.testing.assert_array_equal(bands.cdf_band(3), first)
    made = bands._made
    monkeypatch.setattr(bands, "_made", lambda *_: pytest.fail("not read from the cache"))
    bands.cdf_band.cache_clear()
    np.testing.assert_array_equal(bands.cdf_band(3), first)
    monkeypatch.setattr(bands, "_made", made)
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))  # a file: nothing can be kept there
    assert bands.cdf_band(2)[0].shape == (3,)


def test_median_interval_is_exact() -> None:
    values = np.random.default_rng(2).normal(size=(4000, 20))
    inside = [low <= 0 <= high for low, high in map(statistics.median_interval, values)]
    exact = 1 - 2 * scipy.stats.binom.cdf(5, 20, 0.5)
    assert exact >= 0.95 and abs(np.mean(inside) - exact) < 0.01
    assert statistics.median_interval([1.0, 2.0]) == (-np.inf, np.inf)


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


def test_running_median() -> None:
    x, y = statistics.running_median([3, 1, 2, 4], [30, 10, 90, 40], window=3)
    assert x.tolist() == [2.0, 3.0]
    assert y.tolist() == [30.0, 40.0]
    assert statistics.running_median([1], [1], window=3)[0].size == 0


def test_share_counts_what_is_never_reached() -> None:
    reached, share = statistics.share_at_or_below([2.0, np.nan, 1.0, np.inf])
    assert reached.tolist() == [1.0, 2.0]
    assert share.tolist() == [0.25, 0.5]


@given(POINTS)
def test_a_trial_stands_at_its_last_point(rows: list[tuple[float, ...]]) -> None:
    """One trial and one place at a time: what is done for all at once."""
    grid, points = np.array([0.5, 1.0, 3.0, 5.0]), pd.DataFrame(rows, columns=["number", "ledger.total", "o"])
    points = points.astype({"ledger.total": float, "o": float})
    found = statistics.on_grid(points, "o", grid)
    trials = [trial.dropna() for _, trial in points.groupby("number")]
    assert found.shape == (len(trials), 4)
    for row, trial in zip(found, trials, strict=True):
        for place, at in zip(row, grid, strict=True):
            past = trial[trial["ledger.total"] <= at].sort_values("ledger.total", kind="stable")["o"]
            np.testing.assert_array_equal(place, past.iloc[-1] if len(past) else np.nan)


@given(POINTS)
def test_samples_to_a_target_are_those_of_the_first_point_there(rows: list[tuple[float, ...]]) -> None:
    points = pd.DataFrame(rows, columns=["number", "ledger.total", "o"])
    points = points.astype({"ledger.total": float, "o": float})
    used, reached = statistics.samples_to_target(points, "o", 2.0)
    for n, (_, trial) in enumerate(points.sort_values("ledger.total", kind="stable").groupby("number")):
        hit = trial["ledger.total"][trial["o"] <= 2.0]
        assert reached[n] == bool(len(hit))
        np.testing.assert_array_equal(used[n], hit.iloc[0] if len(hit) else trial["ledger.total"].max())
    assert len(used) == points["number"].nunique()


def test_many_trials_are_thinned_and_few_are_not() -> None:
    assert statistics.effort_grid(200).tolist() == list(range(1, 201)) and statistics.effort_grid(0).size == 0
    many = statistics.effort_grid(100_000)
    assert many[0] == 1 and many[-1] == 100_000 and many.size < 300 and (np.diff(np.log10(many)) < 0.31).all()
    values = np.random.default_rng(0).random(50_000)
    best = statistics.best_of_n_mean(values, many[many <= 50_000])
    np.testing.assert_allclose(best, 1 / (many[many <= 50_000] + 1), rtol=0.3)
    x, y = statistics.running_median(np.arange(50_000.0), values, 8000)
    assert x.size == 200 and (abs(y - 0.5) < 0.05).all()


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
        (0, 0, 0, 9.5, 95.0),
        (0, 1, 10, 8.0, 80.0),
        (0, 2, 20, 7.0, 70.0),
        (1, 0, 0, 9.5, 95.0),
        (1, 1, 15, 5.0, 55.0),
        (1, 2, 25, np.inf, np.nan),  # diverged, and ranked last
    ]
    curves = pd.DataFrame(rows, columns=["number", "upper_iteration", "ledger.total", "o", "h"])
    chosen = statistics.best_at_budget(curves, "o", "h", np.array([5.0, 10.0, 15.0, 20.0, 30.0]))
    np.testing.assert_array_equal(chosen["number"], [0, 0, 1, 1, 0])
    np.testing.assert_array_equal(chosen["objective"], [9.5, 8, 5, 5, 7])
    np.testing.assert_array_equal(chosen["headline"], [95, 80, 55, 55, 70])
    assert statistics.best_at_budget(curves.head(0), "o", "h", np.array([1.0]))["headline"].isna().all()


def test_expected_running_time_against_simulation() -> None:
    points = pd.DataFrame(
        {
            "number": [0, 0, 1, 1, 2],
            "ledger.total": [10.0, 20.0, 10.0, 30.0, 25.0],
            "o": [5.0, 1.0, 5.0, 4.0, np.nan],
        }
    )
    used, reached = statistics.samples_to_target(points, "o", 2.0)
    assert used.tolist() == [20, 30, 25] and reached.tolist() == [True, False, False]
    assert statistics.expected_running_time(used, reached) == 75
    runs = statistics.restarted(used, reached, np.random.default_rng(0), 20_000)
    assert abs(runs.mean() - 75) < 1.5 and runs.min() == 20
    assert statistics.expected_running_time([3.0], [False]) == np.inf
    assert np.isinf(statistics.restarted([3.0], [False], np.random.default_rng(0), 5)).all()


def test_targets_leave_out_what_nobody_reaches() -> None:
    assert statistics.targets(np.arange(1.0, 21.0), np.nan) == [10, 5, 2]
    assert statistics.targets(np.arange(1.0, 21.0), 10.0) == [5, 2]
    assert statistics.targets([1.0, np.nan, np.nan, np.nan], np.nan) == [1]
    assert statistics.targets([], np.nan) == []
