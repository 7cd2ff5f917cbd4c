"""The door between a solver and a problem: what it serves is charged, and nothing else is served."""

import contextlib
import dataclasses
import gc
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from harness.batch import Batch, MiniBatch
from harness.budget import KINDS, Accountant
from harness.check import CPU, F64, Counting
from harness.errors import PluginError
from harness.meter import Meter
from harness.oracle import Oracle
from harness.problem import Problem
from harness.rules import Rules
from harness.runner import run_pack
from harness.streams import Streams
from solvers.bsgm import Bsgm

TRIALS = 2


class Bench:
    """An oracle on the counting problem with 10 000 samples of every kind granted."""

    def __init__(self) -> None:
        self.problem = Counting()
        self.problem.setup(None, 0, CPU, F64)
        self.problem.seen.clear()
        self.accountant = Accountant(TRIALS, 1e9, {})
        x0, y0 = (value.to(F64) for value in self.problem.initial(0))
        self.meter = Meter(self.problem, Streams(3, 23, 11, CPU), self.accountant, (x0, y0))
        self.oracle = Oracle.of(self.meter)
        self.accountant.open(slice(None), np.full((len(KINDS), TRIALS), 10_000))
        self.x, self.y = self.oracle.x0, self.oracle.y0
        self.batch = self.oracle.lower_batch("lower", 5)

    def charged(self) -> int:
        return int(self.accountant.ledger.sum())


@pytest.fixture
def bench() -> Bench:
    return Bench()


def _twice(b: Bench) -> Any:
    return b.oracle.lower_gradient(torch.cat([b.x, b.x]), torch.cat([b.y, b.y]), b.batch)


def _one_row(b: Bench) -> Any:
    return b.oracle.lower_gradient(b.x[:1], b.y[:1], b.batch)


def _many_vectors(b: Bench) -> Any:
    return b.oracle.hessian_vector(b.x, b.y, torch.ones(TRIALS, 3, 6, dtype=F64), b.batch)


def _complex(b: Bench) -> Any:
    return b.oracle.hessian_vector(b.x, b.y, torch.complex(b.y, b.y), b.batch)


def _vmap(b: Bench) -> Any:
    vectors = torch.eye(6, dtype=F64).unsqueeze(1).expand(-1, TRIALS, -1)
    return torch.func.vmap(lambda v: b.oracle.hessian_vector(b.x, b.y, v, b.batch))(vectors)


def _jvp(b: Bench) -> Any:
    return torch.func.jvp(lambda y: b.oracle.lower_gradient(b.x, y, b.batch), (b.y,), (b.y,))


def _dual(b: Bench) -> Any:
    with forward_ad.dual_level():
        return b.oracle.lower_gradient(b.x, forward_ad.make_dual(b.y, b.y), b.batch)


def _subclass(b: Bench) -> Any:
    class Wide(Tensor):
        """A tensor that may lie about its shape."""

    return b.oracle.lower_gradient(b.x.as_subclass(Wide), b.y, b.batch)


def _forged(**changes: Any) -> Callable[[Bench], Any]:
    def ask(b: Bench) -> Any:
        return b.oracle.lower_gradient(b.x, b.y, dataclasses.replace(b.batch, **changes))

    return ask


def _upper_for_lower(b: Bench) -> Any:
    return b.oracle.lower_gradient(b.x, b.y, b.oracle.upper_batch())


def _examples(b: Bench) -> Any:
    forged: Any = Batch(torch.arange(1), full=True)
    return b.oracle.lower_gradient(b.x, b.y, forged)


REFUSED = {
    "two points of a trial in one call": _twice,
    "fewer rows than trials": _one_row,
    "several vectors in one": _many_vectors,
    "two vectors as a complex one": _complex,
    "products by vmap": _vmap,
    "a product by forward differentiation": _jvp,
    "a product by dual numbers": _dual,
    "a tensor of another class": _subclass,
    "no trials": _forged(trials=slice(0, 0)),
    "a mask of trials": _forged(trials=torch.zeros(TRIALS, dtype=torch.bool)),
    "a negative number of batches": _forged(number=torch.tensor([-3, -3])),
    "no batches": _forged(number=torch.tensor([0, 0])),
    "upper examples for a lower derivative": _upper_for_lower,
    "examples of one's own": _examples,
}


@pytest.mark.parametrize("ask", REFUSED.values(), ids=REFUSED.keys())
def test_what_would_serve_more_than_is_charged_is_refused(bench: Bench, ask: Callable[[Bench], Any]) -> None:
    """Before anything is charged or computed."""
    with pytest.raises((PluginError, AttributeError)):
        ask(bench)

    assert bench.charged() == 0 and not bench.problem.seen


def test_no_derivative_follows_from_an_answer(bench: Bench) -> None:
    """Neither arguments that require gradients nor answers carry a graph."""
    x, y = bench.x.requires_grad_(), bench.y.requires_grad_()
    found = bench.oracle.lower_gradient(x, y, bench.batch)

    assert not found.requires_grad
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(found.sum(), y)


@pytest.mark.parametrize(("steps", "failing"), [((1, 3), 1), ((3, 1), 0)])
def test_a_system_that_fails_in_a_loop_is_noted_for_its_trial(
    bench: Bench, steps: tuple[int, int], failing: int
) -> None:
    """One of the two is still there at the step that fails, first or last in the loop's order."""

    def body(batch: MiniBatch, y: Tensor) -> Tensor:
        z = torch.full_like(y, torch.nan if batch.step == 2 else 1.0)
        return bench.oracle.or_start(z, y + 1, within=batch)

    found = bench.oracle.loop("lower", torch.tensor(steps), body, torch.zeros_like(bench.y))

    expected = [n == failing for n in range(TRIALS)]
    assert bench.meter.system_failed is not None and bench.meter.system_failed.tolist() == expected
    assert found[:, 0].tolist() == [2.0 if failed else 1.0 for failed in expected]


@pytest.mark.parametrize(("kind", "name"), [("hessian_vector", "hessian"), ("cross", "cross_matrix")])
def test_a_dense_matrix_is_charged_as_its_columns(bench: Bench, kind: str, name: str) -> None:
    """And a solver can declare that: it sees the sizes of the problem at its place."""
    place = bench.oracle.place
    getattr(bench.oracle, name)(bench.x, bench.y, bench.batch)

    assert (place.dim_x, place.dim_y) == (4, 6)
    assert bench.accountant.ledger[:, KINDS.index(kind)].tolist() == [place.dim_y * 5] * TRIALS
    assert bench.problem.seen == {kind: place.dim_y * 5 * TRIALS}


def test_a_trial_listed_twice_pays_twice(bench: Bench) -> None:
    both = dataclasses.replace(bench.batch, trials=torch.tensor([1, 1]))
    bench.oracle.lower_gradient(bench.x, bench.y, both)

    assert bench.accountant.ledger[:, 0].tolist() == [0, 10]
    assert bench.problem.seen == {"lower_gradient": 10}


def _leads(start: Any) -> Iterator[Any]:
    """All that can be reached by attributes, items and closures that are not Python's own."""
    seen, queue = {id(start)}, [start]
    while queue:
        here = queue.pop()
        yield here
        found = [
            *(value for _, value in _members(here)),
            *(here.values() if isinstance(here, dict) else ()),
            *(here if isinstance(here, list | tuple | set) else ()),
        ]
        for value in found:
            if id(value) not in seen and not isinstance(value, type | type(np)):
                seen.add(id(value))
                queue.append(value)


def _members(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Tensor | np.ndarray | str | int | float) or inspect.isbuiltin(value):
        return []
    found = []
    for name in dir(value):
        if not name.startswith("__"):
            with contextlib.suppress(Exception):
                found.append((name, getattr(value, name)))
    return found


def test_nothing_on_an_oracle_leads_to_what_is_behind_it(bench: Bench) -> None:
    """Nor on the batches and places that it gives."""
    reached = [value for held in (bench.oracle, bench.batch, bench.oracle.place) for value in _leads(held)]

    assert len(reached) > 20
    assert not [v for v in reached if isinstance(v, Problem | Accountant | Streams | Meter)]


@pytest.mark.parametrize("name", ["begin", "live", "system_failed", "iteration", "mini_batch", "_problem"])
def test_the_engines_doors_are_not_on_the_solvers_face(bench: Bench, name: str) -> None:
    assert not hasattr(bench.oracle, name)
    with pytest.raises(AttributeError):
        setattr(bench.oracle, name, 0)
    with pytest.raises(AttributeError):
        bench.oracle.place = bench.oracle.place  # type: ignore[misc]
    with pytest.raises(AttributeError):
        bench.oracle.place.iteration = 7  # type: ignore[misc]


CONFIG = {
    **{"lower_steps": 2, "system_steps": 2, "cross_batches": 1, "batch_size": 5, "upper_batch_size": 0},
    **{"upper_step_size": 0.1, "lower_step_size": 0.1, "system_step_size": 0.1},
}


def _trespasses(call: Callable[[Problem], Any], swallow: bool) -> type[Bsgm]:
    """BSGM that finds the problem on its own way."""

    class Trespasser:
        def __init__(self, inner: Bsgm) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def at(self, trials: Any) -> "Trespasser":
            return Trespasser(self.inner.at(trials))

        def step(self, oracle: Oracle, state: Any) -> Any:
            problem = next(o for o in gc.get_objects() if type(o) is Counting and "lower_loss" in vars(o))
            with contextlib.suppress(PluginError if swallow else ()):
                call(problem)
            return self.inner.step(oracle, state)

    class Found(Bsgm):  # type: ignore[misc]
        @classmethod
        def pack(cls, *args: Any) -> Any:
            return Trespasser(Bsgm.pack(*args))

    return Found


WAYS: dict[str, Callable[[Problem], Any]] = {
    "losses": lambda p: p.lower_loss(torch.zeros(4, dtype=F64), torch.zeros(6, dtype=F64), torch.arange(3)),
    "gradients": lambda p: p.lower_gradient(
        torch.zeros(1, 4, dtype=F64), torch.zeros(1, 6, dtype=F64), Batch(torch.arange(3))
    ),
    "evaluation": lambda p: p.evaluate(torch.zeros(4, dtype=F64), torch.zeros(6, dtype=F64)),
    "metrics": lambda p: p.metrics(torch.zeros(1, 4, dtype=F64), torch.zeros(1, 6, dtype=F64)),
}


@pytest.mark.parametrize("swallow", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_problem_found_past_the_oracle_is_noticed(way: str, swallow: bool) -> None:
    """Also where the solver catches the error."""
    gc.collect()
    problem = Counting()
    problem.setup(None, 0, CPU, F64)
    with pytest.raises(PluginError, match="past the oracle"):
        run_pack(problem, _trespasses(WAYS[way], swallow), [CONFIG], Rules(2000, {}, 0), CPU, F64)

    problem.lower_loss(torch.zeros(4, dtype=F64), torch.zeros(6, dtype=F64), torch.arange(3))
    assert "lower_loss" not in vars(problem)
