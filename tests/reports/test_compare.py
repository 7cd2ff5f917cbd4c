"""Solvers across problems, against SciPy, closed forms and simulation."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from harness.errors import HarnessError
from harness.record import Record
from reports import across
from reports.compare import write_comparison


def test_ranks_and_their_test_against_scipy() -> None:
    best = np.random.default_rng(0).normal(size=(12, 4))
    ranked = across.ranks(best)
    np.testing.assert_array_equal(ranked, np.argsort(np.argsort(best, axis=1), axis=1) + 1)
    assert across.friedman(ranked) == pytest.approx(scipy.stats.friedmanchisquare(*best.T).pvalue)
    assert across.critical_difference(14, 4) == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 14)), rel=1e-3)
    assert np.isnan(across.critical_difference(9, 4)) and np.isnan(across.friedman(ranked[:2]))
    assert across.ranks(np.array([[1.0, np.nan, 1.0]])).tolist() == [[1.5, 3, 1.5]]


def test_standing_is_the_share_beaten() -> None:
    one, other = across.standing([np.array([1.0, np.nan]), np.array([2.0, 2.0])])
    assert one.tolist() == [7 / 8, 1 / 8] and other.tolist() == [0.5, 0.5]
    assert across.interquartile_mean(np.array([0.0, 1.0, 2.0, 99.0])) == 1.5


def test_stratified_interval_covers() -> None:
    """Two problems of unlike spread, 40 trials each, 200 simulated studies."""
    rng, inside = np.random.default_rng(1), 0
    for _ in range(200):
        scores = [rng.normal(1.0, 0.1, size=40), rng.normal(3.0, 1.0, size=40)]
        mean, low, high = across.stratified(scores, rng, resamples=300)
        inside += low <= 2.0 <= high
        assert mean == pytest.approx(np.mean([scipy.stats.trim_mean(own, 0.25) for own in scores]))
    assert 0.88 <= inside / 200 <= 0.99


def test_performance_profile_by_hand() -> None:
    needed = np.array([[1.0, 2.0], [6.0, 2.0], [np.inf, np.inf], [5.0, np.inf]])
    found = across.performance_profile(needed, np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(found, [[2 / 3, 2 / 3, 1], [1 / 3, 2 / 3, 2 / 3]])
    assert across.performance_profile(needed[2:3], np.array([1.0])).tolist() == [[0], [0]]


def test_the_page_of_two_studies(record: Record, tmp_path: Path) -> None:
    """The other problem has other solvers too; there the order of the common ones is turned round."""
    names = ["stocbio", "bsgm", "amigo"]
    turned = record.trials[record.trials["solver"].isin(names)]
    turned = turned.assign(objective=-turned["objective"], **{"metric.val_accuracy": -turned["objective"]})
    solvers = {name: record.spec["solvers"][name] for name in names}
    other = replace(record, spec={**record.spec, "solvers": solvers, "problem": "<b>"}, trials=turned)
    other = replace(other, evaluations=record.evaluations.head(0), curves=record.curves.head(0))
    page = write_comparison([("one", record), ("two", other)], tmp_path).read_text("utf-8")
    assert "<b>" not in page and "alset_dagger" in page

    data = pd.read_csv(tmp_path / "tables" / "ranks.csv").set_index("solver")
    assert set(data.index) == set(names)
    best = turned.groupby("solver")["objective"].min()[data.index]
    assert data["two best"].tolist() == best.tolist()
    assert data["two rank"].tolist() == best.rank().tolist()
    assert data["mean_rank"].tolist() == ((data["one rank"] + data["two rank"]) / 2).tolist()
    middle = pd.read_csv(tmp_path / "tables" / "standing.csv")
    assert ((middle["low"] < middle["mean"]) & (middle["mean"] < middle["high"])).all()
    assert (tmp_path / "figures" / "profile.pdf").exists()


def test_what_cannot_be_compared_is_refused(record: Record, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="two studies"):
        write_comparison([("a", record)], tmp_path)
    apart = replace(record, trials=record.trials[record.trials["solver"] == "bsgm"])
    with pytest.raises(HarnessError, match="solvers in common"):
        write_comparison([("a", record), ("b", apart)], tmp_path)
