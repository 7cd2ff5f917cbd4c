"""`harness run --dry-run`: what a study would do, how many samples, how much memory and how long."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.draws import draws
from harness.folder import agreed
from harness.params import check_values
from harness.pilot import Scoring, pilot
from harness.problem import Problem
from harness.record import read_trials
from harness.runner import first_cost
from harness.share import Share
from harness.sizing import Packing, pack_bytes
from harness.solver import Solver
from harness.spec import NAME, StudySpec, read_spec

SECONDS = 2.5
"""What timing all solvers may take, about."""
DRAWN = 800
"""Configurations that are drawn in all, and at most MOST of a solver: the others are like them."""
MOST, FEWEST = 64, 4
RAY_START = 6.0
"""Seconds of an idle machine until Ray's workers begin to set up, which takes each what it took this process;
two of that, as they start side by side."""

Solvers = Mapping[str, type[Solver[Any]]]


def print_plan(
    spec: StudySpec,
    problem: Problem,
    solvers: Solvers,
    packing: Packing,
    workers: int,
    device: str,
    out: Path,
    on_ray: bool,
    share: Share,
) -> None:
    """Raises HarnessError: `out` holds another study."""
    set_up, begun = time.process_time(), time.perf_counter()
    whole = agreed(out, spec)
    done = _recorded(out, solvers)
    missing = {name: max(share.count(whole.trials) - done[name], 0) for name in solvers}
    typer.echo(f"problem {spec.problem}, options {spec.options}")
    known = f"{sum(done.values())} trials recorded of these solvers" if (out / NAME).exists() else "new"
    typer.echo(f"folder {out}: {known}")
    table = Table("solver", box=None, header_style="bold")
    for head in ("trials", "samples at most", "time each", "all"):
        table.add_column(head, justify="right")
    scoring = Scoring(problem, spec.rules, device, SECONDS / 4)
    total, bytes_needed = 0.0, 0.0
    for name, plugin in solvers.items():
        configs = _drawn(whole, name, plugin, max(FEWEST, min(MOST, DRAWN // len(solvers), whole.trials)))
        timing = pilot(problem, plugin, configs, spec.rules, packing, scoring, SECONDS / len(solvers))
        trial = timing.seconds(spec.rules.curves)
        total += trial * missing[name]
        bytes_needed = max(bytes_needed, _packed_bytes(problem, plugin, configs, spec.rules.seed, packing))
        samples = f"{missing[name] * spec.rules.budget:,.0f}"
        words = (in_words(trial), in_words(trial * missing[name]))
        table.add_row(Text(name), str(missing[name]), samples, *words)
    Console().print(table)
    trials = sum(missing.values())
    judged = 1 + len(spec.rules.evaluate_at) + bool(spec.rules.evaluate_at)  # at most: every share, and x0
    evaluations = trials * judged * problem.evaluation_samples
    typer.echo(f"samples: at most {trials * spec.rules.budget:,.0f}, and {evaluations:,.0f} in evaluations")
    typer.echo(f"memory: about {bytes_needed * workers / 2**20:,.0f} MiB for {workers} workers")
    busy = (
        max(1.0, (time.perf_counter() - begun) / (time.process_time() - set_up)) if device == "cpu" else 1.0
    )
    start = RAY_START + 2 * set_up if on_ray and trials else 0.0
    seconds = busy * (start + total / max(1, min(workers, trials)))
    where = f"{workers} workers, packs of at most {packing.most}"
    typer.echo(
        f"time: about {in_words(seconds)} on {where}\n(timed by some upper iterations of each solver; "
        f"{busy:.1f} times what an idle machine takes, as this one is now)"
    )


def in_words(seconds: float) -> str:
    """A duration to about two digits."""
    if seconds < 100:
        return f"{seconds:.2g} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def _recorded(out: Path, solvers: Solvers) -> dict[str, int]:
    """Told trials that a folder has."""
    if not (out / NAME).exists():
        return dict.fromkeys(solvers, 0)
    trials = read_trials(out, read_spec(out))
    return {name: sum(trial.told for trial in trials.get(name, ())) for name in solvers}


def _drawn(spec: StudySpec, solver: str, plugin: type[Solver[Any]], number: int) -> list[dict[str, Any]]:
    """The first configurations of a solver."""
    space = spec.spaces()[solver]
    drawing = draws(spec.sampler, spec.search_seed, solver, spec.spaces())
    asked = (drawing.draw(number) for number in range(min(number, spec.trials)))
    return [check_values(plugin, space.resolve(drawn), solver) for drawn in asked]


def _packed_bytes(
    problem: Problem, solver: type[Solver[Any]], configs: list[dict[str, Any]], seed: int, packing: Packing
) -> float:
    """The largest pack of the cheapest and the dearest configuration, each taken as often as fits."""
    costs = [first_cost(problem, solver, [config], seed)[0] for config in configs]
    ends = [configs[costs.index(f(costs))] for f in (min, max)]
    return max(
        pack_bytes(problem, solver, alike[cut])
        for config in ends
        for alike in [[config] * packing.most]
        for cut in packing.cut(problem, solver, alike)
    )
