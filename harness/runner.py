"""Run a pack: N trials of one solver side by side, from their configurations to their results.

This is the only loop over upper iterations. It knows neither Ray nor the record.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.budget import KINDS, Accountant
from harness.errors import PluginError
from harness.oracle import Oracle
from harness.problem import Problem
from harness.recall import Memory
from harness.rules import Rules
from harness.solver import Solver, State
from harness.streams import Streams


@dataclasses.dataclass
class Result:
    """One trial. state: "completed", "diverged" or "failed" (then `reason` says why)."""

    config: dict[str, Any]
    state: str = "completed"
    reason: str = ""
    objective: float = float("nan")
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    ledger: dict[str, float] = dataclasses.field(default_factory=dict)
    upper_iterations: int = 0
    system_fallbacks: int = 0
    evaluation_samples: int = 0
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    pack: int = 1
    curve: list[dict[str, float]] = dataclasses.field(default_factory=list)


def failed(config: Mapping[str, Any], reason: str) -> Result:
    """The result of a trial that raised, was killed or ran too long."""
    return Result(config=dict(config), state="failed", reason=reason)


class _Run:
    """The search of one pack; `outputs[n]` is the point at which trial n will be evaluated."""

    def __init__(
        self,
        problem: Problem,
        solver: type[Solver[Any]],
        configs: Sequence[Mapping[str, Any]],
        rules: Rules,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.problem, self.rules = problem, rules
        start = tuple(v.to(device, dtype) for v in problem.initial(rules.seed))
        streams = Streams(rules.seed, problem.lower_examples, problem.upper_examples, device)
        self.accountant = Accountant(len(configs), rules.budget, rules.prices)
        self.solver = solver.pack(configs, device, dtype)
        size = self.solver.mini_batch_size
        self.oracle = Oracle(problem, streams, self.accountant, (start[0], start[1]), size)
        self.results = [Result(config=dict(config), pack=len(configs)) for config in configs]
        self.outputs: list[Tensor | None] = [None] * len(configs)
        self.x0 = start[0]
        self.memory: Memory | None = None
        self.grid = np.empty((len(configs), 0))
        self.passed = np.zeros(len(configs), dtype=np.int64)

    def search(self) -> None:
        """Upper iterations, until no trial can afford its next one."""
        oracle, solver = self.oracle, self.solver
        state = solver.init(oracle)
        if self.problem.by_example:
            sizes = (self.problem.upper_examples, self.problem.dim_y)
            self.memory = Memory(state, solver.warm_starts, *sizes)
        self._measure(state, np.ones(oracle.trials, dtype=bool))
        iteration = 0
        while True:
            declared = solver.cost(oracle).table(oracle.trials)
            if iteration == 0:
                self.grid = self._curve_grid(declared @ self.accountant.prices)
            if not declared.any(1).all():
                raise PluginError("the solver's cost() declares no samples: the trial would never end")
            fits = self.accountant.fits(oracle.live, declared)
            if not fits.all():
                self._measure(state, ~fits)
                self._output(state, ~fits)
                keep = _selection(fits)
                solver, state, declared = solver.at(keep), state.at(keep), declared[fits]
                oracle.begin(iteration, keep)
            if not oracle.trials:
                return
            begun = time.perf_counter()
            self.accountant.open(oracle.live, declared)
            stepped = self._step(solver, state)
            self.accountant.close()
            share = (time.perf_counter() - begun) / oracle.trials
            for n in oracle.live:
                self.results[n].upper_iterations += 1
                self.results[n].seconds += share
            good = self._diverged(state, stepped)
            iteration += 1
            keep = _selection(good)
            solver, state = solver.at(keep), stepped.at(keep)
            oracle.begin(iteration, keep)
            self._measure(state, self._due())

    def _step(self, solver: Solver[Any], state: State) -> State:
        """One upper iteration; by example, from what the examples of the mini-batch were left with."""
        stepped: State
        if self.memory is None:
            stepped = solver.step(self.oracle, state)
            return stepped
        live, rows = self.oracle.live, self.oracle.mini_batch
        stepped = solver.step(self.oracle, self.memory.recall(state, live, rows))
        self.memory.keep(stepped, live, rows)
        return stepped

    def _diverged(self, before: State, after: State) -> np.ndarray:
        """Which trials go on; the others are recorded as diverged, with the reason."""
        finite = after.finite()
        if self.rules.system_failure == "diverge":
            finite = {"the linear system": ~self.oracle.system_failed} | finite
        good = np.ones(self.oracle.trials, dtype=bool)
        for name, mask in finite.items():
            for local in np.flatnonzero(~mask.cpu().numpy() & good):
                result = self.results[self.oracle.live[local]]
                result.state = "diverged"
                result.reason = f"{name} not finite at upper iteration {self.oracle.iteration}"
                good[local] = False
        for local in self.oracle.system_failed.nonzero().flatten().tolist():
            self.results[self.oracle.live[local]].system_fallbacks += 1
        self._output(before, ~good)
        return good

    def _output(self, state: State, leaving: np.ndarray) -> None:
        for local in np.flatnonzero(leaving):
            n = self.oracle.live[local]
            if self.results[n].state != "diverged" or self.rules.divergence == "last":
                self.outputs[n] = state.x[local].clone()
            elif self.rules.divergence == "x0":
                self.outputs[n] = self.x0

    def _due(self) -> np.ndarray:
        """Which running trials have passed a point of the curve's grid since their last one."""
        live = self.oracle.live
        reached = (self.grid[live] <= self.accountant.spent[live, None]).sum(1)
        due = reached > self.passed[live]
        self.passed[live] = reached
        return np.asarray(due)

    def _curve_grid(self, first: np.ndarray) -> np.ndarray:
        """Points of the budget for each trial, shape (N, curves), from its first upper iteration on."""
        first = np.minimum(first, self.rules.budget)[:, None]
        points: np.ndarray = first * (self.rules.budget / first) ** np.linspace(0, 1, self.rules.curves)
        return points

    def _measure(self, state: State, due: np.ndarray) -> None:
        """A point of the curve of the trials that are due, once per upper iteration at most."""
        curves = [self.results[n].curve for n in self.oracle.live]
        done = [self.results[n].upper_iterations for n in self.oracle.live]
        due = due & np.array(
            [not c or c[-1]["upper_iteration"] < s for c, s in zip(curves, done, strict=True)], dtype=bool
        )
        if not self.rules.curves or not due.any():
            return
        keep = _selection(due)
        chosen = state.at(keep)
        live = self.oracle.live[due]
        for n, metrics in zip(live, self.problem.metrics(chosen.x, chosen.y), strict=True):
            result = self.results[n]
            point = {"upper_iteration": result.upper_iterations, "seconds": result.seconds}
            result.curve.append(point | self._ledger(n) | metrics)

    def _ledger(self, n: int) -> dict[str, float]:
        kinds = {kind: int(used) for kind, used in zip(KINDS, self.accountant.ledger[n], strict=True)}
        return kinds | {"total": float(self.accountant.spent[n])}

    def score(self) -> None:
        """Evaluate the outputs; trials ranked last are not evaluated."""
        chosen = [n for n, output in enumerate(self.outputs) if output is not None]
        begun = time.perf_counter()
        points = [output for output in self.outputs if output is not None]
        metrics = self.problem.evaluate_pack(torch.stack(points)) if points else []
        share = (time.perf_counter() - begun) / max(len(chosen), 1)
        for n, result in enumerate(self.results):
            result.ledger = self._ledger(n)
            result.objective = float("inf")
        for n, values in zip(chosen, metrics, strict=True):
            result = self.results[n]
            result.metrics, result.objective = values, values[self.problem.objective]
            result.evaluation_samples, result.evaluation_seconds = self.problem.evaluation_samples, share


def _selection(mask: np.ndarray) -> slice | Tensor:
    """A boolean mask as a slice where it is one run of trials, so that nothing is copied."""
    kept = np.flatnonzero(mask)
    if len(kept) == 0:
        return slice(0, 0)
    if kept[-1] - kept[0] + 1 == len(kept):
        return slice(int(kept[0]), int(kept[-1]) + 1)
    return torch.from_numpy(kept)


def first_cost(
    problem: Problem, solver: type[Solver[Any]], configs: Sequence[Mapping[str, Any]]
) -> np.ndarray:
    """Declared samples of each configuration's first upper iteration, shape (N,)."""
    device = torch.device("cpu")
    streams = Streams(0, problem.lower_examples, problem.upper_examples, device)
    accountant = Accountant(len(configs), 0, dict.fromkeys(KINDS, 1.0))
    packed = solver.pack(configs, device, torch.float64)
    start = (torch.zeros(problem.dim_x), torch.zeros(problem.dim_y))
    oracle = Oracle(problem, streams, accountant, start, packed.mini_batch_size)
    return np.asarray(packed.cost(oracle).table(len(configs)).sum(1))


def run_pack(
    problem: Problem,
    solver: type[Solver[Any]],
    configs: Sequence[Mapping[str, Any]],
    rules: Rules,
    device: torch.device,
    dtype: torch.dtype,
) -> list[Result]:
    """Results in the order of `configs`, which must agree on every shared parameter.

    Inside, the trials run in order of falling cost, so that the ragged loop drops trailing ones."""
    order = np.argsort(-first_cost(problem, solver, configs), kind="stable")
    run = _Run(problem, solver, [configs[n] for n in order], rules, device, dtype)
    run.search()
    run.score()
    return [run.results[place] for place in np.argsort(order)]
