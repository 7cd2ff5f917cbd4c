"""`harness run`: a study from its options, its plan, and its launch."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict
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
from harness.sizing import auto_pack
from harness.solver import Solver
from harness.space import Space, SpaceFile, find_space
from harness.spec import SolverSpec, StudySpec
from harness.study import Executor, Study, locked
from harness.worker import Context, make_context, set_up

INTERRUPTED = 130
PILOT_CONFIGURATIONS = 4


def run_study(**given: Any) -> int:
    plugins = Plugins(given["plugins"])
    context = make_context(given, plugins)
    one_of("--executor", given["executor"], ("ray", "inline"))
    workers = _workers(given, context.device)
    space_file = find_space(given["problem"], given["space"])
    solvers = {name: plugins.solver(name) for name in _names(given["solvers"], space_file, plugins)}
    spec = make_spec(given, context, solvers, space_file, plugins)
    pack = _pack(given["pack"])
    problem = set_up(plugins, context)
    size = pack or auto_pack(problem, context.device, workers, spec.trials * len(solvers))
    if given["dry_run"]:
        _plan(spec, problem, solvers, size, workers, context.device)
        return 0
    out = given["out"]
    with locked(out, spec):
        study = Study(out, spec, problem, solvers, size)
        if not study.finished():
            try:
                with shown(study):
                    _executor(given["executor"], context, workers, given["address"])(study)
            except KeyboardInterrupt:
                sys.stderr.write(
                    f"interrupted: what is recorded in {out} is safe; the same command goes on from there\n"
                )
                return INTERRUPTED
        typer.echo(f"{out}: {_count(study)}; next: harness report {out}")
    return 0


def _executor(kind: str, context: Context, workers: int, address: str | None) -> Executor:
    if kind == "inline":
        return inline(context)
    from harness.ray_executor import on_ray

    return on_ray(context, workers, address)


def _count(study: Study) -> str:
    total = sum(tally.told for tally in study.tallies.values())
    lost = sum(tally.states["failed"] for tally in study.tallies.values())
    return f"{total} trials recorded, {lost} failed"


def _workers(given: Mapping[str, Any], device: str) -> int:
    if given["executor"] == "inline":
        return 1
    if given["workers"] is None:
        return default_workers(device, given["address"])
    workers: int = positive("--workers", given["workers"])
    return workers


def _pack(text: str) -> int:
    """0 for auto."""
    if text == "auto":
        return 0
    if not text.isdigit() or int(text) < 1:
        raise HarnessError(f"--pack must be a number of trials, 1 or above, or auto, but got {text!r}")
    return int(text)


def _names(text: str, space: SpaceFile, plugins: Plugins) -> list[str]:
    if not text:
        return [name for name in space.solvers() if name in plugins.names("solver")]
    names = [name.strip() for name in text.split(",") if name.strip()]
    if len(set(names)) < len(names) or not names:
        raise HarnessError(f"--solvers must be different names with commas between, but got {text!r}")
    return names


def make_spec(
    given: Mapping[str, Any],
    context: Context,
    solvers: Mapping[str, type[Solver[Any]]],
    space_file: SpaceFile,
    plugins: Plugins,
) -> StudySpec:
    problem = plugins.problem(context.problem)
    spaces = {name: space_file.space(name, plugin) for name, plugin in solvers.items()}
    spec = StudySpec(
        problem=context.problem,
        options=context.options,
        rules=context.rules,
        trials=positive("--trials", given["trials"]),
        data_seed=context.data_seed,
        search_seed=context.rules.seed
        if given["search_seed"] is None
        else not_negative("--search-seed", given["search_seed"]),
        sampler=one_of("--sampler", given["sampler"], SAMPLERS),
        metrics={name: asdict(metric) for name, metric in problem.metric_names.items()},
        objective=problem.objective,
        headline=problem.headline,
        solvers={name: _solver_spec(plugin, spaces[name]) for name, plugin in solvers.items()},
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


def _solver_spec(plugin: type[Solver[Any]], space: Space) -> SolverSpec:
    known = {n: {"symbol": p.symbol, "meaning": p.meaning} for n, p in parameters(plugin).items()}
    return SolverSpec(label=plugin.label, reference=plugin.reference, parameters=known, space=space.entries)


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
    size: int,
    workers: int,
    device: str,
) -> None:
    trials = spec.trials * len(solvers)
    typer.echo(f"problem {spec.problem}, options {spec.options}")
    for name, solver in spec.solvers.items():
        drawn = [key for key, entry in solver.space.items() if "low" in entry or "choices" in entry]
        typer.echo(f"solver {name}: {spec.trials} configurations of {', '.join(drawn) or 'one fixed point'}")
    typer.echo(f"packs of at most {size} on {workers} workers: about {-(-trials // size)}")
    evaluation = trials * problem.evaluation_samples
    typer.echo(f"samples: at most {trials * spec.rules.budget:,.0f}, and {evaluation:,.0f} in evaluations")
    typer.echo(f"memory: about {problem.memory(size) * workers / 2**20:,.0f} MiB for {workers} workers")
    search, scoring = _pilot(spec, problem, solvers, device)
    minutes = trials * (search * spec.rules.budget + scoring) / workers / 60
    typer.echo(f"time: about {minutes:,.1f} minutes by one short trial alone; packs are usually faster")


def _pilot(
    spec: StudySpec, problem: Problem, solvers: Mapping[str, type[Solver[Any]]], device: str
) -> tuple[float, float]:
    """Seconds per sample and per evaluation, of the cheapest of a few configurations on a small budget."""
    name, plugin = next(iter(solvers.items()))
    space = spec.spaces()[name]
    drawing = optuna.create_study(sampler=sampler(spec.sampler, spec.search_seed, name, spec.spaces(), 0))
    few = min(spec.trials, PILOT_CONFIGURATIONS)
    configs = [space.resolve(drawing.ask(space.distributions()).params) for _ in range(few)]
    costs = np.array([first_cost(problem, plugin, [config])[0] for config in configs])
    budget = max(float(costs.min()), spec.rules.budget / 50)
    rules = Rules(budget, {}, spec.rules.seed, curves=0)
    cheapest = [configs[costs.argmin()]]
    (result,) = run_pack(problem, plugin, cheapest, rules, torch.device(device), problem.dtype)
    return result.seconds / max(result.ledger["total"], 1.0), result.evaluation_seconds
