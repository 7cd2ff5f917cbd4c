"""How long trials take, from a few upper iterations timed on one thread as workers run them.

A pack is timed with its counts cut to a few, then with one count after another at its full value, broken off
after a while; what a count adds is added up. So seconds per upper iteration are known without running one.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.params import parameters
from harness.problem import Problem
from harness.rules import Rules
from harness.runner import Run, first_cost
from harness.sizing import Packing
from harness.solver import Solver, State

FEW = 3
"""What counts are cut to."""
ITERATIONS = 16
"""Upper iterations that are timed at most, after a first one."""
UNLIMITED = 1e17
"""Samples: more than any pilot takes."""
PLACES = (0.5, 0.15, 0.85)
"""Where, among configurations sorted by the cost of their first upper iteration, packs are timed."""

Configs = Sequence[Mapping[str, Any]]


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


def pilot(
    problem: Problem,
    solver: type[Solver[Any]],
    configs: Configs,
    rules: Rules,
    packing: Packing,
    device: str,
    seconds: float,
) -> Timing:
    """Time some configurations of a solver for about `seconds`.

    Configurations whose first upper iteration does not fit in the budget take no time."""
    begun = time.perf_counter()
    groups = _alike(solver, configs)
    costs = np.concatenate([first_cost(problem, solver, group, rules.seed) for group in groups])
    known = sum(map(list, groups), [])
    order = np.argsort(costs, kind="stable")
    order = order[costs[order] <= rules.budget]
    if not len(order):
        return Timing(np.zeros(len(configs)), 0.0, 0.0)
    rates: dict[float, float] = {}
    for place in PLACES:
        left = seconds - (time.perf_counter() - begun)
        if rates and left < seconds / 4:
            break
        pack = _pack(problem, solver, [known[n] for n in order], int(place * len(order)), packing)
        cost, rate = _rate(problem, solver, pack, rules, device, left / 2)
        rates[cost] = rate
    evaluation, curve = _scoring(problem, solver, pack, rules, device, seconds / 4)
    spent = np.where(costs <= rules.budget, rules.budget - rules.budget % costs, 0)
    return Timing(spent * _between(costs, rates), evaluation, curve)


def _alike(solver: type[Solver[Any]], configs: Configs) -> list[list[Mapping[str, Any]]]:
    """Configurations by the parameters that all trials of a pack share."""
    shared = [name for name, p in parameters(solver).items() if p.common]
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for config in configs:
        groups.setdefault(tuple(config[name] for name in shared), []).append(config)
    return list(groups.values())


def _pack(
    problem: Problem, solver: type[Solver[Any]], ordered: Configs, middle: int, packing: Packing
) -> Configs:
    """A pack that a study could run, around one of the configurations, which are in order of cost."""
    (own,) = [group for group in _alike(solver, ordered) if any(c is ordered[middle] for c in group)]
    place = next(n for n, config in enumerate(own) if config is ordered[middle])
    first = max(0, min(place - packing.most // 2, len(own) - packing.most))
    some = own[first : first + packing.most]
    cut: slice = next(iter(packing.cut(problem, solver, some)))
    return some[cut]


def _between(costs: np.ndarray, rates: Mapping[float, float]) -> np.ndarray:
    """Seconds per sample of configurations from those of some, linear in logarithms."""
    known = sorted(rates)
    values = np.log([rates[cost] for cost in known])
    return np.asarray(np.exp(np.interp(np.log(np.maximum(costs, 1)), np.log(known), values)))


def _rate(
    problem: Problem, solver: type[Solver[Any]], pack: Configs, rules: Rules, device: str, seconds: float
) -> tuple[float, float]:
    """Priced samples of an upper iteration of a trial, and seconds of the pack per sample.

    One trial alone first: where it takes long already, a pack is taken to gain nothing."""
    samples, taken = _Steps(problem, solver, pack[len(pack) // 2 :][:1], rules, device).measured(seconds / 3)
    alone = samples, taken / samples
    if len(pack) == 1 or taken * len(pack) > seconds:
        return alone
    samples, taken = _Steps(problem, solver, pack, rules, device).measured(seconds * 2 / 3)
    return samples / len(pack), taken / samples


class _Steps:
    """Upper iterations of one pack."""

    def __init__(
        self, problem: Problem, solver: type[Solver[Any]], pack: Configs, rules: Rules, device: str
    ) -> None:
        endless = dataclasses.replace(rules, budget=UNLIMITED, curves=0)
        self.run = Run(problem, solver, pack, endless, torch.device(device), problem.dtype)
        self.counts = [name for name, p in parameters(solver).items() if p.kind == "count"]

    def measured(self, seconds: float) -> tuple[float, float]:
        """Priced samples of an upper iteration of the pack, and its seconds; takes about `seconds` or one
        upper iteration of cut counts."""
        full = self.run.solver
        few = {name: getattr(full, name).clamp(max=FEW) for name in self.counts}
        with self.run.meter.watching():
            state = self.run.begin()
            cut = dataclasses.replace(full, **few)
            taken, samples, state = self._several(cut, state, seconds / 2)
            long = [name for name in self.counts if not torch.equal(few[name], getattr(full, name))]
            before, samples_before = taken, samples
            for name in long:
                one = dataclasses.replace(cut, **{name: getattr(full, name)})
                more, samples_more = self._broken_off(one, state, before, seconds / 2 / len(long))
                taken += max(0.0, more - before)
                samples += samples_more - samples_before
        return samples, taken

    def _declared(self, solver: Solver[Any]) -> tuple[np.ndarray, float]:
        meter = self.run.meter
        table = meter.at_work(solver.cost, meter.place).table(meter.trials)
        priced = self.run.accountant.priced(table) * np.ones(meter.trials)
        return table, float(priced.sum())

    def _several(self, solver: Solver[Any], state: State, seconds: float) -> tuple[float, float, State]:
        """Mean seconds and samples of upper iterations; the first, which is slower, counts only if there
        is no time for more."""
        begun, times, samples = time.perf_counter(), list[float](), list[float]()
        while len(times) <= ITERATIONS and (not times or time.perf_counter() - begun < seconds):
            declared, priced = self._declared(solver)
            start = time.perf_counter()
            state = self.run.iterate(solver, state, declared)
            times.append(time.perf_counter() - start)
            samples.append(priced)
            self.run.meter.begin(self.run.meter.place.iteration + 1)
        later = slice(1, None) if len(times) > 1 else slice(None)
        return float(np.mean(times[later])), float(np.mean(samples[later])), state

    def _broken_off(
        self, solver: Solver[Any], state: State, before: float, seconds: float
    ) -> tuple[float, float]:
        """Seconds and samples of one upper iteration; where it is broken off, at the rate up to there."""
        declared, priced = self._declared(solver)
        accountant = self.run.accountant
        granted = float((declared * np.ones(self.run.meter.trials)).sum())
        start = accountant.ledger.sum()
        begun = time.perf_counter()
        done = [0.0, 0.0]  # samples and seconds of what was computed

        def watch() -> None:
            taken = time.perf_counter() - begun
            if taken > seconds and done[0]:
                done[1] = taken
                raise _Enough
            done[0] = float(accountant.ledger.sum() - start)

        accountant.watch = watch
        try:
            self.run.iterate(solver, state, declared)
        except _Enough:
            taken = done[1]
            return max(taken, before) + (granted - done[0]) * taken / done[0], priced
        finally:
            accountant.watch = None
        return time.perf_counter() - begun, priced


def _scoring(
    problem: Problem, solver: type[Solver[Any]], pack: Configs, rules: Rules, device: str, seconds: float
) -> tuple[float, float]:
    """Seconds per trial of the evaluation, and of a point of a curve; in a pack where there is time."""
    alone, curve = _scored(problem, 1, rules, device)
    if len(pack) == 1 or (alone[0] + curve[0]) * len(pack) > seconds:
        return alone[1], curve[1]
    evaluation, curve = _scored(problem, len(pack), rules, device)
    return evaluation[1], curve[1]


def _scored(
    problem: Problem, trials: int, rules: Rules, device: str
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Of the evaluation and of a point of a curve: seconds it took here, and what all takes per trial."""
    x, y = (_near(problem, value, trials, device) for value in problem.initial(rules.seed))
    x = problem.project(x)
    begun = time.perf_counter()
    share = problem.part_of_evaluation(x, y.new_empty(trials, 0) if problem.by_example else y)
    middle = time.perf_counter()
    problem.metrics(x, y)
    evaluation, curve = middle - begun, time.perf_counter() - middle
    return (evaluation, evaluation / share / trials), (curve, curve / trials)


def _near(problem: Problem, start: Tensor, trials: int, device: str) -> Tensor:
    """Points near a start that are all different, shape (trials, ...)."""
    noise = torch.randn(trials, *start.shape, generator=torch.Generator().manual_seed(0))
    return (start + 0.01 * noise).to(device, problem.dtype)
