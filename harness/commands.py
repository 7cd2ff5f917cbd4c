"""What the commands besides `run` do, once their options are parsed."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console

from harness.errors import HarnessError, nearest
from harness.options import pairs, positive
from harness.params import parameters
from harness.progress import tally_table
from harness.record import Record, load_record, read_trials, result_of, told
from harness.runner import Result
from harness.solver import Solver, oversized, require_defined
from harness.space import Space, complete, find_space
from harness.spec import StudySpec, read_spec
from harness.study import Tally
from harness.worker import Context, Pack, Worker, check_device


def run_trial(context: Context, name: str, values: Sequence[str], space: Path | None, as_json: bool) -> int:
    plugins = context.find_plugins()
    solver = plugins.solver(name)
    require_defined(solver, plugins.problem(context.problem))
    config = complete(_space_of(context.problem, name, solver, space), solver, pairs(values, name), name)
    worker = Worker(context)
    require_defined(solver, worker.problem)
    for words in oversized(worker.problem, config):
        sys.stderr.write(f"note: {name}: {words}\n")
    (result,) = worker.run(Pack(name, (0,), (config,)))
    fields = json.dumps(_summary(result))
    if as_json:
        typer.echo(fields)
    else:
        Console().print_json(fields)
    if result.state == "failed":
        raise HarnessError(f"the trial failed: {result.reason}")
    return 0


def _space_of(problem: str, name: str, solver: type[Solver[Any]], given: Path | None) -> Space:
    """The solver's space on the problem; where none is shipped, its defaults without ties."""
    try:
        space_file = find_space(problem, given)
    except HarnessError:
        if given is not None:
            raise
        space_file = None
    if space_file is not None and (given or name in space_file.solvers()):
        return space_file.space(name, solver)
    known = parameters(solver).items()
    return Space(name, {n: {} if p.required else {"value": p.default} for n, p in known})


def _summary(result: Result) -> dict[str, Any]:
    fields = {
        key: value
        for key, value in asdict(result).items()
        if key != "pack" and (key not in ("curve", "evaluations") or value)
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
        rules=spec.rules,
    )
    (again,) = Worker(context).run(Pack(trial.split("/")[0], (0,), (recorded.config,)))
    found = _compare(recorded, again, positive("--tolerance", tolerance))
    for line in found:
        typer.echo(line)
    typer.echo(f"{trial}: {'differs' if found else f'the same, to a relative {tolerance:g}'}")
    return 1 if found else 0


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


def report_study(folder: Path, top: int, out: Path, write: Callable[[Record, Path, int], Path]) -> None:
    """write: makes the report of a record in a folder, and gives the path of its page."""
    positive("--top", top)
    record = load_record(folder)
    if record.trials.empty:
        raise HarnessError(f"{folder} has no recorded trial yet; run it first")
    page = write(record, out, top)
    for name in ("repricing", "best"):
        if (table := out / "tables" / f"{name}.md").exists():
            typer.echo(table.read_text("utf-8"))
    typer.echo(f"page: {page}")


def compare_studies(
    folders: Sequence[Path], out: Path, write: Callable[[list[tuple[str, Record]], Path], Path]
) -> None:
    """write: compares records, each with the name of its folder."""
    page = write([(folder.resolve().name, load_record(folder)) for folder in folders], out)
    typer.echo((out / "tables" / "ranks.md").read_text("utf-8"))
    typer.echo(f"page: {page}")


def check_plugin(name: str, options: Sequence[str], files: Sequence[Path], data_dir: Path | None) -> int:
    """One verdict line per check as it is made; 1 where one fails."""
    from harness.check import fresh_process, judged, plugin_checks

    torch.set_num_threads(1)
    failed = 0
    with fresh_process() as elsewhere:
        checks = plugin_checks(name, pairs(options, "--set"), files, data_dir, elsewhere)
        for verdict in judged(checks):
            typer.echo(str(verdict))
            failed += not verdict.holds
    typer.echo(f"{name}: {failed} of {len(checks)} checks fail" if failed else f"{name}: all checks hold")
    return 1 if failed else 0
