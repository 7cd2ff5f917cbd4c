"""The accountant is exact and never lets a ledger exceed its budget; mini-batches are a function of their
place."""

import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.batch import Level
from harness.budget import KINDS, Accountant, Cost
from harness.check import CPU, F64, Counting
from harness.errors import HarnessError, PluginError
from harness.meter import Meter
from harness.oracle import Oracle
from harness.params import MOST_STEPS, check_values
from harness.permutation import keys_of, permuted
from harness.place import Place, first_place
from harness.rules import Rules
from harness.runner import first_cost, run_pack
from harness.streams import MOST_WRITTEN, Streams, generator, part, samples
from solvers.bsgm import Bsgm, BsgmGrowing

ONE = dict.fromkeys(KINDS, 1.0)


def test_prices_weigh_the_kinds() -> None:
    accountant = Accountant(2, 100, ONE | {"hessian_vector": 2.0})
    live = np.arange(2)
    declared = Cost(lower_gradient=40, hessian_vector=torch.tensor([30, 31])).table(2)

    assert accountant.fits(live, declared).tolist() == [True, False]


def test_charging_more_than_declared_is_refused_before_it_is_entered() -> None:
    accountant = Accountant(1, 100, ONE)
    live = np.arange(1)
    accountant.open(live, Cost(cross=10).table(1))
    accountant.charge("cross", live, 7)
    with pytest.raises(PluginError, match="fewer cross"):
        accountant.charge("cross", live, 4)

    assert accountant.ledger.sum() == 7
    with pytest.raises(PluginError, match="3 more cross"):
        accountant.close()


@settings(max_examples=300, deadline=None)
@given(
    prices=st.lists(st.decimals("0.001", "50", places=3), min_size=5, max_size=5),
    counts=st.lists(st.integers(0, 10**6), min_size=5, max_size=5).filter(any),
    iterations=st.integers(1, 4),
)
def test_a_budget_equal_to_the_exact_decimal_cost_fits_and_one_unit_less_does_not(
    prices: list[Decimal], counts: list[int], iterations: int
) -> None:
    """Also in the last of several upper iterations; prices and budget as they are written in a study."""
    exact = sum(Fraction(price) * count for price, count in zip(prices, counts, strict=True)) * iterations
    written = dict(zip(KINDS, map(float, prices), strict=True))
    declared = Cost(*counts).table(1)
    every = slice(None)
    for budget, fits in ((exact, True), (exact - Fraction(1, 1000), False)):
        accountant = Accountant(1, float(budget), written)
        for iteration in range(iterations):
            last = iteration == iterations - 1
            assert accountant.fits(every, declared).tolist() == [fits or not last]
            if fits or not last:
                accountant.open(every, declared)
                for kind, count in zip(KINDS, counts, strict=True):
                    accountant.charge(kind, every, count)
                accountant.close()
        used = iterations if fits else iterations - 1
        assert accountant.ledger[0].tolist() == [used * count for count in counts]
        assert accountant.spent[0] == float(exact * used / iterations)
        assert not fits or not accountant.fits(every, Cost(value=1).table(1)).any()


def test_a_share_of_the_budget_is_exact_at_decimal_prices_too() -> None:
    """Half of 1 at a tenth a sample: five samples, and not six."""
    accountant = Accountant(1, 1.0, ONE | {"cross": 0.1})
    fits = [accountant.fits(slice(None), Cost(cross=n).table(1), 0.5).item() for n in (5, 6)]

    assert fits == [True, False]


def test_what_is_spent_counts_beside_a_trial_whose_cost_overflows() -> None:
    accountant = Accountant(3, 100, ONE)
    accountant.open(slice(None), Cost(cross=60).table(3))
    huge = torch.tensor([2**62, 40, 41])

    assert accountant.fits(slice(None), Cost(cross=huge).table(3)).tolist() == [False, True, False]


def test_nothing_can_be_charged_before_it_is_granted() -> None:
    with pytest.raises(PluginError, match="fewer value"):
        Accountant(1, 100, ONE).charge("value", slice(None), 1)


def test_prices_too_fine_to_count_are_one_line() -> None:
    with pytest.raises(
        HarnessError, match="too fine to count exactly; use prices with fewer decimals"
    ) as said:
        Accountant(1, 2e6, ONE | {"cross": 1e-13, "value": 0.123456789})

    assert "\n" not in str(said.value)


@pytest.mark.parametrize("steps", [MOST_STEPS, MOST_STEPS - 1])
@pytest.mark.parametrize("budget", [1.0, 2e6, float("inf")])
@pytest.mark.parametrize("price", [0.001, 1.0, 1e6])
def test_the_largest_counts_are_priced_without_overflow(steps: int, budget: float, price: float) -> None:
    """2^31 steps of 60 000 examples in every kind at once: 2^50 samples, whose price no int64 holds."""
    place = _place(60_000, 60_000)
    drawn = place.lower_samples(torch.tensor([steps, 1]), None)
    declared = Cost(*[drawn] * 5).table(2)
    exact = [int(count) * 5 * Fraction(str(price)) for count in declared[0]]
    fitting = Accountant(2, budget, dict.fromkeys(KINDS, price)).fits(slice(None), declared)

    assert declared[0].tolist() == [steps * 60_000, 60_000]
    most = Fraction(budget) if budget < 1e9 else Fraction(2**60, Fraction(str(price)).denominator)
    assert fitting.tolist() == [cost <= most for cost in exact]


def _place(lower: int, upper: int) -> Place:
    problem = Counting()
    problem.lower_examples, problem.upper_examples = lower, upper
    return first_place(problem, 7, None)


GROWING: dict[str, Any] = {"growth": 1e19, "batch_size": 5, "upper_batch_size": 0, "horizon": 0}
GROWING |= {"upper_step_size": 0.1, "lower_step_size": 0.1, "system_step_size": 0.1}


def test_a_growth_beyond_every_count_is_a_trial_that_does_not_fit() -> None:
    """And its neighbour in the pack runs."""
    problem = Counting()
    problem.setup(None, 0, CPU, F64)
    calm = GROWING | {"growth": 1.0}
    wild, beside = run_pack(problem, BsgmGrowing, [GROWING, calm], Rules(500, ONE, 0), CPU, F64)
    (alone,) = run_pack(problem, BsgmGrowing, [calm], Rules(500, ONE, 0), CPU, F64)

    assert (wild.state, wild.upper_iterations, wild.ledger["total"]) == ("completed", 0, 0)
    assert beside.upper_iterations == alone.upper_iterations > 2 and beside.ledger == alone.ledger
    assert first_cost(problem, BsgmGrowing, [GROWING], 0)[0] > 2**31


def test_a_count_above_the_most_is_refused_where_it_is_given() -> None:
    config = {"lower_steps": MOST_STEPS + 1, "system_steps": 1, "upper_step_size": 1.0}
    config |= {"lower_step_size": 1.0, "system_step_size": 1.0}
    with pytest.raises(HarnessError, match="lower_steps must be at most 2.14748e\\+09"):
        check_values(Bsgm, config, "bsgm")

    assert check_values(Bsgm, config | {"lower_steps": MOST_STEPS}, "bsgm")["lower_steps"] == MOST_STEPS


@pytest.mark.parametrize(
    "declared",
    [
        Cost(lower_gradient=-1),
        Cost(lower_gradient=3, cross=torch.tensor([1, -1])),
        Cost(lower_gradient=1.0),  # type: ignore[arg-type]
        Cost(lower_gradient=True),
        Cost(lower_gradient=torch.tensor([1.0, 2.0])),
        Cost(lower_gradient=torch.tensor([1, 2], dtype=torch.int32)),
        Cost(lower_gradient=2**63),
    ],
)
def test_what_is_no_number_of_samples_is_refused_as_a_declaration(declared: Cost) -> None:
    with pytest.raises(PluginError, match="negative number of samples|expected integers below 2"):
        declared.table(2)


def test_a_declaration_is_of_one_number_for_all_or_of_one_for_each() -> None:
    assert Cost(lower_gradient=3, value=2).table(4).tolist() == [[3], [0], [0], [0], [2]]
    assert Cost(cross=torch.tensor([3, 4])).table(2).tolist() == [[0, 0], [0, 0], [0, 0], [3, 4], [0, 0]]


@pytest.mark.parametrize("several", [False, True])
def test_a_trial_listed_twice_pays_twice_or_is_refused(several: bool) -> None:
    accountant, listed = Accountant(3, 100, ONE), np.array([2, 0, 2])
    accountant.open(slice(None), Cost(cross=torch.tensor([5, 1, 9])).table(3))
    accountant.charge("cross", listed, np.array([4, 4, 4]) if several else 4)

    assert accountant.ledger[:, 3].tolist() == [4, 0, 8]
    with pytest.raises(PluginError, match="fewer cross"):
        accountant.charge("cross", listed, 1)
    assert accountant.ledger[:, 3].tolist() == [4, 0, 8]


@pytest.mark.parametrize("samples", [-1, np.array([2, -1])])
def test_a_negative_charge_is_refused(samples: Any) -> None:
    """It would give samples back."""
    accountant = Accountant(2, 100, ONE)
    accountant.open(slice(None), Cost(cross=5).table(2))
    with pytest.raises(PluginError, match="expected 0 or more"):
        accountant.charge("cross", slice(None), samples)

    assert not accountant.ledger.any()


@pytest.fixture(params=["written", "computed"])
def permutations(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of small sets as of large ones."""
    if request.param == "computed":
        monkeypatch.setattr("harness.streams.MOST_WRITTEN", 0)


BOTH = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@BOTH
@given(
    examples=st.integers(1, 60), size=st.integers(1, 70), steps=st.integers(0, 40), seed=st.integers(0, 2**31)
)
@pytest.mark.usefixtures("permutations")
def test_batches_come_without_replacement_epoch_by_epoch(
    examples: int, size: int, steps: int, seed: int
) -> None:
    """Their sizes add up to `samples`, their repetitions to `several`; an epoch holds each example once."""
    streams = Streams(seed, examples, 5, CPU)
    size = min(size, examples)
    batches = [streams.batch(3, "lower", "lower", step, size).rows for step in range(steps)]
    drawn = torch.cat([*batches, torch.empty(0, dtype=torch.int64)])

    assert len(drawn) == int(samples(torch.tensor(steps), size, examples))
    counts = torch.bincount(drawn, minlength=examples)
    both = streams.several(3, "lower", [steps + 1, steps], size)
    table = torch.zeros(2, examples, dtype=torch.int64)
    table[:, both.rows] = both.counts
    following = streams.batch(3, "lower", "lower", steps, size).rows
    assert torch.equal(table[1], counts)
    assert torch.equal(table[0], counts + torch.bincount(following, minlength=examples))
    assert both.full == (len(both.rows) == examples) and bool((table[0, both.rows] > 0).all())
    assert int(counts.max()) - int(counts.min()) <= 1
    for batch in batches:
        assert torch.equal(batch, batch.unique())


@pytest.mark.usefixtures("permutations")
def test_a_batch_depends_on_its_place_only_not_on_what_was_asked_before() -> None:
    one, other = Streams(7, 100, 5, CPU), Streams(7, 100, 5, CPU)
    places: list[tuple[int, Level, str, int]] = [
        (s, "lower", phase, step) for s in (0, 4) for phase in ("lower", "system") for step in (0, 13, 25)
    ]
    forwards = {place: one.batch(*place, 9).rows for place in places}
    backwards = {place: other.batch(*place, 9).rows for place in reversed(places)}

    assert all(torch.equal(forwards[place], backwards[place]) for place in places)
    assert not torch.equal(forwards[0, "lower", "lower", 0], forwards[0, "lower", "system", 0])
    assert not torch.equal(forwards[0, "lower", "lower", 0], forwards[4, "lower", "lower", 0])


def test_a_fresh_process_draws_the_same_batches() -> None:
    code = (
        "import sys, torch; from harness.streams import Streams;"
        "rows = Streams(3, 50, 5, torch.device('cpu')).batch(2, 'lower', 'cross', 4, 8).rows;"
        "sys.stdout.write(str(rows.tolist()))"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert there == str(Streams(3, 50, 5, CPU).batch(2, "lower", "cross", 4, 8).rows.tolist())


@given(examples=st.integers(2, 5000), seed=st.integers(0, 2**31))
def test_a_computed_permutation_is_one(examples: int, seed: int) -> None:
    every = permuted(np.arange(examples), _keys(seed), examples)

    assert sorted(every.tolist()) == list(range(examples))
    some = np.arange(examples // 3, examples // 2)
    assert permuted(some, _keys(seed), examples).tolist() == every[some].tolist()


def _keys(seed: int) -> Any:
    return keys_of(generator(seed, "keys"))


@pytest.mark.parametrize("examples", [13, 16, 17])
def test_computed_permutations_put_no_pair_of_examples_first_more_often(examples: int) -> None:
    """Of every first and second place, and of a place and its neighbour one batch on: uniform over pairs."""
    found = [permuted(np.arange(examples), _keys(seed), examples) for seed in range(20_000)]
    for one, other in ((0, 1), (0, 8), (3, 12)):
        pairs = np.array([order[one] * examples + order[other] for order in found])
        counts = np.bincount(pairs, minlength=examples**2).reshape(examples, examples)
        assert not counts.diagonal().any()
        assert scipy.stats.chisquare(counts[~np.eye(examples, dtype=bool)]).pvalue > 1e-4


def test_a_large_set_is_permuted_where_it_is_met() -> None:
    examples = MOST_WRITTEN + 1
    batches = [Streams(2, examples, 5, CPU).batch(1, "lower", "a", step, 64).rows for step in (0, 1, 1562)]

    assert [len(rows) for rows in batches] == [64, 64, examples - 1562 * 64]
    assert len(torch.cat(batches).unique()) == sum(map(len, batches)) and batches[0].max() < examples


# --- the two streams through the upper iterations


def _met(streams: Streams, level: Level, phase: str, size: int, iterations: range) -> list[list[int]]:
    return [streams.batch(s, level, phase, 0, size).rows.tolist() for s in iterations]


@BOTH
@given(
    examples=st.integers(1, 40),
    size=st.integers(1, 45),
    seed=st.integers(0, 2**31),
    phase=st.sampled_from(["epochs", "partition"]),
    level=st.sampled_from(["lower", "upper"]),
)
@pytest.mark.usefixtures("permutations")
def test_a_stream_through_upper_iterations_goes_epoch_by_epoch(
    examples: int, size: int, seed: int, phase: str, level: Level
) -> None:
    """Each epoch holds each example once, and the place gives the exact number of samples."""
    sizes = (examples, 5) if level == "lower" else (5, examples)
    streams, per_epoch = Streams(seed, *sizes, CPU), -(-examples // size)
    for epoch in range(3):
        met = _met(streams, level, phase, size, range(epoch * per_epoch, (epoch + 1) * per_epoch))
        assert sorted(sum(met, [])) == list(range(examples))
        assert all(rows == sorted(rows) for rows in met)
        for s, rows in enumerate(met, epoch * per_epoch):
            place = _place_of(seed, s, *sizes)
            drawn = place.lower_samples if level == "lower" else place.upper_samples
            assert drawn(steps=1, batch_size=size, phase=phase) == len(rows)
            thrice = drawn(steps=torch.tensor([0, 3]), batch_size=size, phase=phase)
            assert isinstance(thrice, torch.Tensor) and thrice.tolist() == [0, 3 * len(rows)]


def _place_of(seed: int, iteration: int, lower: int, upper: int) -> Place:
    problem = Counting()
    problem.lower_examples, problem.upper_examples = lower, upper
    meter = Meter(problem, Streams(seed, lower, upper, CPU), Accountant(1, 1, {}), problem.initial(0))
    meter.begin(iteration)
    return meter.place


@BOTH
@given(examples=st.integers(1, 40), size=st.integers(1, 45), seed=st.integers(0, 2**31))
@pytest.mark.usefixtures("permutations")
def test_the_batches_of_a_partition_never_change_but_their_order_does(
    examples: int, size: int, seed: int
) -> None:
    streams, parts = Streams(seed, examples, 5, CPU), -(-examples // size)
    epochs = [_met(streams, "lower", "partition", size, range(e * parts, (e + 1) * parts)) for e in range(4)]
    by_part = {part(seed, s, "lower", size, examples): rows for s, rows in enumerate(sum(epochs, []))}

    assert sorted(by_part) == list(range(parts))
    for epoch in epochs:
        assert sorted(epoch) == sorted(epochs[0]) == sorted(by_part.values())
    for s, rows in enumerate(sum(epochs, [])):
        place = _place_of(seed, s, examples, 5)
        assert place.parts("lower", size) == parts
        assert by_part[place.part("lower", size)] == rows


@pytest.mark.usefixtures("permutations")
def test_epochs_are_reshuffled() -> None:
    streams = Streams(3, 60, 40, CPU)
    for phase in ("epochs", "partition"):
        first, second, third = (
            _met(streams, "lower", phase, 6, range(e * 10, (e + 1) * 10)) for e in range(3)
        )
        assert first != second != third
        assert (sorted(first) == sorted(second)) == (phase == "partition")


@pytest.mark.usefixtures("permutations")
def test_levels_phases_and_nests_are_independent_streams() -> None:
    """No two of them meet the same batch, and their batches overlap as random ones do."""
    streams = Streams(3, 1000, 1000, CPU)
    found = {
        (level, phase, nest): set(streams.batch(5, level, phase, 0, 100, nest).rows.tolist())
        for level in ("lower", "upper")
        for phase in ("epochs", "partition", "lower", "upper", "cross")
        for nest in ((), (0,), (1,), (0, 0), (0, 1))
        if not nest or phase not in ("epochs", "partition")
    }
    overlaps = [len(a & b) for p, a in found.items() for q, b in found.items() if p < q]

    assert len(overlaps) == 34 * 33 // 2
    assert max(overlaps) < 30 and abs(np.mean(overlaps) - 10) < 0.6


def test_random_numbers_are_functions_of_their_place() -> None:
    """Of seed, upper iteration and name, and for normal numbers the step; not of what was asked before."""
    problem = Counting()
    problem.setup(None, 0, CPU, F64)

    def draw(seed: int, s: int, name: str, step: int, trials: int = 2) -> tuple[float, list[float]]:
        accountant, streams = Accountant(trials, 1, {}), Streams(seed, 23, 11, CPU)
        meter = Meter(problem, streams, accountant, problem.initial(0))
        meter.begin(s)
        oracle = Oracle.of(meter)
        like = torch.zeros(trials, 6, dtype=F64)
        return meter.place.uniform(name), oracle.normal(name, like, step).squeeze(0).tolist()

    places = [(seed, s, name, step) for seed in (0, 1) for s in (0, 3) for name in "ab" for step in (0, 1)]
    found = {place: draw(*place) for place in places}

    assert found == {place: draw(*place) for place in reversed(places)}
    assert found == {place: draw(*place, trials=5) for place in places}
    assert len({uniform for uniform, _ in found.values()}) == 8  # a uniform number knows no step
    assert len({tuple(normal) for _, normal in found.values()}) == 16


def test_random_numbers_have_their_laws() -> None:
    """Means within four standard errors; a fresh process draws the same."""
    places = [_place_of(1, s, 23, 11) for s in range(2000)]
    uniform = np.array([place.uniform("a") for place in places])
    problem = Counting()
    problem.setup(None, 0, CPU, F64)
    meter = Meter(problem, Streams(1, 23, 11, CPU), Accountant(1, 1, {}), problem.initial(0))
    normal = Oracle.of(meter).normal("a", torch.zeros(1, 20_000, dtype=F64)).numpy()

    assert 0 <= uniform.min() and uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 4 * (1 / 12 / 2000) ** 0.5
    assert abs(normal.mean()) < 4 / 20_000**0.5 and abs((normal**2).mean() - 1) < 4 * (2 / 20_000) ** 0.5
