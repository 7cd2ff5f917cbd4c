"""A draw depends on its place and on nothing else."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from optuna.distributions import FloatDistribution, IntDistribution

from harness.draws import RandomDraws, SobolDraws, at_quantile, draws, grid_size
from harness.errors import HarnessError
from harness.space import Space

SIZE = FloatDistribution(1e-4, 10.0, log=True)
STEPS = IntDistribution(10, 10_000, log=True)
NOTHING = Space("none", {})
SPACES = {
    "a": Space(
        "a", {"n": {"low": 10, "high": 10_000, "log": True, "integer": True}, "s": {"choices": [1, 2, 3]}}
    ),
    "b": Space("b", {"s": {"choices": [1, 2, 3]}, "t": {"choices": ["x", "y"]}}),
}


def drawn(kind: str, solver: str, numbers: Sequence[int] = range(6)) -> list[dict[str, object]]:
    own = draws(kind, 3, solver, SPACES)
    return [own.draw(number) for number in numbers]


@pytest.mark.parametrize("kind", ["random", "sobol"])
def test_a_draw_depends_on_its_number_only(kind: str) -> None:
    whole = drawn(kind, "a")
    assert whole == drawn(kind, "a") and len({p["n"] for p in whole}) == len(whole)
    assert drawn(kind, "a", [3, 5, 4, 4, 0]) == [whole[n] for n in (3, 5, 4, 4, 0)]


@pytest.mark.parametrize("kind", ["random", "sobol"])
def test_same_named_parameters_of_two_solvers_are_paired(kind: str) -> None:
    assert [p["s"] for p in drawn(kind, "a")] == [p["s"] for p in drawn(kind, "b")]


def test_integers_are_the_floor_of_a_log_uniform_draw() -> None:
    for u in np.linspace(0, 1, 1000, endpoint=False):
        value = math.exp(math.log(10) + u * (math.log(10_000) - math.log(10)))
        assert at_quantile(STEPS, u) == math.floor(value + 1e-9)


def test_the_draws_are_log_uniform() -> None:
    values = [math.log10(RandomDraws(1, NOTHING).value(n, "s", SIZE)) for n in range(2000)]
    counts = np.histogram(values, bins=5, range=(-4, 1))[0]
    assert counts.sum() == 2000 and (abs(counts - 400) < 100).all()
    names = ["s", "t"]
    sequence = SobolDraws(1, NOTHING, names)
    sobol = [math.log10(sequence.value(n, "s", SIZE)) for n in range(64)]
    assert (np.histogram(sobol, bins=4, range=(-4, 1))[0] == 16).all()


def test_ranges_that_are_not_logarithmic_are_even_and_integers_reach_both_ends() -> None:
    space = Space(
        "even",
        {
            "m": {"low": 0.5, "high": 1.0, "log": False, "integer": False},
            "n": {"low": 2, "high": 5, "log": False, "integer": True},
        },
    )
    kinds = space.distributions()
    us = (np.arange(4000) + 0.5) / 4000

    np.testing.assert_allclose([at_quantile(kinds["m"], u) for u in us], 0.5 + us / 2, rtol=1e-12)
    assert np.bincount([at_quantile(kinds["n"], u) for u in us]).tolist() == [0, 0, 1000, 1000, 1000, 1000]


@pytest.mark.parametrize("kind", ["random", "sobol"])
def test_published_values_are_those_of_trial_0_and_of_no_other(kind: str) -> None:
    entries, published = SPACES["a"].entries, {"n": 77, "s": 2}
    spaces = {"plain": Space("plain", entries), "known": Space("known", entries, published)}
    plain, known = (
        [own.draw(n) for n in range(4)] for own in (draws(kind, 3, name, spaces) for name in spaces)
    )

    assert known[0] == published != plain[0] and known[1:] == plain[1:]


def test_the_grid_meets_every_point_once() -> None:
    assert grid_size(SPACES["b"]) == 6
    assert len({tuple(p.values()) for p in drawn("grid", "b")}) == 6
    with pytest.raises(HarnessError, match="n of solver 'a' has a range"):
        grid_size(SPACES["a"])
