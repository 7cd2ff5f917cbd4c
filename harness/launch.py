"""`harness run`: a study from its options, its plan, and its launch."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import typer

from harness.config import write_config
from harness.door import require_declared
from harness.draws import SAMPLERS, grid_size
from harness.errors import HarnessError
from harness.executors import default_workers, inline, on_ray
from harness.folder import locked
from harness.interrupt import as_interrupts
from harness.options import DEFAULTS, at_most, names, one_of, valid_seed
from harness.params import parameters
from harness.plan import print_plan
from harness.plugins import Plugins, fingerprint
from harness.problem import Problem
from harness.progress import shown
from harness.repair import Again
from harness.share import WHOLE, Share
from harness.sizing import Packing, auto_packing, devices, free_memory
from harness.solver import Solver, oversized, require_defined
from harness.space import PUBLISHED, Space, SpaceFile, find_space
from harness.spec import SolverSpec, StudySpec
from harness.study import Executor, Study
from harness.worker import Context, Worker, set_up

INTERRUPTED = 130
MOST_TRIALS, MOST_WORKERS = 1_000_000, 10_000
"""Of a solver, and at once."""


@dataclass(frozen=True)
class Search:
    """Which configurations a study draws.

    trials: of each solver. solvers: names with commas, or "" for all of the search space. space: a search
    space instead of the shipped one. seed: of the draws; None: the study's. published: trial 0 of each solver
    is its published configuration, where the space has one. alone: there is nothing else, and no solver
    without one.
    """

    trials: int
    solvers: str
    space: Path | None
    sampler: str
    seed: int | None
    published: bool
    alone: bool = False

    def __post_init__(self) -> None:
        at_most("--trials", self.trials, MOST_TRIALS)
        one_of("--sampler", self.sampler, SAMPLERS)
        if self.seed is not None:
            valid_seed("--search-seed", self.seed)
        if self.published and self.sampler not in ("random", "sobol"):
            raise HarnessError(f"--published goes with the samplers random and sobol, not {self.sampler}")


@dataclass(frozen=True)
class Execution:
    """Where packs run. workers: packs at once; None: as many as the device carries. pack: trials at most, as
    memory allows, or auto. share: of the trials that run here."""

    executor: str
    workers: int | None
    address: str | None
    pack: str
    share: Share = WHOLE

    def __post_init__(self) -> None:
        one_of("--executor", self.executor, ("ray", "inline"))
        if self.workers is not None:
            at_most("--workers", self.workers, MOST_WORKERS)
        if self.pack != "auto":
            if not (self.pack.isdecimal() and len(self.pack) < 20):
                raise HarnessError(f"--pack must be a number of trials, or auto, but got {self.pack[:40]!r}")
            at_most("--pack", int(self.pack), MOST_TRIALS)

    def workers_on(self, device: str) -> int:
        if self.executor == "inline":
            return 1
        return self.workers or default_workers(device, self.address)

    def packing_of(self, device: str, spec: StudySpec) -> Packing:
        stops = len(spec.rules.evaluate_at)
        total = sum(map(spec.trials_of, spec.solvers))
        fitting = auto_packing(device, self.workers_on(device), total, stops)
        return fitting if self.pack == "auto" else replace(fitting, most=int(self.pack))

    def executor_of(self, context: Context) -> Executor:
        if self.executor == "inline":
            return inline(context)
        return on_ray(context, self.workers_on(context.device), self.address)


@dataclass(frozen=True)
class Taken:
    """What a study or a trial takes where nothing is given. said: in words."""

    budget: float
    trials: int
    out: Path
    said: str

    def say(self) -> None:
        if self.said:
            sys.stderr.write(f"taken: {self.said}\n")


def with_defaults(
    problem: str,
    plugins: Sequence[Path],
    budget: float | None,
    trials: int | None = 1,
    out: Path | None = Path(),
) -> Taken:
    """A problem's budget and number of trials, and runs/PROBLEM-DATE, where none is given (None)."""
    plugin = Plugins(plugins).problem(problem)
    found = Taken(
        plugin.default_budget if budget is None else budget,
        plugin.default_trials if trials is None else trials,
        Path("runs") / f"{problem}-{datetime.now():%Y-%m-%d}" if out is None else out,
        "",
    )
    said = [
        *([f"--budget {found.budget:.0f}"] if budget is None else []),
        *([f"--trials {found.trials}"] if trials is None else []),
        *([f"--out {found.out}"] if out is None else []),
    ]
    return replace(found, said=" ".join(said))


def save_study(path: Path, context: Context, search: Search) -> int:
    """A study file of all that a study's numbers depend on."""
    rules = context.rules
    own = {
        "problem": context.problem,
        "solvers": search.solvers,
        "trials": DEFAULTS if search.alone else search.trials,
        "budget": rules.budget,
        "seed": rules.seed,
        "data_seed": None if context.data_seed == rules.seed else context.data_seed,
        "search_seed": search.seed,
        "sampler": search.sampler,
        "published": search.published,
        "space": str(search.space) if search.space else None,
        "plugin": context.plugins,
        "divergence": rules.divergence,
        "system_failure": rules.system_failure,
        "trial_timeout": context.trial_timeout,
        "curves": rules.curves,
        "evaluate_at": ",".join(f"{share:g}" for share in rules.evaluate_at) or None,
        "set": context.options,
        "price": {kind: price for kind, price in rules.prices.items() if price != 1},
    }
    write_config(path, own)
    typer.echo(f"{path}: written; next: harness run --config {path}")
    return 0


def run_study(
    context: Context,
    search: Search,
    execution: Execution,
    out: Path,
    dry_run: bool,
    retry: bool = False,
    redo: str = "",
) -> int:
    plugins = context.find_plugins()
    workers = execution.workers_on(context.device)
    space_file = find_space(context.problem, search.space, plugins.names("solver"))
    solvers = {name: plugins.solver(name) for name in _names(search, space_file, plugins)}
    require_declared(plugins.problem(context.problem))
    for solver in solvers.values():
        require_defined(solver, plugins.problem(context.problem))
    spec = make_spec(context, search, plugins.problem(context.problem), solvers, space_file)
    if execution.share != WHOLE and spec.sampler == "tpe":
        raise HarnessError("--shard: tpe learns from all trials; use the sampler random, sobol or grid")
    problem = _set_up(context, dry_run)
    for solver in solvers.values():
        require_defined(solver, problem)
    for name, space in spec.spaces().items():
        largest = space.largest()
        if space_file.where[name] == str(search.space):
            asked = {key: largest[key] for key in space_file.tables[name] if key in largest}
            for words in oversized(problem, asked):
                raise HarnessError(f"{search.space} [{name}]: {words}; give at most so many")
        for words in oversized(problem, largest):
            typer.echo(f"note: {name}: {words}: all of them are taken")
    packing = execution.packing_of(context.device, spec)
    if dry_run:
        packing = packing.on(free_memory(context.device), min(1.0, devices(context.device) / workers))
        print_plan(
            spec,
            problem,
            solvers,
            packing,
            workers,
            context.device,
            out,
            execution.executor == "ray",
            execution.share,
        )
        return 0
    again = Again(list(solvers), retry, _redone(redo, solvers))
    with locked(out, spec, again) as whole:
        study = Study(out, whole, problem, solvers, packing, execution.share)
        if not carried_out(study, context, execution):
            return INTERRUPTED
        typer.echo(f"{out}: {_count(study)}; next: harness report {out}")
    return 0


def carried_out(study: Study, context: Context, execution: Execution) -> bool:
    """Run what is left of a study; False where it was interrupted, which is said."""
    if study.finished():
        return True
    as_interrupts()
    try:
        study.stage = "Ray starts" if execution.executor == "ray" else "reading the data"
        with shown(study):
            execution.executor_of(context)(study)
    except KeyboardInterrupt:
        sys.stderr.write(
            f"interrupted: what is recorded in {study.folder} is safe; the same command goes on from there\n"
        )
        return False
    return True


def _set_up(context: Context, dry_run: bool) -> Problem:
    """The problem with its data, on the CPU: a driver asks for its sizes. For a plan in a process that is set
    up as a worker's."""
    if not dry_run:
        return set_up(context.find_plugins(), replace(context, device="cpu"))
    sys.stderr.write(f"reading the data of {context.problem} ...\n")
    return Worker(context).problem


def _count(study: Study) -> str:
    total = sum(tally.told for tally in study.tallies.values())
    lost = sum(tally.states["failed"] for tally in study.tallies.values())
    return f"{total} trials recorded, {lost} failed"


def _names(search: Search, space: SpaceFile, plugins: Plugins) -> list[str]:
    names = _named(search.solvers, space, plugins)
    if not search.alone:
        return names
    found = [name for name in names if space.tables.get(name, {}).get(PUBLISHED)]
    if not found or (search.solvers and found != names):
        missing = [name for name in names if name not in found]
        raise HarnessError(
            f"--trials {DEFAULTS}: problem {space.problem!r} has no published configuration of "
            f"{', '.join(missing)}; write [SOLVER.{PUBLISHED}] in a file of yours and give it by --space"
        )
    return found


def _named(text: str, space: SpaceFile, plugins: Plugins) -> list[str]:
    if not text:
        found = [name for name in space.solvers() if name in plugins.names("solver")]
        if not found:
            raise HarnessError(
                f"no search space is shipped for problem {space.problem!r}; give one with --space FILE.toml"
            )
        return found
    given = names(text)
    if len(set(given)) < len(given) or not given:
        raise HarnessError(f"--solvers must be different names with commas between, but got {text!r}")
    return list(given)


def _redone(text: str, solvers: Iterable[str]) -> list[str]:
    found = names(text)
    for name in found:
        one_of("--redo", name, list(solvers))
    return list(found)


def make_spec(
    context: Context,
    search: Search,
    problem: type[Problem],
    solvers: Mapping[str, type[Solver[Any]]],
    space_file: SpaceFile,
) -> StudySpec:
    spaces = {name: space_file.space(name, plugin) for name, plugin in solvers.items()}
    plugins, marks = context.find_plugins(), fingerprint([Path(file) for file in context.plugins])
    sources = {name: marks.get(plugins.get("solver", name).origin, "") for name in solvers}
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
        solvers={n: _solver_spec(plugin, spaces[n], search, sources[n]) for n, plugin in solvers.items()},
        plugins=marks,
        source=marks.get(plugins.get("problem", context.problem).origin, ""),
        versions=versions(context.device),
        defaults={name: option.default for name, option in parameters(problem).items()},
    )
    if spec.sampler == "grid":
        for space in spaces.values():
            if (size := grid_size(space)) < spec.trials:
                raise HarnessError(
                    f"--trials {spec.trials}: the grid of {space.solver!r} has {size} points; ask for fewer"
                )
    return spec


def _solver_spec(plugin: type[Solver[Any]], space: Space, search: Search, source: str) -> SolverSpec:
    known = {n: {"symbol": p.symbol, "meaning": p.meaning} for n, p in parameters(plugin).items()}
    return SolverSpec(
        label=plugin.label,
        reference=plugin.reference,
        parameters=known,
        space=space.entries,
        published=space.published if search.published else {},
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        source=source,
        defaults={
            n: p.default for n, p in parameters(plugin).items() if n in space.entries and not p.required
        },
    )


def versions(device: str) -> dict[str, str]:
    found = {"python": platform.python_version(), "device": device, "machine": platform.machine()}
    for name in ("bilevel-harness", "torch", "numpy", "optuna", "ray"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found
