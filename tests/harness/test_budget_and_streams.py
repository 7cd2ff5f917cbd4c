"""The accountant never lets a ledger exceed its budget; mini-batches are a function of their place."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.budget import KINDS, Accountant, Cost
from harness.errors import PluginError
from harness.streams import Streams, samples

CPU = torch.device("cpu")
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


@given(
    examples=st.integers(1, 60), size=st.integers(1, 70), steps=st.integers(0, 40), seed=st.integers(0, 2**31)
)
def test_batches_come_without_replacement_epoch_by_epoch(
    examples: int, size: int, steps: int, seed: int
) -> None:
    """Their sizes add up to `samples`, their repetitions to `counts`; an epoch holds each example once."""
    streams = Streams(seed, examples, 5, CPU)
    size = min(size, examples)
    batches = [streams.rows(3, "lower", step, size) for step in range(steps)]
    drawn = torch.cat([*batches, torch.empty(0, dtype=torch.int64)])

    assert len(drawn) == int(samples(torch.tensor(steps), size, examples))
    counts = torch.bincount(drawn, minlength=examples)
    assert torch.equal(streams.counts(3, "lower", [steps, 0], size)[0], counts)
    assert int(counts.max()) - int(counts.min()) <= 1
    for batch in batches:
        assert torch.equal(batch, batch.unique())


def test_a_batch_depends_on_its_place_only_not_on_what_was_asked_before() -> None:
    one, other = Streams(7, 100, 5, CPU), Streams(7, 100, 5, CPU)
    places = [(s, phase, step) for s in (0, 4) for phase in ("lower", "system") for step in (0, 13, 25)]
    forwards = {place: one.rows(*place, 9) for place in places}
    backwards = {place: other.rows(*place, 9) for place in reversed(places)}

    assert all(torch.equal(forwards[place], backwards[place]) for place in places)
    assert not torch.equal(forwards[0, "lower", 0], forwards[0, "system", 0])
    assert not torch.equal(forwards[0, "lower", 0], forwards[4, "lower", 0])


def test_a_fresh_process_draws_the_same_batches() -> None:
    code = (
        "import sys, torch; from harness.streams import Streams;"
        "rows = Streams(3, 50, 5, torch.device('cpu')).rows(2, 'cross', 4, 8);"
        "sys.stdout.write(str(rows.tolist()))"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert there == str(Streams(3, 50, 5, CPU).rows(2, "cross", 4, 8).tolist())
