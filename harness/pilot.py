"""How long trials take on an idle machine, from a few upper iterations on one thread, as workers run them.

A pack is timed with its counts cut to a few, then with one count after another at its full value, broken off
after a while; what a count adds is added up. So seconds per upper iteration are known without running one.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness.params import parameters
from harness.place import first_place
from harness.problem import Problem
from harness.rules import Rules
from harness.runner import Run
from harness.sizing import Packing, pack_bytes
from harness.solver import Solver

FEW = 3
"""What counts are cut to."""
ITERATIONS = 16
"""Upper iterations that are timed at most, after a first one."""
REPEATS = 2
"""The fastest counts: what is new the first time makes no estimate."""
AHEAD = 64
"""Upper iterations whose mean cost counts: of some methods the first is cheaper than all others."""
KEPT = 3 * 2**29
"""Bytes that are freed at once and kept (`keep_freed_memory`): of 2 GB and more, nothing is."""
UNLIMITED = 1e17
"""Samples: more than any pilot takes."""
PLACES = (0.5, 0.15, 0.85)
"""Where, among packs sorted by the cost of their first upper iteration, some are timed."""

Configs = Sequence[Mapping[str, Any]]


def _clock(device: str) -> Callable[[], float]:
    """Seconds of this process' own, which what else runs does not touch; where a GPU works, all seconds until
    it has done what it was given."""

    def when_done() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return time.process_time if device == "cpu" else when_done


class _Enough(BaseException):
    """Not an Exception: a plug-in that catches those must not swallow it."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """search: seconds of each of some trials. evaluation, curve: seconds per trial, and per point of its
    curve; in a pack."""

    search: np.ndarray
    evaluation: float
    curve: float

    def seconds(self, curves: int) -> float:
        """The mean of a trial."""
        working = float((self.search > 0).mean())
        return float(self.search.mean()) + working * (self.evaluation + curves * self.curve)


class _Speed(NamedTuple):
    """Seconds of an upper iteration of n trials: alone + (n - 1) * more + each * their samples."""

    alone: float
    more: float
    each: float


def pilot(
    problem: Problem,
    solver: type[Solver[Any]],
    configs: Configs,
    rules: Rules,
    packing: Packing,
    scoring: Scoring,
    seconds: float,
) -> Timing:
    """Time some configurations of a solver for about `seconds`, the scoring apart.

    Configurations whose first upper iteration does not fit in the budget take no time."""
    begun = time.perf_counter()
    packs = list(_packs(problem, solver, configs, rules, packing))
    costs = [_costs(problem, solver, pack, rules) for pack in packs]
    speeds: dict[float, _Speed] = {}
    for place in PLACES[: len(packs)]:
        left = seconds - (time.perf_counter() - begun)
        if speeds and left < seconds / 4:
            break
        n = int(place * len(packs))
        speeds[float(costs[n].mean())] = _speed(problem, solver, packs[n], rules, scoring.device, left / 2)
    if not packs:
        return Timing(np.zeros(len(configs)), 0.0, 0.0)
    evaluation, curve = scoring.of(len(packs[len(packs) // 2]))
    search = np.concatenate([_search(rules.budget, cost, _at(cost.mean(), speeds)) for cost in costs])
    return Timing(np.pad(search, (0, len(configs) - len(search))), evaluation, curve)


def _packs(
    problem: Problem, solver: type[Solver[Any]], configs: Configs, rules: Rules, packing: Packing
) -> Iterator[Configs]:
    """As a study would cut them, dear ones last; without what does not fit in the budget."""
    groups = []
    for group in _alike(solver, configs):
        first = _costs(problem, solver, group, rules, 1)
        groups.append([group[n] for n in np.argsort(first, kind="stable") if first[n] <= rules.budget])
    cut = [group[some] for group in groups for some in packing.cut(problem, solver, group)]
    yield from sorted(cut, key=lambda pack: _costs(problem, solver, pack, rules).mean())


def _costs(
    problem: Problem, solver: type[Solver[Any]], configs: Configs, rules: Rules, ahead: int = AHEAD
) -> np.ndarray:
    """Priced samples of an upper iteration of each configuration, the mean of the first ones, shape (N,)."""
    packed = solver.pack(configs, torch.device("cpu"), torch.float64)
    place = first_place(problem, rules.seed, packed.size_of("lower"))
    costs = (packed.cost(place.at(s, place.mini_batch)).table(len(configs)) for s in range(ahead))
    priced = sum(np.array([*rules.prices.values()]) @ table for table in costs)
    return np.broadcast_to(np.asarray(priced) / ahead, len(configs))


def _search(budget: float, costs: np.ndarray, speed: _Speed) -> np.ndarray:
    """Seconds of the trials of a pack, which leave it one after the other, each when its budget is spent."""
    seconds, done = np.zeros(len(costs)), 0.0
    iterations = np.maximum(budget // costs, 1)
    for last in np.argsort(iterations, kind="stable"):
        active = iterations >= iterations[last]
        number = active.sum()
        step = speed.alone + (number - 1) * speed.more + speed.each * costs[active].sum()
        seconds[active] += (iterations[last] - done) * step / number
        done = iterations[last]
    return seconds


def _at(cost: float, speeds: Mapping[float, _Speed]) -> _Speed:
    """The speed at a cost from those at some, linear in logarithms."""
    known = sorted(speeds)
    columns = np.log(np.maximum([speeds[place] for place in known], 1e-15)).T
    return _Speed(*(float(np.exp(np.interp(np.log(cost), np.log(known), column))) for column in columns))


def _alike(solver: type[Solver[Any]], configs: Configs) -> list[list[Mapping[str, Any]]]:
    """Configurations by the parameters that all trials of a pack share."""
    shared = [name for name, p in parameters(solver).items() if p.common]
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for config in configs:
        groups.setdefault(tuple(config[name] for name in shared), []).append(config)
    return list(groups.values())


def _speed(
    problem: Problem, solver: type[Solver[Any]], pack: Configs, rules: Rules, device: str, seconds: float
) -> _Speed:
    """Where one trial alone takes long already, a pack is taken to gain nothing."""
    alone = _Steps(problem, solver, pack[len(pack) // 2 :][:1], rules, device)
    least, samples = alone.least()
    if len(pack) == 1 or least * len(pack) > seconds:
        own, each = alone.measured(seconds)
        return _Speed(own, own, each)
    own, each = _Steps(problem, solver, pack, rules, device).measured(seconds)
    first = min(max(least - each * samples, 0.0), own)
    return _Speed(first, (own - first) / (len(pack) - 1), each)


class _Steps:
    """Upper iterations of one pack."""

    def __init__(
        self, problem: Problem, solver: type[Solver[Any]], pack: Configs, rules: Rules, device: str
    ) -> None:
        endless = dataclasses.replace(rules, budget=UNLIMITED, curves=0)
        self.run = Run(problem, solver, pack, endless, torch.device(device), problem.dtype)
        self.clock = _clock(device)
        full = self.run.solver
        self.full = {n: getattr(full, n) for n, p in parameters(solver).items() if p.kind == "count"}
        self.few = {name: count.clamp(max=FEW) for name, count in self.full.items()}
        self.cut = dataclasses.replace(full, **self.few)
        if device == "cpu":
            _touch(pack_bytes(problem, solver, pack) - problem.memory(0, full.size_of("lower")))
        with self.run.meter.watching():
            self.state = self.run.begin()

    def least(self) -> tuple[float, float]:
        """Seconds and samples of one upper iteration of cut counts, after a first one."""
        with self.run.meter.watching():
            return self._several(0.0)

    def measured(self, seconds: float) -> tuple[float, float]:
        """Seconds of an upper iteration of the pack besides those that go with its samples, and per sample.

        Takes about `seconds`, or two upper iterations of cut counts."""
        with self.run.meter.watching():
            before, samples_before = self._several(seconds / 3)
            taken, samples = before, samples_before
            long = [name for name in self.few if not torch.equal(self.few[name], self.full[name])]
            for name in long:
                one = dataclasses.replace(self.cut, **{name: self.full[name]})
                each = seconds * 2 / 3 / len(long) / REPEATS
                more, samples_more = min(self._broken_off(one, before, each) for _ in range(REPEATS))
                taken += max(0.0, more - before)
                samples += samples_more - samples_before
        if samples <= samples_before:
            return before, 0.0
        each = (taken - before) / (samples - samples_before)
        return max(before - each * samples_before, 0.0), each

    def _declared(self, solver: Solver[Any]) -> tuple[np.ndarray, float]:
        meter = self.run.meter
        table = meter.at_work(solver.cost, meter.place).table(meter.trials)
        priced = self.run.accountant.priced(table) * np.ones(meter.trials)
        return table, float(priced.sum())

    def _several(self, seconds: float) -> tuple[float, float]:
        """Mean seconds and samples of upper iterations of cut counts, after a first one."""
        begun, times, samples = time.perf_counter(), list[float](), list[float]()
        while len(times) < 2 or (len(times) <= ITERATIONS and time.perf_counter() - begun < seconds):
            declared, priced = self._declared(self.cut)
            start = self.clock()
            self.state = self.run.iterate(self.cut, self.state, declared)
            times.append(self.clock() - start)
            samples.append(priced)
            self.run.meter.begin(self.run.meter.place.iteration + 1)
        return float(np.median(times[1:])), float(np.mean(samples[1:]))

    def _broken_off(self, solver: Solver[Any], before: float, seconds: float) -> tuple[float, float]:
        """Seconds and samples of one upper iteration; where it is broken off, at the rate up to there."""
        declared, priced = self._declared(solver)
        accountant = self.run.accountant
        granted = float((declared * np.ones(self.run.meter.trials)).sum())
        start = accountant.ledger.sum()
        begun, start_at = self.clock(), time.perf_counter()
        done = [0.0, 0.0]  # samples and seconds of what was computed

        def watch() -> None:
            if time.perf_counter() - start_at > seconds and done[0]:
                done[1] = self.clock() - begun
                raise _Enough
            done[0] = float(accountant.ledger.sum() - start)

        accountant.watch = watch
        try:
            self.run.iterate(solver, self.state, declared)
        except _Enough:
            accountant.abandon()
            taken = done[1]
            return max(taken, before) + (granted - done[0]) * taken / done[0], priced
        finally:
            accountant.watch = None
        return self.clock() - begun, priced


def _touch(number: float) -> None:
    """Write so many bytes and free them again: memory is slow the first time, which a worker that keeps what
    it frees meets in its first upper iterations only."""
    torch.zeros(min(max(int(number), 0), KEPT), dtype=torch.uint8)


class Scoring:
    """What the evaluation and a point of a curve take, the same for all solvers: timed once for about
    `seconds`, in as large a pack as that allows."""

    def __init__(self, problem: Problem, rules: Rules, device: str, seconds: float) -> None:
        self.problem, self.rules, self.device, self.seconds = problem, rules, device, seconds
        self._found: dict[int, tuple[float, float]] = {}
        self._most = 1

    def of(self, trials: int) -> tuple[float, float]:
        """Seconds per trial of the evaluation, and of a point of a curve, in a pack of so many."""
        if not self._found:
            alone, self._found[1] = self._timed(1)
            self._most = max(1, int(self.seconds / max(alone, 1e-9)))
        size = min(trials, self._most)
        if size not in self._found:
            _, self._found[size] = min(self._timed(size) for _ in range(REPEATS))
        return self._found[size]

    def _timed(self, trials: int) -> tuple[float, tuple[float, float]]:
        (evaluation, whole), (curve, point) = _scored(self.problem, trials, self.rules, self.device)
        return evaluation + curve, (whole, point)


def _scored(
    problem: Problem, trials: int, rules: Rules, device: str
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Of the evaluation and of a point of a curve: seconds it took here, and what all takes per trial."""
    x, y = (_near(problem, value, trials, device) for value in problem.initial(rules.seed))
    x = problem.project(x)
    clock = _clock(device)
    begun = clock()
    share = problem.part_of_evaluation(x, y.new_empty(trials, 0) if problem.by_example else y)
    middle = clock()
    problem.metrics(x, y)
    evaluation, curve = middle - begun, clock() - middle
    return (evaluation, evaluation / share / trials), (curve, curve / trials)


def _near(problem: Problem, start: Tensor, trials: int, device: str) -> Tensor:
    """Points near a start that are all different, shape (trials, ...)."""
    noise = torch.randn(trials, *start.shape, generator=torch.Generator().manual_seed(0))
    return (start + 0.01 * noise).to(device, problem.dtype)
