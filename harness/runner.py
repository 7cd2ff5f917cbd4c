"""Run a pack: N trials of one solver side by side, from their configurations to their results.

This is the only loop over upper iterations. It knows neither Ray nor the record.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.budget import KINDS, Accountant
from harness.errors import PluginError
from harness.meter import Meter
from harness.oracle import Oracle
from harness.place import first_place
from harness.problem import Problem
from harness.recall import ByBatch, ByExample
from harness.result import Result
from harness.rules import Rules
from harness.solver import Solver, State, require_defined
from harness.stops import Stop, Stops
from harness.streams import Streams


class Run:
    """The search of one pack; `outputs[n]` is the x and y at which trial n will be evaluated."""

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
        x0, y0 = (value.to(device, dtype) for value in problem.initial(rules.seed))
        streams = Streams(rules.seed, problem.lower_examples, problem.upper_examples, device)
        self.accountant = Accountant(len(configs), rules.budget, rules.prices)
        self.solver = solver.pack(configs, device, dtype)
        self.meter = Meter(problem, streams, self.accountant, (x0, y0), self.solver.size_of("lower"))
        self.oracle = Oracle.of(self.meter)
        self.results = [Result(config=dict(config), pack=len(configs)) for config in configs]
        self.outputs: list[tuple[Tensor, Tensor] | None] = [None] * len(configs)
        self.start = x0, y0
        self.examples: ByExample | None = None
        self.batches: ByBatch | None = None
        self.iterations = np.zeros(len(configs), dtype=np.int64)
        self.fallbacks = np.zeros(len(configs), dtype=np.int64)
        self.seconds = np.zeros(len(configs))
        self.measured = np.full(len(configs), -1)
        self.grid = np.empty((len(configs), 0))
        self.next_point = np.full(len(configs), np.inf)
        self.stops = Stops(rules.evaluate_at, len(configs))

    def search(self) -> None:
        """Upper iterations, until no trial can afford its next one."""
        meter, solver = self.meter, self.solver
        with meter.watching():
            state = self.begin()
            self._measure(state, np.ones(meter.trials, dtype=bool))
            iteration = 0
            while meter.trials:
                declared = meter.at_work(solver.cost, meter.place).table(meter.trials)
                if iteration == 0:
                    self._curve_grid(self.accountant.priced(declared))
                self._pass_stops(state, declared)
                fits = self.accountant.fits(meter.running, declared)
                if np.count_nonzero(fits) < len(fits):
                    declared = np.broadcast_to(declared, (len(declared), meter.trials))
                    self._measure(state, ~fits)
                    self._output(state, ~fits)
                    keep = _selection(fits)
                    solver, state, declared = solver.at(keep), state.at(keep), declared[:, fits]
                    meter.begin(iteration, keep)
                    if not meter.trials:
                        return
                begun = time.perf_counter()
                stepped = self.iterate(solver, state, declared)
                ended = self._diverged(
                    state, stepped
                )  # the look that waits for a device: only then is it done
                self.seconds[meter.running] += (time.perf_counter() - begun) / meter.trials
                self.iterations[meter.running] += 1
                iteration += 1
                state = stepped
                if ended is None:
                    meter.begin(iteration)
                else:
                    keep = _selection(~ended)
                    solver, state = solver.at(keep), state.at(keep)
                    meter.begin(iteration, keep)
                self._measure_due(state)

    def begin(self) -> State:
        """The state before the first upper iteration."""
        state: State = self.meter.at_work(self.solver.init, self.oracle)
        self._remember(state)
        return state

    def iterate(self, solver: Solver[Any], state: State, declared: np.ndarray) -> State:
        """One upper iteration of the trials that run, granted what they declare (5, N)."""
        self.accountant.open(self.meter.running, declared)
        stepped = self._step(solver, state)
        self.accountant.close()
        return stepped

    # --- what is remembered for the solver

    def _remember(self, state: State) -> None:
        solver = self.solver
        if self.problem.by_example:
            sizes = (self.problem.upper_examples, self.problem.dim_y)
            self.examples = ByExample(state, solver.warm_starts, *sizes)
        if solver.tables:
            self.batches = ByBatch(
                state,
                {
                    name: self.meter.place.parts(level, solver.size_of(level))
                    for name, level in solver.tables.items()
                },
            )

    def _parts(self) -> dict[str, int]:
        """By table, the batch of the partition that this upper iteration meets."""
        solver, place = self.solver, self.meter.place
        return {name: place.part(level, solver.size_of(level)) for name, level in solver.tables.items()}

    def _step(self, solver: Solver[Any], state: State) -> State:
        """One upper iteration, from what its examples and batches were left with."""
        live = self.meter.live
        if self.examples is not None:
            state = self.examples.recall(state, live, self.meter.mini_batch)
        if self.batches is not None:
            state = self.batches.recall(state, live, self._parts())
        stepped: State = self.meter.at_work(solver.step, self.oracle, state)
        if self.examples is not None:
            self.examples.keep(stepped, live, self.meter.mini_batch)
        if self.batches is not None:
            self.batches.keep(stepped, live, self._parts())
        return stepped

    # --- how trials end

    def _diverged(self, before: State, after: State) -> np.ndarray | None:
        """Which trials end here, recorded as diverged, with the reason; None: none does."""
        noted, total = self.meter.system_failed, after.total()
        if noted is not None:
            total = torch.where(noted.any(), math.nan, total)
        if math.isfinite(float(total)):  # the one look at a device
            return None
        ending = ~after.finite().cpu().numpy()
        reasons = {int(n): after.not_finite(int(n)) for n in np.flatnonzero(ending)}
        if noted is not None:
            fallen = noted.cpu().numpy()
            self.fallbacks[self.meter.live[fallen]] += 1
            if self.rules.system_failure == "diverge":
                ending |= fallen
                reasons |= dict.fromkeys(np.flatnonzero(fallen).tolist(), "the linear system")
        for local, what in reasons.items():
            result = self.results[self.meter.live[local]]
            result.state = "diverged"
            result.reason = f"{what} not finite at upper iteration {self.meter.place.iteration}"
        self._output(before, ending)
        return ending

    def _output(self, state: State, leaving: np.ndarray) -> None:
        for local in np.flatnonzero(leaving):
            n = self.meter.live[local]
            if self.results[n].state != "diverged" or self.rules.divergence == "last":
                self.outputs[n] = self._held(state.x[local].clone(), state.y[local])
            elif self.rules.divergence == "x0":
                self.outputs[n] = self._held(*self.start)

    def _held(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What an evaluation is given of x and y."""
        return x, y.new_empty(0) if self.problem.by_example else y.clone()

    def _pass_stops(self, state: State, declared: np.ndarray) -> None:
        """Keep where trials stand that have come to a share of the budget at which x is judged."""

        def stop(local: int, share: float) -> Stop:
            n = self.meter.live[local]
            point = self._place(n) | self._ledgers()[n]
            return Stop(
                share, int(self.iterations[n]), point, self._held(state.x[local].clone(), state.y[local])
            )

        if self.rules.evaluate_at:
            self.stops.pass_by(self.meter.live, self.meter.running, declared, self.accountant, stop)

    # --- curves

    def _curve_grid(self, first: np.ndarray) -> None:
        """Points of the budget for each trial, shape (N, curves), from its first upper iteration on."""
        if self.rules.curves:
            first = np.minimum(first, self.rules.budget)[:, None] * np.ones((len(self.results), 1))
            self.grid = first * (self.rules.budget / first) ** np.linspace(0, 1, self.rules.curves)
            self.next_point = self.grid[:, 0]

    def _measure_due(self, state: State) -> None:
        """A point of the curve of the running trials that have passed one of their grid since the last."""
        running, spent = self.meter.running, self.accountant.spent
        due = self.next_point[running] <= spent[running]
        if np.count_nonzero(due):
            self._measure(state, due)
            for n in self.meter.live[due]:
                passed = int((self.grid[n] <= spent[n]).sum())
                self.next_point[n] = self.grid[n, passed] if passed < self.rules.curves else np.inf

    def _measure(self, state: State, due: np.ndarray) -> None:
        """A point of the curve of the trials that are due, once per upper iteration at most."""
        live = self.meter.live
        due = due & (self.measured[live] < self.iterations[live])
        if not self.rules.curves or not due.any():
            return
        chosen, ledgers = state.at(_selection(due)), self._ledgers()
        for n, metrics in zip(live[due], self.problem.metrics(chosen.x, chosen.y), strict=True):
            point = self._place(n) | ledgers[n]
            if taken := sorted(point.keys() & metrics.keys()):
                raise PluginError(f"metrics gives {', '.join(taken)}, which is the ledger's or the clock's")
            self.results[n].curve.append(point | metrics)
        self.measured[live[due]] = self.iterations[live[due]]

    def _place(self, n: int) -> dict[str, float]:
        return {"upper_iteration": int(self.iterations[n]), "seconds": float(self.seconds[n])}

    def _ledgers(self) -> list[dict[str, float]]:
        """Samples used by kind and priced in total, of every trial."""
        rows = zip(self.accountant.ledger.tolist(), self.accountant.spent.tolist(), strict=True)
        return [dict(zip(KINDS, used, strict=True)) | {"total": total} for used, total in rows]

    # --- evaluation

    def score(self) -> None:
        """Evaluate the outputs; trials ranked last are not evaluated."""
        chosen = [(n, output) for n, output in enumerate(self.outputs) if output is not None]
        begun = time.perf_counter()
        metrics: list[dict[str, float]] = []
        if chosen:
            x, y = (torch.stack(part) for part in zip(*(output for _, output in chosen), strict=True))
            metrics = self.problem.evaluate_pack(x, y)
        share = (time.perf_counter() - begun) / max(len(chosen), 1)
        for n, (result, ledger) in enumerate(zip(self.results, self._ledgers(), strict=True)):
            result.ledger = ledger
            result.objective = float("inf")
            result.upper_iterations, result.seconds = int(self.iterations[n]), float(self.seconds[n])
            result.system_fallbacks = int(self.fallbacks[n])
        for (n, _), values in zip(chosen, metrics, strict=True):
            result = self.results[n]
            result.metrics, result.objective = values, values[self.problem.objective]
            result.evaluation_samples, result.evaluation_seconds = self.problem.evaluation_samples, share
        unscored = dict.fromkeys(self.problem.metric_names, float("nan")) | {
            self.problem.objective: float("inf")
        }
        end = [
            self._place(n) | result.ledger | (result.metrics or unscored)
            for n, result in enumerate(self.results)
        ]
        judged = self.stops.judge(self.problem, self._held(*self.start), self.iterations, end)
        for result, points in zip(self.results, judged, strict=True):
            result.evaluations = points


def _selection(mask: np.ndarray) -> slice | Tensor:
    """A boolean mask as a slice where it is one run of trials, so that nothing is copied."""
    kept = np.flatnonzero(mask)
    if len(kept) == 0:
        return slice(0, 0)
    if kept[-1] - kept[0] + 1 == len(kept):
        return slice(int(kept[0]), int(kept[-1]) + 1)
    return torch.from_numpy(kept)


def first_cost(
    problem: Problem, solver: type[Solver[Any]], configs: Sequence[Mapping[str, Any]], seed: int
) -> np.ndarray:
    """Declared samples of each configuration's first upper iteration, shape (N,)."""
    packed = solver.pack(configs, torch.device("cpu"), torch.float64)
    place = first_place(problem, seed, packed.size_of("lower"))
    samples = packed.cost(place).table(len(configs)).sum(0, dtype=np.float64)
    return np.broadcast_to(samples, len(configs))


def run_pack(
    problem: Problem,
    solver: type[Solver[Any]],
    configs: Sequence[Mapping[str, Any]],
    rules: Rules,
    device: torch.device,
    dtype: torch.dtype,
    watch: Callable[[Accountant], None] | None = None,
) -> list[Result]:
    """Results in the order of `configs`, which must agree on every shared parameter.

    watch: called whenever something is charged.

    Inside, the trials run in order of falling cost, so that the ragged loop drops trailing ones.
    Raises HarnessError: the solver is not defined for the problem."""
    require_defined(solver, problem)
    order = np.argsort(-first_cost(problem, solver, configs, rules.seed), kind="stable")
    run = Run(problem, solver, [configs[n] for n in order], rules, device, dtype)
    if watch is not None:
        run.accountant.watch = partial(watch, run.accountant)
    run.search()
    run.score()
    return [run.results[place] for place in np.argsort(order)]
