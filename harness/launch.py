"""`harness run`: a study from its options, its plan, and its launch."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
import typer

from harness.draws import SAMPLERS, grid_size, sampler
from harness.errors import HarnessError
from harness.executors import default_workers, inline
from harness.options import not_negative, one_of, positive
from harness.params import parameters
from harness.plugins import Plugins, fingerprint
from harness.problem import Problem
from harness.progress import shown
from harness.rules import Rules
from harness.runner import first_cost, run_pack
from harness.sizing import Packing, auto_packing, pack_bytes
from harness.solver import Solver, oversized, require_defined
from harness.space import Space, SpaceFile, find_space
from harness.spec import SolverSpec, StudySpec
from harness.study import Executor, Study, locked
from harness.worker import Context, set_up

INTERRUPTED = 130
PILOT_CONFIGURATIONS = 4


@dataclass(frozen=True)
class Search:
    """Which configurations a study draws.

    trials: of each solver. solvers: names with commas, or "" for all of the search space. space: a search
    space instead of the shipped one. seed: of the draws; None: the study's. published: trial 0 of each solver
    is its published configuration, where the space has one.
    """

    trials: int
    solvers: str
    space: Path | None
    sampler: str
    seed: int | None
    published: bool

    def __post_init__(self) -> None:
        positive("--trials", self.trials)
        one_of("--sampler", self.sampler, SAMPLERS)
        if self.seed is not None:
            not_negative("--search-seed", self.seed)
        if self.published and self.sampler not in ("random", "sobol"):
            raise HarnessError(f"--published goes with the samplers random and sobol, not {self.sampler}")


@dataclass(frozen=True)
class Execution:
    """Where packs run. workers: packs at once; None: as many as the device carries. pack: trials, or auto."""

    executor: str
    workers: int | None
    address: str | None
    pack: str

    def __post_init__(self) -> None:
        one_of("--executor", self.executor, ("ray", "inline"))
        if self.workers is not None:
            positive("--workers", self.workers)
        if self.pack != "auto" and not (self.pack.isdecimal() and int(self.pack)):
            raise HarnessError(
                f"--pack must be a number of trials, 1 or above, or auto, but got {self.pack!r}"
            )

    def workers_on(self, device: str) -> int:
        if self.executor == "inline":
            return 1
        return self.workers or default_workers(device, self.address)

    def executor_of(self, context: Context) -> Executor:
        if self.executor == "inline":
            return inline(context)
        from harness.ray_executor import on_ray

        return on_ray(context, self.workers_on(context.device), self.address)


def run_study(context: Context, search: Search, execution: Execution, out: Path, dry_run: bool) -> int:
    plugins = context.find_plugins()
    workers = execution.workers_on(context.device)
    space_file = find_space(context.problem, search.space)
    solvers = {name: plugins.solver(name) for name in _names(search.solvers, space_file, plugins)}
    for solver in solvers.values():
        require_defined(solver, plugins.problem(context.problem))
    spec = make_spec(context, search, plugins.problem(context.problem), solvers, space_file)
    problem = set_up(plugins, context)
    for solver in solvers.values():
        require_defined(solver, problem)
    for name, space in spec.spaces().items():
        most = {
            key: entry[k] for key, entry in space.entries.items() for k in ("value", "high") if k in entry
        }
        for words in oversized(problem, most):
            typer.echo(f"note: {name}: {words}")
    total = spec.trials * len(solvers)
    automatic = execution.pack == "auto"
    stops = len(spec.rules.evaluate_at)
    packing = (
        auto_packing(context.device, workers, total, stops)
        if automatic
        else Packing(int(execution.pack), stops=stops)
    )
    if dry_run:
        _plan(spec, problem, solvers, packing, workers, context.device)
        return 0
    with locked(out, spec) as whole:
        study = Study(out, whole, problem, solvers, packing)
        if not study.finished():
            try:
                with shown(study):
                    execution.executor_of(context)(study)
            except KeyboardInterrupt:
                sys.stderr.write(
                    f"interrupted: what is recorded in {out} is safe; the same command goes on from there\n"
                )
                return INTERRUPTED
        typer.echo(f"{out}: {_count(study)}; next: harness report {out}")
    return 0


def _count(study: Study) -> str:
    total = sum(tally.told for tally in study.tallies.values())
    lost = sum(tally.states["failed"] for tally in study.tallies.values())
    return f"{total} trials recorded, {lost} failed"


def _names(text: str, space: SpaceFile, plugins: Plugins) -> list[str]:
    if not text:
        return [name for name in space.solvers() if name in plugins.names("solver")]
    names = [name.strip() for name in text.split(",") if name.strip()]
    if len(set(names)) < len(names) or not names:
        raise HarnessError(f"--solvers must be different names with commas between, but got {text!r}")
    return names


def make_spec(
    context: Context,
    search: Search,
    problem: type[Problem],
    solvers: Mapping[str, type[Solver[Any]]],
    space_file: SpaceFile,
) -> StudySpec:
    spaces = {name: space_file.space(name, plugin) for name, plugin in solvers.items()}
    spec = StudySpec(
        problem=context.problem,
        options=context.options,
        rules=context.rules,
        trials=search.trials,
        data_seed=context.data_seed,
        search_seed=context.rules.seed if search.seed is None else search.seed,
        sampler=search.sampler,
        metrics={name: asdict(metric) for name, metric in problem.metric_names.items()},
        objective=problem.objective,
        headline=problem.headline,
        solvers={name: _solver_spec(plugin, spaces[name], search) for name, plugin in solvers.items()},
        plugins=fingerprint([Path(file) for file in context.plugins]),
        versions=_versions(context.device),
    )
    if spec.sampler == "grid":
        for space in spaces.values():
            if (size := grid_size(space)) < spec.trials:
                raise HarnessError(
                    f"--trials {spec.trials}: the grid of {space.solver!r} has {size} points; ask for fewer"
                )
    return spec


def _solver_spec(plugin: type[Solver[Any]], space: Space, search: Search) -> SolverSpec:
    known = {n: {"symbol": p.symbol, "meaning": p.meaning} for n, p in parameters(plugin).items()}
    return SolverSpec(
        label=plugin.label,
        reference=plugin.reference,
        parameters=known,
        space=space.entries,
        published=space.published if search.published else {},
        since=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _versions(device: str) -> dict[str, str]:
    found = {"python": platform.python_version(), "device": device, "machine": platform.machine()}
    for name in ("bilevel-harness", "torch", "numpy", "optuna", "ray"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def _plan(
    spec: StudySpec,
    problem: Problem,
    solvers: Mapping[str, type[Solver[Any]]],
    packing: Packing,
    workers: int,
    device: str,
) -> None:
    trials = spec.trials * len(solvers)
    typer.echo(f"problem {spec.problem}, options {spec.options}")
    for name, solver in spec.solvers.items():
        drawn = [key for key, entry in solver.space.items() if "low" in entry or "choices" in entry]
        typer.echo(f"solver {name}: {spec.trials} configurations of {', '.join(drawn) or 'one fixed point'}")
    typer.echo(f"packs of at most {packing.most} on {workers} workers: about {-(-trials // packing.most)}")
    stops = len(spec.rules.evaluate_at)
    evaluation = (
        trials * problem.evaluation_samples * (1 + bool(stops) + stops)
    )  # at most: x0 and every share
    typer.echo(f"samples: at most {trials * spec.rules.budget:,.0f}, and {evaluation:,.0f} in evaluations")
    dearest = max(_packed_bytes(spec, problem, name, solver, packing) for name, solver in solvers.items())
    typer.echo(f"memory: about {dearest * workers / 2**20:,.0f} MiB for {workers} workers")
    search, scoring = _pilot(spec, problem, solvers, device)
    minutes = trials * (search * spec.rules.budget + scoring) / workers / 60
    typer.echo(f"time: about {minutes:,.1f} minutes by one short trial alone; packs are usually faster")


def _first_configurations(spec: StudySpec, solver: str) -> list[dict[str, Any]]:
    space = spec.spaces()[solver]
    drawing = optuna.create_study(sampler=sampler(spec.sampler, spec.search_seed, solver, spec.spaces(), 0))
    few = min(spec.trials, PILOT_CONFIGURATIONS)
    return [space.resolve(drawing.ask(space.distributions()).params) for _ in range(few)]


def _packed_bytes(
    spec: StudySpec, problem: Problem, name: str, solver: type[Solver[Any]], packing: Packing
) -> float:
    """The largest pack of a solver's first configurations, each taken as often as fits."""
    return max(
        pack_bytes(problem, solver, alike[cut])
        for config in _first_configurations(spec, name)
        for alike in [[config] * packing.most]
        for cut in packing.cut(problem, solver, alike)
    )


def _pilot(
    spec: StudySpec, problem: Problem, solvers: Mapping[str, type[Solver[Any]]], device: str
) -> tuple[float, float]:
    """Seconds per sample and per evaluation, of the cheapest of a few configurations on a small budget."""
    name, plugin = next(iter(solvers.items()))
    configs = _first_configurations(spec, name)
    costs = np.array([first_cost(problem, plugin, [c], spec.rules.seed)[0] for c in configs])
    budget = max(float(costs.min()), spec.rules.budget / 50)
    rules = Rules(budget, {}, spec.rules.seed, curves=0)
    cheapest = [configs[costs.argmin()]]
    (result,) = run_pack(problem, plugin, cheapest, rules, torch.device(device), problem.dtype)
    return result.seconds / max(result.ledger["total"], 1.0), result.evaluation_seconds
