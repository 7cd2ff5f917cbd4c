"""What the engine remembers: by example and by batch, each starts where it was left when it is met again."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.api import Cost, MiniBatch, Oracle, Place, Solver, State, count, shared
from harness.batch import Level
from harness.budget import KINDS
from harness.check import Counting
from harness.meter import Meter
from harness.recall import ByBatch, ByExample
from harness.result import Result
from harness.rules import Rules
from harness.runner import run_pack
from harness.streams import Streams
from problems.equilibrium import Equilibrium
from solvers.amigo import Amigo
from solvers.bsgm import Bsgm
from solvers.stocbio import Stocbio

CPU, F64 = torch.device("cpu"), torch.float64
EXAMPLES = 1437
WIDTH = 4
BATCH = 100
PER_EPOCH = 15  # batches, the last of 37


@pytest.fixture(scope="module")
def problem() -> Equilibrium:
    problem = Equilibrium(dataset="digits", width=WIDTH, evaluation_examples=60)
    problem.setup(None, 0, CPU, F64)
    return problem


def _config(**changes: float) -> dict[str, Any]:
    steps = {"lower_steps": 2, "system_steps": 2, "cross_batches": 1, "batch_size": BATCH}
    sizes = {"lower_step_size": 1.0, "system_step_size": 1.0, "upper_step_size": 0.5}
    return steps | sizes | {"upper_batch_size": 0} | changes


def _run(
    problem: Equilibrium,
    solver: type[Solver[Any]],
    configs: list[dict[str, Any]],
    epochs: float,
    seed: int = 0,
) -> list[Result]:
    """Upper iterations for `epochs` of a trial with two lower and system steps and one cross batch."""
    rules = Rules(budget=6 * EXAMPLES * epochs, prices=dict.fromkeys(KINDS, 1.0), seed=seed, curves=0)
    return run_pack(problem, solver, configs, rules, CPU, F64)


class Visit:
    """One upper iteration as a solver met it: the trials, the examples, y before and after."""

    def __init__(self, meter: Meter, before: State, after: State) -> None:
        self.live = meter.live.tolist()
        self.rows = meter.mini_batch.tolist()
        shape = (len(self.live), len(self.rows), WIDTH)
        self.start, self.end = before.y.view(shape).clone(), after.y.view(shape).clone()


@pytest.fixture
def visits(monkeypatch: pytest.MonkeyPatch) -> list[Visit]:
    """What a solver meets, upper iteration by upper iteration."""
    seen: list[Visit] = []
    at_work = Meter.at_work

    def watched(self: Meter, call: Callable[..., Any], *args: Any) -> Any:
        returned = at_work(self, call, *args)
        if call.__name__ == "step":
            _, state = args
            seen.append(Visit(self, state, returned))
        return returned

    monkeypatch.setattr(Meter, "at_work", watched)
    return seen


def test_an_example_starts_from_what_it_was_left_with(problem: Equilibrium, visits: list[Visit]) -> None:
    """For every trial of a pack, also after the costlier ones have left it in the middle of an epoch."""
    configs = [_config(), _config(lower_steps=9), _config(system_steps=5), _config(upper_step_size=0.1)]
    _run(problem, Stocbio, configs, 3)
    left: dict[tuple[int, int], Tensor] = {}
    again = 0
    for visit in visits:
        for place, n in enumerate(visit.live):
            for i, start, end in zip(visit.rows, visit.start[place], visit.end[place], strict=True):
                again += (n, i) in left
                assert torch.equal(start, left.get((n, i), torch.zeros(WIDTH, dtype=F64)))
                assert not torch.equal(start, end)
                left[n, i] = end

    assert len(visits[0].live) == 4 > len(visits[-1].live) == 2
    assert again > 2 * 2 * EXAMPLES


def test_every_example_once_per_epoch_across_upper_iterations(
    problem: Equilibrium, visits: list[Visit]
) -> None:
    (result,) = _run(problem, Stocbio, [_config()], 2)
    batches = [visit.rows for visit in visits]
    epochs = [sum(batches[:PER_EPOCH], []), sum(batches[PER_EPOCH:], [])]

    assert [len(batch) for batch in batches] == 2 * ([BATCH] * (PER_EPOCH - 1) + [37])
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(EXAMPLES))
    assert batches[:PER_EPOCH] != batches[PER_EPOCH:]
    assert [result.ledger[kind] for kind in KINDS] == [count * 2 * EXAMPLES for count in (2, 1, 2, 1, 0)]


@pytest.mark.parametrize("solver", [Bsgm, Stocbio, Amigo])
@pytest.mark.parametrize("size", [BATCH, EXAMPLES])
def test_a_trial_alone_equals_the_same_trial_in_a_pack(
    problem: Equilibrium, solver: type[Solver[Any]], size: int
) -> None:
    shared = {"batch_size": size}
    configs = [
        _config(**shared),
        _config(lower_steps=7, lower_step_size=0.5, **shared),
        _config(system_steps=4, cross_batches=3, upper_step_size=0.1, **shared),
    ]
    packed = _run(problem, solver, configs, 2.4)
    for config, found in zip(configs, packed, strict=True):
        (alone,) = _run(problem, solver, [config], 2.4)

        assert found.ledger == alone.ledger
        assert found.metrics == pytest.approx(alone.metrics, rel=1e-9)


def test_a_warm_start_changes_nothing_before_an_example_is_met_again(problem: Equilibrium) -> None:
    cold, warm = (_run(problem, solver, [_config()], 1)[0].metrics for solver in (Bsgm, Stocbio))
    later, later_warm = (_run(problem, solver, [_config()], 1.1)[0].metrics for solver in (Bsgm, Stocbio))

    assert cold == warm
    assert later != later_warm


class Literal:
    """BSGM with warm start by example in NumPy: one example at a time, and a dictionary for a memory."""

    def __init__(self, problem: Equilibrium, seed: int) -> None:
        x, _ = problem.initial(seed)
        self.parts = [part.double().numpy().copy() for part in problem._parts(x)]
        self.images, self.labels = problem._images.numpy(), problem._labels.numpy()
        self.streams = Streams(seed, EXAMPLES, EXAMPLES, CPU)
        self.left: dict[int, np.ndarray] = {}

    def step(self, s: int, steps: int, alpha: float) -> None:
        theta, b, A, B, a = self.parts
        gradient = [np.zeros_like(part) for part in self.parts]
        rows = self.streams.batch(s, "upper", "epochs", 0, BATCH).rows.tolist()
        for i in rows:
            w = self.left.get(i, np.zeros(WIDTH))
            for _ in range(steps):
                w = np.tanh(A @ w + B @ self.images[i] + a)
            self.left[i] = w
            shares = np.exp(theta @ w + b)
            r = (shares / shares.sum() - np.eye(10)[self.labels[i]]) / len(rows)
            slope = 1 - np.tanh(A @ w + B @ self.images[i] + a) ** 2
            v = theta.T @ r
            for _ in range(steps):
                v = A.T @ (slope * v) + theta.T @ r
            u = slope * v
            terms = (np.outer(r, w), r, np.outer(u, w), np.outer(u, self.images[i]), u)
            gradient = [total + term for total, term in zip(gradient, terms, strict=True)]
        theta, b, A, B, a = (p - alpha * g for p, g in zip(self.parts, gradient, strict=True))
        left, values, right = np.linalg.svd(A)
        self.parts = [np.clip(theta, -1, 1), b, left @ np.diag(np.minimum(values, 0.5)) @ right, B, a]

    def x(self) -> np.ndarray:
        return np.concatenate([part.ravel() for part in self.parts])


@pytest.mark.parametrize("seed", [0, 1])
def test_two_epochs_equal_a_literal_transcription(
    problem: Equilibrium, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 1e-10; the start is scaled up and the step long, so that both constraints of Lambda are active."""
    start = problem.initial(seed)
    monkeypatch.setattr(problem, "initial", lambda seed: (30 * start[0], start[1]))
    literal = Literal(problem, seed)
    outputs: list[Tensor] = []
    monkeypatch.setattr(
        Equilibrium, "evaluate_pack", lambda self, x, y: outputs.append(x.clone()) or [{self.objective: 0.0}]
    )
    _run(problem, Stocbio, [_config(upper_step_size=2.0)], 2, seed)
    active = 0
    for s in range(2 * PER_EPOCH):
        literal.step(s, 2, 2.0)
        active += np.linalg.norm(literal.parts[2], 2) == pytest.approx(0.5, rel=1e-12)

    assert np.abs(literal.parts[0]).max() == 1
    assert active > PER_EPOCH
    np.testing.assert_allclose(outputs[0][0].numpy(), literal.x(), rtol=0, atol=1e-10)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_memory_is_a_table_by_trial_and_example(data: st.DataObject) -> None:
    """Against a dictionary, for any order of any trials and examples."""
    trials, examples = 3, 7
    memory = ByExample(State(torch.zeros(trials, 1), torch.full((trials, 4), 0.5)), ("y",), examples, 2)
    model: dict[tuple[int, int], Tensor] = {}
    subset = lambda most: st.lists(st.integers(0, most - 1), min_size=1, unique=True)  # noqa: E731
    for visit in range(8):
        live, rows = sorted(data.draw(subset(trials))), data.draw(subset(examples))
        x = torch.full((len(live), 1), float(visit))
        state = State(x, torch.full((len(live), 2 * len(rows)), -1.0))
        recalled = memory.recall(state, np.array(live), torch.tensor(rows))
        expected = [[model.get((n, i), torch.full((2,), 0.5)) for i in rows] for n in live]
        found = recalled.y.view(len(live), len(rows), 2)
        assert torch.equal(found, torch.stack([torch.stack(row) for row in expected]))
        assert torch.equal(recalled.x, x)
        left = 100.0 * visit + torch.arange(float(found.numel())).view_as(found)
        memory.keep(State(x, left.flatten(1)), np.array(live), torch.tensor(rows))
        model |= {(n, i): left[a, b] for a, n in enumerate(live) for b, i in enumerate(rows)}


def test_nothing_is_kept_of_a_method_that_starts_afresh() -> None:
    state = State(torch.zeros(2, 1), torch.zeros(2, 4))
    memory = ByExample(state, (), 7, 2)
    before = State(torch.zeros(2, 1), torch.full((2, 4), 3.0))
    memory.keep(before, np.arange(2), torch.tensor([0, 1]))

    assert torch.equal(memory.recall(before, np.arange(2), torch.tensor([2, 3])).y, before.y)


# --- by batch of the partition


@dataclasses.dataclass(frozen=True)
class Noted(State):
    """lower (N, dim_y), upper (N, dim_x): tables. last (N, dim_y): as the last step left it, no table."""

    lower: Tensor
    upper: Tensor
    last: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Notes(Solver[Noted]):
    """Leaves with each batch of either level what tells it from all others, and pays for the lower one."""

    label, reference = "Notes", "none: made for the tests"
    tables: ClassVar[Mapping[str, Level]] = {"lower": "lower", "upper": "upper"}

    cost_factor: Tensor = count("lower gradients in an upper iteration")
    batch_size: int = shared("examples of a lower batch", default=5)
    upper_batch_size: int = shared("examples of an upper batch; 0: all", default=4, low=0)

    def cost(self, place: Place) -> Cost:
        return Cost(self.cost_factor * place.lower_samples(1, self.batch_size, "partition"))

    def init(self, oracle: Oracle) -> Noted:
        x, y = oracle.x0, oracle.y0
        return Noted(x=x, y=y, lower=torch.full_like(y, -1), upper=torch.full_like(x, -2), last=y)

    def step(self, oracle: Oracle, state: Noted) -> Noted:
        def body(batch: MiniBatch, y: Tensor, x: Tensor) -> Tensor:
            return y - 0.01 * oracle.lower_gradient(x, y, batch)

        x, size, times = state.x, self.batch_size, self.cost_factor
        y = oracle.loop("partition", times, body, state.y, x, batch_size=size, fixed=True)
        moved = y - state.y
        return Noted(x=x + moved[:, :4], y=y, lower=moved, upper=x, last=moved)


@pytest.mark.parametrize("upper_batch_size", [4, 0, 100])
def test_a_batch_finds_what_it_was_left_with(upper_batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """For every trial of a pack, also after the dear ones have left it in the middle of an epoch; a field
    that is no table passes from step to step."""
    problem = Counting()
    problem.setup(None, 0, CPU, F64)
    left: dict[tuple[str, int, int], Tensor] = {}
    last: dict[int, Tensor] = {}
    again, at_work = 0, Meter.at_work
    sizes = {"lower": 5, "upper": upper_batch_size or None}
    running: list[int] = []

    def watched(self: Meter, call: Callable[..., Any], *args: Any) -> Any:
        nonlocal again
        returned = at_work(self, call, *args)
        if call.__name__ != "step":
            return returned
        running.append(len(self.live))
        for place, n in enumerate(self.live.tolist()):
            for name, size in sizes.items():
                key = (name, n, self.place.part(name, size))  # type: ignore[arg-type]
                found, start = getattr(args[1], name)[place], -1.0 if name == "lower" else -2.0
                again += key in left
                assert torch.equal(found, left.get(key, torch.full_like(found, start)))
                left[key] = getattr(returned, name)[place].clone()
            assert n not in last or torch.equal(args[1].last[place], last[n])
            last[n] = returned.last[place].clone()
        return returned

    monkeypatch.setattr(Meter, "at_work", watched)
    configs = [{"cost_factor": k, "batch_size": 5, "upper_batch_size": upper_batch_size} for k in (1, 4, 2)]
    packed = run_pack(problem, Notes, configs, Rules(23 * 12, {}, 3), CPU, F64)

    assert [result.upper_iterations for result in packed] == [60, 15, 30]
    assert set(running) == {3, 2, 1} and again > 120
    monkeypatch.undo()
    for config, result in zip(configs, packed, strict=True):
        (alone,) = run_pack(problem, Notes, [config], Rules(23 * 12, {}, 3), CPU, F64)
        assert alone.metrics == pytest.approx(result.metrics, rel=1e-12) and alone.ledger == result.ledger


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_table_by_trial_and_batch(data: st.DataObject) -> None:
    """Against a dictionary, for any order of any trials and batches."""
    trials, parts = 3, {"lower": 4, "upper": 2}
    start = Noted(*(torch.full((trials, 2), float(k)) for k in range(5)))
    memory, model = ByBatch(start, parts), dict[tuple[str, int, int], Tensor]()
    for visit in range(8):
        live = sorted(data.draw(st.lists(st.integers(0, trials - 1), min_size=1, unique=True)))
        met = {name: data.draw(st.integers(0, number - 1)) for name, number in parts.items()}
        state = Noted(*(torch.full((len(live), 2), -1.0) for _ in range(5)))
        recalled = memory.recall(state, np.array(live), met)
        for place, n in enumerate(live):
            for name, part in met.items():
                first = getattr(start, name)[n]
                assert torch.equal(getattr(recalled, name)[place], model.get((name, n, part), first))
        assert torch.equal(recalled.x, state.x) and torch.equal(recalled.last, state.last)
        kept = Noted(*(100.0 * visit + k + torch.rand(len(live), 2) for k in range(5)))
        memory.keep(kept, np.array(live), met)
        model |= {
            (name, n, part): getattr(kept, name)[place]
            for place, n in enumerate(live)
            for name, part in met.items()
        }
