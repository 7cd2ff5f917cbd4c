"""Does a solver keep the rules? Its ledger is true, its step is a pure function of the state, the seed and
the place, no trial feels its neighbours in a pack, and it works where the lower level falls apart by example.

The ledger is held against a problem whose losses count the examples that flow through them, by kind, on
a path that never meets the ledger.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from concurrent.futures import Executor
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.budget import KINDS, Accountant
from harness.check.problems import CPU, F64, Counting, CountingByExample
from harness.check.verdict import Checks, words
from harness.errors import PluginError
from harness.meter import Meter
from harness.oracle import Oracle
from harness.params import parameters
from harness.result import Result
from harness.rules import Rules
from harness.runner import first_cost, run_pack
from harness.solver import Solver, State
from harness.streams import Streams, generator

Load = Callable[[], type[Solver[Any]]]
SEED = 5


def random_config(solver: type[Solver[Any]], number: int) -> dict[str, Any]:
    """Small random values for every declared parameter, a function of `number`.

    Shared parameters depend on number // 3 only, so that three neighbours can share a pack."""
    config: dict[str, Any] = {}
    for name, parameter in parameters(solver).items():
        draw = generator(number // 3 if parameter.common else number, name)
        low = int(parameter.low or 0)
        if parameter.choices is not None:
            config[name] = parameter.choices[int(draw.integers(len(parameter.choices)))]
        elif parameter.kind == "real":
            config[name] = float(np.exp(draw.uniform(np.log(1e-3), np.log(0.3))))
        else:
            config[name] = low + int(draw.integers(0, 30 if parameter.kind == "shared" else 7))
    return config


def _problem(kind: type[Counting] = Counting) -> Counting:
    problem = kind()
    problem.setup(None, 0, CPU, F64)
    return problem


def _run(
    problem: Counting, solver: type[Solver[Any]], configs: list[dict[str, Any]], budget: float
) -> list[Result]:
    rules = Rules(budget=budget, prices=dict.fromkeys(KINDS, 1.0), seed=SEED, curves=0)
    if not first_cost(problem, solver, configs, rules.seed).all():
        raise PluginError("cost() declares nothing for the first upper iteration: it would never end")
    problem.seen.clear()
    return run_pack(problem, solver, configs, rules, CPU, F64)


def _budget(problem: Counting, solver: type[Solver[Any]], block: int) -> float:
    """For three neighbours that can share a pack: one to twelve first upper iterations of the cheapest."""
    configs = [random_config(solver, number) for number in range(3 * block, 3 * block + 3)]
    cheapest = first_cost(problem, solver, configs, SEED).min()
    return float(generator(block, "budget").uniform(1, 12) * cheapest)


@dataclasses.dataclass(frozen=True)
class Lone:
    """One random configuration run alone; seen: the examples that its losses counted."""

    config: dict[str, Any]
    budget: float
    result: Result
    seen: dict[str, int]


@cache
def _alone(solver: type[Solver[Any]], packs: int, kind: type[Counting] = Counting) -> list[Lone]:
    """Three configurations for each of `packs` budgets."""
    found = []
    for number in range(3 * packs):
        problem, config = _problem(kind), random_config(solver, number)
        budget = _budget(problem, solver, number // 3)
        (result,) = _run(problem, solver, [config], budget)
        found.append(Lone(config, budget, result, dict(problem.seen)))
    if not any(lone.result.upper_iterations for lone in found):
        raise PluginError("no configuration could afford one upper iteration")
    return found


def ledger(solver: type[Solver[Any]], packs: int, kind: type[Counting] = Counting) -> str:
    alone = _alone(solver, packs, kind)
    for lone in alone:
        charged = {kind: lone.result.ledger[kind] for kind in KINDS if lone.result.ledger[kind]}
        if charged != lone.seen:
            raise PluginError(f"charged {charged}, counted {lone.seen} with {words(lone.config)}")
    iterations = sum(lone.result.upper_iterations for lone in alone)
    return f"declared = charged = counted in {len(alone)} random trials, {iterations} upper iterations"


def budget(solver: type[Solver[Any]], packs: int) -> str:
    alone = _alone(solver, packs)
    for lone in alone:
        if max(lone.result.ledger["total"], sum(lone.seen.values())) > lone.budget:
            raise PluginError(f"{sum(lone.seen.values())} samples on a budget of {lone.budget:g}")
    return f"never above the budget in {len(alone)} random trials"


def pack(solver: type[Solver[Any]], packs: int, kind: type[Counting] = Counting) -> str:
    alone = _alone(solver, packs, kind)
    for block in range(packs):
        three = alone[3 * block : 3 * block + 3]
        packed = _run(_problem(kind), solver, [lone.config for lone in three], three[0].budget)
        for lone, other in zip(three, packed, strict=True):
            _require_same(lone.result, other, "alone", "in a pack", 1e-9)
    return f"a trial alone equals the same trial in a pack, {packs} packs of 3"


def _require_same(one: Result, two: Result, here: str, there: str, tolerance: float) -> None:
    if one.ledger != two.ledger:
        raise PluginError(f"{here} {one.ledger}, {there} {two.ledger} with {words(one.config)}")
    left, right = (np.array([result.objective, *result.metrics.values()]) for result in (one, two))
    if left.shape != right.shape or not np.allclose(left, right, rtol=tolerance, atol=0):
        raise PluginError(
            f"{here} f = {one.objective:.17g}, {there} {two.objective:.17g} with {words(one.config)}"
        )


def _again(load: Load) -> list[Result]:
    """A few random trials, the same wherever they run."""
    torch.set_num_threads(1)
    return [_run(_problem(), load(), [random_config(load(), n)], 1000)[0] for n in (0, 4)]


def same_seed(load: Load) -> str:
    for one, two in zip(_again(load), _again(load), strict=True):
        _require_same(one, two, "first", "then", 0)
    return "two runs of one trial agree bit for bit"


def fresh_process(load: Load, elsewhere: Executor) -> str:
    for one, two in zip(_again(load), elsewhere.submit(_again, load).result(), strict=True):
        _require_same(one, two, "here", "in a fresh process", 0)
    return "the same trial in another process agrees bit for bit"


class _Stepper:
    """Single upper iterations from a given state, of a pack of random trials."""

    def __init__(self, solver: type[Solver[Any]], trials: int) -> None:
        self.problem, self.trials = _problem(), trials
        self.settled = solver.pack([random_config(solver, n) for n in range(trials)], CPU, F64)
        x0, y0 = (v.to(F64) for v in self.problem.initial(0))
        self.accountant = Accountant(trials, np.inf, dict.fromkeys(KINDS, 1.0))
        streams = Streams(1, self.problem.lower_examples, self.problem.upper_examples, CPU)
        size = self.settled.size_of("lower")
        self.meter = Meter(self.problem, streams, self.accountant, (x0, y0), size)
        self.oracle = Oracle.of(self.meter)

    def after(self, iterations: int) -> State:
        state: State = self.settled.init(self.oracle)
        for iteration in range(iterations):
            state = self.step(state, iteration)
        return state

    def step(self, state: State, iteration: int) -> State:
        self.meter.begin(iteration)
        self.accountant.open(self.meter.live, self.settled.cost(self.meter.place).table(self.trials))
        stepped: State = self.settled.step(self.oracle, state)
        self.accountant.close()
        return stepped


def _fields(state: State) -> dict[str, Tensor]:
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


def _equal(one: Tensor, two: Tensor) -> bool:
    """Bit for bit, and undefined numbers equal each other: a step that overflows must do so twice."""
    return torch.allclose(one, two, rtol=0, atol=0, equal_nan=True)


def pure_step(solver: type[Solver[Any]]) -> str:
    for trials, iteration in itertools.product((1, 3), (0, 2)):
        stepper = _Stepper(solver, trials)
        state = stepper.after(iteration)
        before = {name: value.clone() for name, value in _fields(state).items()}
        one, two = (_fields(stepper.step(state, iteration)) for _ in range(2))
        for name, value in _fields(state).items():
            if not _equal(value, before[name]):
                raise PluginError(f"step changed {name} of the state it was given; expected a new state")
        for name, value in before.items():
            if not _equal(one[name], two[name]):
                raise PluginError(f"two steps from one state differ in {name}")
            if one[name].shape != value.shape or one[name].dtype != value.dtype:
                raise PluginError(
                    f"{name} was {value.dtype} {tuple(value.shape)}, after a step {one[name].dtype} "
                    f"{tuple(one[name].shape)}"
                )
    return "two steps from one state agree bit for bit and leave it as it was"


def warm_starts(solver: type[Solver[Any]]) -> str:
    """A field shaped like y is warm-started if changing it changes the next step."""
    stepper = _Stepper(solver, 3)
    state = stepper.after(2)
    after = _fields(stepper.step(state, 2))
    used = set()
    for name, value in _fields(state).items():
        if value.shape == state.y.shape:
            moved = _fields(stepper.step(dataclasses.replace(state, **{name: value + 0.1}), 2))
            if any(not _equal(moved[field], after[field]) for field in after):
                used.add(name)
    declared = set(solver.warm_starts)
    if used != declared:
        raise PluginError(f"warm_starts declares {_names(declared)}; the next step reads {_names(used)}")
    return f"the next step reads {_names(used)}, as declared"


def _names(fields: set[str]) -> str:
    return ", ".join(sorted(fields)) or "none"


def by_example(solver: type[Solver[Any]], packs: int) -> str:
    """Where y belongs to a mini-batch, of which the last of an epoch is short."""
    unmet = solver.needs.unmet(CountingByExample)
    if unmet:
        return f"not defined there, as declared: {unmet}"
    said = ledger(solver, packs, CountingByExample)
    pack(solver, packs, CountingByExample)
    return f"{said}, in packs as alone"


def checks(load: Load, elsewhere: Executor, packs: int) -> Checks:
    """elsewhere: runs in a fresh process."""
    solver = load()
    return {
        "ledger": lambda: ledger(solver, packs),
        "budget": lambda: budget(solver, packs),
        "pack": lambda: pack(solver, packs),
        "by example": lambda: by_example(solver, packs),
        "same seed": lambda: same_seed(load),
        "fresh process": lambda: fresh_process(load, elsewhere),
        "pure step": lambda: pure_step(solver),
        "warm starts": lambda: warm_starts(solver),
    }


def audit(solver: type[Solver[Any]], packs: int = 3) -> list[str]:
    """What holds of the ledger, the budget and packs; raises PluginError at the first that does not."""
    return [ledger(solver, packs), budget(solver, packs), pack(solver, packs)]
