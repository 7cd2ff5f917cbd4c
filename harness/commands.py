"""The commands besides `run` that run something: a trial, a recorded one again, checks."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from pdb import post_mortem
from typing import Any

import typer
from rich.console import Console

from harness.check.verdict import Verdict
from harness.child import Child, Died, TooLong
from harness.device import check_device
from harness.errors import HarnessError, last_line, nearest
from harness.exchange import read_results
from harness.options import one_of, pairs, positive
from harness.params import parameters
from harness.plugins import Plugins, kept_source, require_source
from harness.record import Results, result_from_json
from harness.result import DIED, Result
from harness.solver import Solver, oversized, require_defined
from harness.space import Space, complete, find_space
from harness.spec import StudySpec
from harness.watched import working
from harness.worker import Context, Pack, Worker, set_up


def run_trial(
    context: Context,
    name: str,
    values: Sequence[str],
    space: Path | None,
    show: Callable[[dict[str, Any]], None],
    caught: bool,
    pdb: bool,
) -> int:
    """show: takes the result as plain data. caught: what a trial raises is told in one line. pdb: it opens
    the debugger there."""
    plugins = context.find_plugins()
    solver = plugins.solver(name)
    require_defined(solver, plugins.problem(context.problem))
    typed = pairs(values, name)
    config = complete(
        _space_of(context.problem, name, solver, space, plugins.names("solver")), solver, typed, name
    )
    with working(context) as worker:
        problem = worker.problem if isinstance(worker, Worker) else set_up(plugins, context)
        require_defined(solver, problem)
        for words in oversized(problem, {key: config[key] for key in typed}):
            raise HarnessError(f"{name}: {words}; give at most so many")
        for words in oversized(problem, config):
            sys.stderr.write(f"note: {name}: {words}: all of them are taken\n")
        pack = Pack(name, (0,), (config,))
        run = worker.attempt if isinstance(worker, Worker) and not caught else worker.run
        try:
            (result,) = run(pack)
        except Died:
            raise HarnessError(f"the trial failed: {DIED}") from None
        except Exception as error:  # noqa: BLE001 - whatever a plug-in raises, one line or the debugger
            if pdb:
                post_mortem(error.__traceback__)
            raise HarnessError(f"the trial failed: {last_line(error)}") from None
    show(_summary(result))
    if result.state == "failed":
        raise HarnessError(f"the trial failed: {result.reason}")
    return 0


def print_line(fields: dict[str, Any]) -> None:
    typer.echo(json.dumps(fields))


def print_result(fields: dict[str, Any]) -> None:
    Console().print_json(json.dumps(fields))


def _space_of(
    problem: str, name: str, solver: type[Solver[Any]], given: Path | None, known: Sequence[str]
) -> Space:
    """The solver's space on the problem; where there is none, its defaults without ties."""
    space_file = find_space(problem, given, known)
    if name in space_file.solvers():
        return space_file.space(name, solver)
    own = parameters(solver).items()
    return Space(name, {n: {} if p.required else {"value": p.default} for n, p in own})


def _summary(result: Result) -> dict[str, Any]:
    fields = {
        key: value
        for key, value in asdict(result).items()
        if key != "pack" and (key not in ("curve", "evaluations") or value)
    }
    if not math.isfinite(result.objective):
        fields["objective"] = None
    return fields


def replay_trial(
    place: Path, trial: str, tolerance: float, files: Sequence[Path], data_dir: Path | None, device: str
) -> int:
    """place: a study's folder, or an exported file. files: the plug-in files that may run; what a study names
    or its folder holds does not by itself."""
    spec, results = read_results(place)
    recorded = _find(place, spec, results, trial)
    if recorded.state == "failed":
        raise HarnessError(f"trial {trial} failed ({recorded.reason}); there is nothing to compare")
    solver = trial.split("/")[0]
    require_sources(place, spec, solver, files)
    context = Context(
        problem=spec.problem,
        options=spec.options,
        data_dir=str(data_dir.resolve()) if data_dir else None,
        data_seed=spec.data_seed,
        device=_device_of(spec, device),
        plugins=[str(file.resolve()) for file in files],
        rules=spec.rules,
    )
    (again,) = Worker(context).run(Pack(solver, (0,), (recorded.config,)))
    found = _compare(recorded, again, positive("--tolerance", tolerance))
    for line in found:
        typer.echo(line)
    typer.echo(f"{trial}: {'differs' if found else f'the same, to a relative {tolerance:g}'}")
    return 1 if found else 0


def _device_of(spec: StudySpec, asked: str) -> str:
    """Where a trial is replayed: on the study's device unless another is asked for; on the CPU, which is
    said, where that is not here."""
    if asked != "study":
        return check_device(one_of("--device", asked, ("cpu", "cuda", "auto")))
    recorded = spec.versions.get("device", "cpu")
    if recorded == "cuda" and check_device("auto") == "cpu":
        sys.stderr.write(
            "note: the study ran on a GPU, and none is here; replayed on the CPU, up to rounding\n"
        )
        return "cpu"
    return recorded


def require_sources(folder: Path, spec: StudySpec, solver: str, files: Sequence[Path]) -> None:
    """Raises HarnessError where the problem or the solver is not the one that was recorded."""
    plugins = Plugins(files)
    for kind, name, source in (
        ("problem", spec.problem, spec.source),
        ("solver", solver, spec.solvers[solver].source),
    ):
        marks = [source] if spec.traced() else ["", *spec.plugins.values()]
        if name in plugins.names(kind):
            require_source(plugins.get(kind, name), files, marks, folder)
            continue
        copies = [copy for mark in marks if (copy := kept_source(folder, mark))] or spec.plugins
        named = " or ".join(f"--plugin {copy}" for copy in copies)
        raise HarnessError(
            f"{kind} {name!r} is of a plug-in file, and none runs that is not named: look at it, then give "
            f"{named or '--plugin FILE'}"
        )


def _find(place: Path, spec: StudySpec, results: Results, trial: str) -> Result:
    solver = trial.partition("/")[0]
    if solver not in spec.solvers:
        raise HarnessError(f"{place} has no solver {solver!r}; {nearest(solver, spec.solvers)}")
    known = {f"{name}/{number}": one for (name, number), one in results.items()}
    if trial not in known:
        raise HarnessError(
            f"{place} has no recorded trial {trial!r}; expected SOLVER/NUMBER, e.g. {solver}/0"
        )
    return result_from_json(known[trial].head())


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


def check_plugin(
    name: str, options: Sequence[str], files: Sequence[Path], data_dir: Path | None, limit: float
) -> int:
    """One verdict line per check as it is made; 1 where one fails. limit: seconds that a check may take. They
    run in a process of their own, and one that ends or hangs it has failed."""
    positive("--limit", limit)
    for file in files:
        if not file.is_file():
            raise HarnessError(f"plug-in file {file} does not exist; check --plugin")
    asked = (name, pairs(options, "--set"), [str(f.resolve()) for f in files], str(data_dir or ""))
    child = Child("harness.check")
    at, checks, failed = "import", [], 0
    try:
        child.send(json.dumps(asked))
        child.receive()
        begun = json.loads(child.receive(limit))
        if "error" in begun:
            raise HarnessError(begun["error"])
        checks = begun["checks"]
        for at in checks:  # noqa: B007 - said where this one gives no verdict
            verdict = Verdict(**json.loads(child.receive(limit)))
            typer.echo(str(verdict))
            failed += not verdict.holds
    except TooLong:
        failed += 1
        typer.echo(str(Verdict(at, False, f"no verdict within {limit:g} s; the checks end here")))
    except Died:
        failed += 1
        typer.echo(str(Verdict(at, False, "the plug-in ended the process; the checks end here")))
    finally:
        child.end()
    typer.echo(f"{name}: {failed} of {len(checks)} checks fail" if failed else f"{name}: all checks hold")
    return 1 if failed else 0
