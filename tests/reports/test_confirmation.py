"""The numbers of a confirmation against SciPy, closed forms and simulation; the page it stands on."""

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.record import Record
from reports import confirmation
from reports.confirmation import components, crossed_mean, mean_squares
from reports.report import write_report
from reports.view import View

TWO = ("bsgm", "alset_dagger_det")


def confirmed(record: Record, values: dict[str, np.ndarray], headline: float = -1.0) -> Record:
    """`record` with its two solvers run again: values by solver, `(configurations, seeds, splits)`, of the
    best trials in their order; the headline is `headline` times the objective."""
    spec = {**record.spec, "solvers": {name: record.spec["solvers"][name] for name in TWO}}
    spec["metrics"] = {
        **spec["metrics"],
        "test_accuracy": {
            **spec["metrics"]["test_accuracy"],
            "better": "lower" if headline > 0 else "higher",
        },
    }
    trials = record.trials[record.trials["solver"].isin(TWO)].copy()
    trials["metric.test_accuracy"] = headline * trials["objective"]
    again = []
    _, seeds, splits = next(iter(values.values())).shape
    for seed, split in product(range(seeds), range(splits)):
        rows, listed = [], {}
        for name, runs in values.items():
            best = trials[trials["solver"] == name].sort_values("objective")["number"].head(len(runs))
            listed[name] = {**spec["solvers"][name], "of": [int(number) for number in best]}
            for number, value in enumerate(runs[:, seed, split]):
                score = {"objective": value, "metric.test_accuracy": headline * value}
                rows.append({"solver": name, "number": number, "trial": f"{name}/{number}", **score})
        own = {**spec, "solvers": listed, "seed": 3 + seed, "data_seed": 3 + split, "sampler": "listed"}
        again.append(Record(own, pd.DataFrame(rows), record.curves.head(0)))
    empty = record.evaluations.head(0)
    return replace(record, spec=spec, trials=trials, evaluations=empty, confirmations=again)


def drawn(
    rng: np.random.Generator, shape: tuple[int, ...], deviations: dict[tuple[int, ...], float]
) -> np.ndarray:
    values = np.zeros(shape)
    for axes, deviation in deviations.items():
        values += deviation * rng.normal(size=[n if axis in axes else 1 for axis, n in enumerate(shape)])
    return values


def frames(study: Record) -> dict[str, pd.DataFrame]:
    return {table.name: table.data for table in confirmation.confirmation_tables(study, View.of(study))}


def test_mean_squares_split_the_sum_of_squares_and_agree_with_an_analysis_of_variance() -> None:
    values = np.random.default_rng(0).normal(size=(4, 3, 2))
    freedom = {axes: np.prod([values.shape[a] - 1 for a in axes]) for axes in mean_squares(values)}
    parts = sum(square * freedom[axes] for axes, square in mean_squares(values).items())
    assert parts == pytest.approx(((values - values.mean()) ** 2).sum())
    one_way = values[:, :, 0]
    f = stats.f_oneway(*one_way)
    squares = mean_squares(one_way)
    within = (squares[1,] * 2 + squares[0, 1] * 6) / 8
    assert squares[0,] / within == pytest.approx(f.statistic)


def test_components_are_right_on_average() -> None:
    """Before the cut at 0, which no component of this simulation is near."""
    rng = np.random.default_rng(1)
    truth = {(0,): 3.0, (1,): 2.0, (2,): 4.0, (0, 1): 1.5, (0, 2): 1.0, (1, 2): 1.2, (0, 1, 2): 0.5}
    found = [components(drawn(rng, (9, 10, 11), truth)) for _ in range(400)]
    for axes, deviation in truth.items():
        assert np.mean([one[axes] for one in found]) == pytest.approx(deviation**2, rel=0.1)


def test_a_factor_of_one_level_has_no_component() -> None:
    assert set(components(np.random.default_rng(0).normal(size=(3, 4, 1)))) == {(0,), (1,), (0, 1)}
    assert components(np.ones((1, 1, 1))) == {}


@pytest.mark.parametrize("shape", [(7, 1), (1, 7)])
def test_one_split_or_one_seed_is_the_usual_t(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(2).normal(0.3, size=shape)
    found, truth = crossed_mean(values), stats.ttest_1samp(values.ravel(), 0)
    assert found.error == pytest.approx(stats.sem(values.ravel()))
    assert found.p() == pytest.approx(truth.pvalue)
    assert found.interval() == pytest.approx(tuple(truth.confidence_interval(0.95)))


@pytest.mark.parametrize("deviations", [(1.0, 1.0, 1.0), (1.0, 0.0, 1.0), (0.0, 1.0, 0.3), (0.0, 0.0, 1.0)])
@pytest.mark.parametrize("shape", [(5, 3), (10, 5)])
def test_intervals_over_seeds_and_splits_cover(shape: tuple[int, int], deviations: tuple[float, ...]) -> None:
    """Satterthwaite's are no exact intervals: they may cover too often, hardly too seldom."""
    rng = np.random.default_rng(3)
    effects = dict(zip([(0,), (1,), (0, 1)], deviations, strict=True))
    hits = 0
    for _ in range(1000):
        low, high = crossed_mean(drawn(rng, shape, effects)).interval()
        hits += low <= 0 <= high
    assert 930 <= hits <= 995


def test_the_tables_against_independent_computations(record: Record) -> None:
    rng = np.random.default_rng(4)
    seeds = rng.normal(size=6)
    runs = {
        name: 70.0 + place + seeds[None, :, None] + rng.normal(size=(3, 6, 1))
        for place, name in enumerate(TWO)
    }
    study = confirmed(record, runs)
    found = frames(study)
    best = found["confirmation"].set_index("solver")
    for name in TWO:
        searched = study.trials[study.trials["solver"] == name]["objective"].min()
        fresh, row = runs[name][0].ravel(), best.loc[name]
        assert row["val_accuracy selected"] == searched
        assert row["val_accuracy confirmed"] == pytest.approx(fresh.mean())
        assert row["val_accuracy error"] == pytest.approx(stats.sem(fresh))
        assert row["val_accuracy interquartile"] == pytest.approx(np.sort(fresh)[1:-1].mean())
        assert row["val_accuracy curse"] == pytest.approx(fresh.mean() - searched)
        # the headline is the objective turned round, and higher is better: all the same but for its sign
        assert row["test_accuracy confirmed"] == pytest.approx(-fresh.mean())
        assert row["test_accuracy curse"] == pytest.approx(fresh.mean() - searched)
        assert np.isnan(row["val_accuracy tuning gains"]) and row["val_accuracy n"] == 6

    pair = found["confirmation_pairs"].iloc[0]
    a, b = (runs[pair[side]][0].ravel() for side in "ab")
    truth = stats.ttest_rel(a, b)
    interval = truth.confidence_interval(0.95)
    assert pair["val_accuracy difference"] == pytest.approx((a - b).mean())
    assert (pair["val_accuracy low"], pair["val_accuracy high"]) == pytest.approx(tuple(interval))
    assert (pair["test_accuracy low"], pair["test_accuracy high"]) == pytest.approx(
        (-interval.high, -interval.low)
    )
    assert pair["val_accuracy p"] == pytest.approx(truth.pvalue)
    chance = stats.mannwhitneyu(b, a).statistic / 36
    assert pair["val_accuracy chance"] == pytest.approx(chance) == pair["test_accuracy chance"]

    shares = found["confirmation_variance"]
    row = shares[(shares["solver"] == "bsgm") & (shares["metric"] == "val_accuracy")].iloc[0]
    parts = components(runs["bsgm"])
    assert row["seed"] == pytest.approx(parts[1,] / sum(parts.values()))
    assert np.isnan(row["split"]) and row["configuration"] + row["seed"] + row[
        "interactions"
    ] == pytest.approx(1)


def test_chances_are_within_a_split(record: Record) -> None:
    """What two splits differ by says nothing of two solvers."""
    runs = {"bsgm": np.array([[[0.0, 100.0]] * 2]), "alset_dagger_det": np.array([[[1.0, 101.0]] * 2])}
    pair = frames(confirmed(record, runs))["confirmation_pairs"].iloc[0]
    assert pair["val_accuracy chance"] == (1.0 if pair["a"] == "bsgm" else 0.0)


def told(record: Record, runs: dict[str, np.ndarray]) -> str:
    study = confirmed(record, runs)
    return confirmation.confirmation_tables(study, View.of(study))[0].caption.split(". Of every")[0]


def test_the_winner_in_one_sentence(record: Record) -> None:
    rng = np.random.default_rng(5)
    near, far = (value + 0.01 * rng.normal(size=(2, 4, 1)) for value in (70.0, 80.0))
    study = confirmed(record, {"bsgm": near, "alset_dagger_det": far})
    winner = study.trials.sort_values("objective")["solver"].iloc[0]
    other = next(name for name in TWO if name != winner)
    assert "is still the winner" in (said := told(record, {winner: near, other: far}))
    assert "which is not by chance, n = 4)" in said
    assert "is number 2 of 2" in (said := told(record, {winner: far, other: near})) and "the best now" in said
    noisy = {name: 70.0 + rng.normal(size=(2, 4, 1)) for name in TWO}
    assert "which is not told from 0" in told(record, noisy)
    assert "no interval yet" in told(record, {name: runs[:, :1] for name, runs in noisy.items()})


def test_a_failed_run_is_counted_and_a_missing_one_waited_for(record: Record) -> None:
    rng = np.random.default_rng(6)
    runs = {name: 70.0 + rng.normal(size=(2, 4, 2)) for name in TWO}
    runs["bsgm"][0, 1, 1] = np.nan
    study = confirmed(record, runs)
    row = frames(study)["confirmation"].set_index("solver").loc["bsgm"]
    rest = np.delete(runs["bsgm"][0], 1, axis=0)
    assert (row["val_accuracy n"], row["runs"], row["failed"]) == (6, 8, 1)
    assert row["val_accuracy confirmed"] == pytest.approx(rest.mean())
    partial = replace(study, confirmations=[*study.confirmations[:3], *study.confirmations[4:]])
    row = frames(partial)["confirmation"].set_index("solver").loc["bsgm"]
    assert (row["val_accuracy n"], row["runs"], row["failed"]) == (6, 7, 0)


def test_what_tuning_gains_over_the_published_configuration(record: Record) -> None:
    runs = {name: np.arange(12.0).reshape(2, 6, 1) for name in TWO}
    study = confirmed(record, runs)
    for again in study.confirmations:
        again.spec["solvers"]["bsgm"]["of"][1] = 0
    study.spec["solvers"]["bsgm"] = {**study.spec["solvers"]["bsgm"], "published": {"lower_steps": 3}}
    best = frames(study)["confirmation"].set_index("solver")["val_accuracy tuning gains"]
    assert best["bsgm"] == pytest.approx(6.0) and np.isnan(best["alset_dagger_det"])


def test_the_page_has_the_sections_only_with_a_confirmation(record: Record, tmp_path: Path) -> None:
    runs = {name: 70.0 + np.random.default_rng(7).normal(size=(2, 3, 2)) for name in TWO}
    study = confirmed(record, runs)
    page = write_report(study, tmp_path / "with").read_text("utf-8")
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(set(ids)) == len(ids)
    for name in ("confirmation", "confirmation_pairs", "confirmation_variance"):
        assert page.count(f'id="{name}"') == 1 and (tmp_path / "with" / "tables" / f"{name}.tex").exists()
    assert confirmation.confirmation_tables(replace(study, confirmations=()), View.of(study)) == []
