"""What the commands do, once their options are parsed."""

from __future__ import annotations

import importlib
import json
import math
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import optuna
import torch
from rich.console import Console

from harness.budget import KINDS
from harness.draws import SAMPLERS, grid_size, sampler
from harness.errors import HarnessError, nearest
from harness.executors import auto_pack, default_workers, executor
from harness.pack import Result, Rules, first_cost, run_pack
from harness.params import check_values, parameters
from harness.plugins import Plugins, fingerprint
from harness.problem import Problem
from harness.progress import shown, tally_table
from harness.record import load_record, read_trials, result_of, told
from harness.solver import Solver
from harness.space import Space, SpaceFile, complete, find_space
from harness.spec import SolverSpec, StudySpec, read_spec
from harness.study import Study, Tally, locked
from harness.worker import Context, Pack, Worker, check_device, set_up

DIVERGENCE = ("x0", "last", "worst")
SYSTEM_FAILURE = ("start", "diverge")
INTERRUPTED = 130
PILOT_CONFIGURATIONS = 4
T = TypeVar("T", int, float)


def pairs(given: Sequence[str], where: str) -> dict[str, str]:
    """NAME=VALUE words as a dict."""
    found: dict[str, str] = {}
    for word in given:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise HarnessError(f"{where}: expected NAME=VALUE, but got {word!r}")
        if name in found:
            raise HarnessError(f"{where}: {name} is given twice")
        found[name] = value
    return found


def prices(given: Sequence[str]) -> dict[str, float]:
    table = dict.fromkeys(KINDS, 1.0)
    for kind, text in pairs(given, "--price").items():
        if kind not in table:
            raise HarnessError(f"--price: unknown kind {kind!r}; {nearest(kind, KINDS)}")
        table[kind] = positive("--price " + kind, _number(text, f"--price {kind}"))
    return table


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise HarnessError(f"{where} must be a number, but got {text!r}") from None


def positive(name: str, value: T) -> T:
    if not (value > 0 and math.isfinite(value)):
        raise HarnessError(f"{name} must be a finite number above 0, but got {value:g}")
    return value


def one_of(name: str, value: str, valid: Sequence[str]) -> str:
    if value not in valid:
        raise HarnessError(f"{name}: unknown value {value!r}; {nearest(value, valid)}")
    return value


def not_negative(name: str, value: int) -> int:
    if value < 0:
        raise HarnessError(f"{name} must be 0 or above, but got {value}")
    return value


def make_context(given: Mapping[str, Any], plugins: Plugins) -> Context:
    """The options that `run` and `trial` have in common, checked."""
    main_seed = not_negative("--seed", given["seed"])
    data_seed = main_seed if given["data_seed"] is None else not_negative("--data-seed", given["data_seed"])
    if not (given["trial_timeout"] >= 0 and math.isfinite(given["trial_timeout"])):
        raise HarnessError(f"--trial-timeout must be 0 or above, but got {given['trial_timeout']}")
    options = check_values(plugins.problem(given["problem"]), pairs(given["options"], "--set"), "--set")
    return Context(
        problem=given["problem"],
        options=options,
        data_dir=str(given["data_dir"].resolve()) if given["data_dir"] else None,
        data_seed=data_seed,
        device=check_device(one_of("--device", given["device"], ("cpu", "cuda", "auto"))),
        plugins=[str(path.resolve()) for path in given["plugins"]],
        rules={
            "budget": positive("--budget", given["budget"]),
            "prices": prices(given["price"]),
            "seed": main_seed,
            "divergence": one_of("--divergence", given["divergence"], DIVERGENCE),
            "system_failure": one_of("--system-failure", given["system_failure"], SYSTEM_FAILURE),
            "curves": not_negative("--curves", given["curves"]),
        },
        trial_timeout=given["trial_timeout"],
    )


# --- run


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
                    executor(given["executor"], context, workers, given["address"])(study)
            except KeyboardInterrupt:
                sys.stderr.write(
                    f"interrupted: what is recorded in {out} is safe; the same command goes on from there\n"
                )
                return INTERRUPTED
        print_line(f"{out}: {_count(study)}; next: harness report {out}")
    return 0


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
    main_seed = context.rules["seed"]
    spec = StudySpec(
        problem=context.problem,
        options=context.options,
        trials=positive("--trials", given["trials"]),
        data_seed=context.data_seed,
        search_seed=main_seed
        if given["search_seed"] is None
        else not_negative("--search-seed", given["search_seed"]),
        sampler=one_of("--sampler", given["sampler"], SAMPLERS),
        metrics={name: {"label": m.label, "short": m.short} for name, m in problem.metric_names.items()},
        objective=problem.objective,
        headline=problem.headline,
        solvers={name: _solver_spec(plugin, spaces[name]) for name, plugin in solvers.items()},
        plugins=fingerprint([Path(file) for file in context.plugins]),
        versions=_versions(context.device),
        **context.rules,
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
    print_line(f"problem {spec.problem}, options {spec.options}")
    for name, solver in spec.solvers.items():
        drawn = [key for key, entry in solver.space.items() if "low" in entry or "choices" in entry]
        print_line(f"solver {name}: {spec.trials} configurations of {', '.join(drawn) or 'one fixed point'}")
    print_line(f"packs of at most {size} on {workers} workers: about {-(-trials // size)}")
    evaluation = trials * problem.evaluation_samples
    print_line(f"samples: at most {trials * spec.budget:,.0f}, and {evaluation:,.0f} in evaluations")
    print_line(f"memory: about {problem.memory(size) * workers / 2**20:,.0f} MiB for {workers} workers")
    search, scoring = _pilot(spec, problem, solvers, device)
    minutes = trials * (search * spec.budget + scoring) / workers / 60
    print_line(f"time: about {minutes:,.1f} minutes by one short trial alone; packs are usually faster")


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
    budget = max(float(costs.min()), spec.budget / 50)
    rules = Rules(budget, dict.fromkeys(KINDS, 1.0), spec.seed, curves=0)
    cheapest = [configs[costs.argmin()]]
    (result,) = run_pack(problem, plugin, cheapest, rules, torch.device(device), problem.dtype)
    return result.seconds / max(result.ledger["total"], 1.0), result.evaluation_seconds


# --- trial and replay


def run_trial(**given: Any) -> int:
    plugins = Plugins(given["plugins"])
    context = make_context(given, plugins)
    solver = plugins.solver(given["solver"])
    typed = pairs(given["values"], given["solver"])
    config = complete(_space_of(given, solver), solver, typed, given["solver"])
    (result,) = Worker(context).run(Pack(given["solver"], (0,), (config,)))
    fields = _summary(result)
    if given["as_json"]:
        print_line(json.dumps(fields))
    else:
        Console().print_json(json.dumps(fields))
    if result.state == "failed":
        raise HarnessError(f"the trial failed: {result.reason}")
    return 0


def _space_of(given: Mapping[str, Any], solver: type[Solver[Any]]) -> Space:
    """The solver's space on the problem; where none is shipped, its defaults without ties."""
    name = given["solver"]
    try:
        space_file = find_space(given["problem"], given["space"])
    except HarnessError:
        if given["space"] is not None:
            raise
        space_file = None
    if space_file is not None and (given["space"] or name in space_file.solvers()):
        return space_file.space(name, solver)
    known = parameters(solver).items()
    return Space(name, {n: {} if p.required else {"value": p.default} for n, p in known})


def _summary(result: Result) -> dict[str, Any]:
    fields = {
        key: value for key, value in asdict(result).items() if key != "pack" and (key != "curve" or value)
    }
    if not math.isfinite(result.objective):
        fields["objective"] = None
    return fields


def replay_trial(folder: Path, trial: str, tolerance: float, data_dir: Path | None, device: str) -> int:
    spec = read_spec(folder)
    recorded = _find(folder, spec, trial)
    if recorded.state == "failed":
        raise HarnessError(f"trial {trial} failed ({recorded.reason}); there is nothing to compare")
    context = Context(
        problem=spec.problem,
        options=spec.options,
        data_dir=str(data_dir.resolve()) if data_dir else None,
        data_seed=spec.data_seed,
        device=check_device(device),
        plugins=list(spec.plugins),
        rules={name: getattr(spec, name) for name in _RULES},
    )
    (again,) = Worker(context).run(Pack(trial.split("/")[0], (0,), (recorded.config,)))
    found = _compare(recorded, again, positive("--tolerance", tolerance))
    for line in found:
        print_line(line)
    print_line(f"{trial}: {'differs' if found else f'the same, to a relative {tolerance:g}'}")
    return 1 if found else 0


_RULES = ("budget", "prices", "seed", "divergence", "system_failure", "curves")


def _find(folder: Path, spec: StudySpec, trial: str) -> Result:
    solver, _, number = trial.partition("/")
    if solver not in spec.solvers:
        raise HarnessError(f"{folder} has no solver {solver!r}; {nearest(solver, spec.solvers)}")
    known = {str(t.number): t for t in read_trials(folder, spec)[solver] if told(t)}
    if number not in known:
        raise HarnessError(
            f"{folder} has no recorded trial {trial!r}; expected SOLVER/NUMBER, e.g. {solver}/0"
        )
    return result_of(known[number])


def _compare(old: Result, new: Result, tolerance: float) -> list[str]:
    """Counts must agree exactly, metrics to a relative tolerance."""
    left = {"state": old.state, "upper_iterations": old.upper_iterations, **old.ledger}
    right = {"state": new.state, "upper_iterations": new.upper_iterations, **new.ledger}
    found = [f"{name}: {left[name]} → {right.get(name)}" for name in left if left[name] != right.get(name)]
    for name, value in old.metrics.items():
        again = new.metrics.get(name, math.nan)
        if not (math.isclose(value, again, rel_tol=tolerance, abs_tol=1e-9) or value == again):
            found.append(f"{name}: {value!r} → {again!r}")
    return found


# --- status and report


def show_status(folder: Path) -> None:
    spec = read_spec(folder)
    tallies = {solver: Tally(spec.trials) for solver in spec.solvers}
    for solver, trials in read_trials(folder, spec).items():
        for trial in filter(told, trials):
            tallies[solver].add(result_of(trial), new=False)
    Console().print(tally_table(tallies))


def write_report(folder: Path, top: int, out: Path | None) -> None:
    """The reports package is looked up by name: the engine must work without it."""
    positive("--top", top)
    record = load_record(folder)
    if record.trials.empty:
        raise HarnessError(f"{folder} has no recorded trial yet; run it first")
    write: Callable[..., Path] = importlib.import_module("reports.report").write_report
    target = out or folder / "report"
    page = write(record, target, top)
    print_line((target / "tables" / "best.md").read_text("utf-8"))
    print_line(f"page: {page}")


def check_solver(name: str, files: Sequence[Path]) -> None:
    """The audit of harness.check; a check that does not hold raises HarnessError, exit code 2."""
    from harness.check import audit

    for verdict in audit(Plugins(files).solver(name)):
        print_line(f"holds: {verdict}")


def print_line(text: str) -> None:
    sys.stdout.write(text + "\n")
