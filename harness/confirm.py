"""`harness confirm`: the best configurations of a study again, on fresh seeds and data splits.

Every pair of a seed and a split is an ordinary study, in DIR/confirmation/seed-S-data-D, whose specification
lists its configurations: it draws nothing, and all else is the study's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from harness.commands import require_sources
from harness.device import check_device
from harness.errors import HarnessError
from harness.folder import locked
from harness.launch import INTERRUPTED, Execution, carried_out, versions
from harness.options import not_negative, one_of, positive
from harness.plugins import fingerprint
from harness.record import CONFIRMATION, confirmations, read_trials, result_of
from harness.repair import Again
from harness.result import Result
from harness.solver import Solver
from harness.spec import LISTING, NAME, SolverSpec, StudySpec, differences, read_spec
from harness.study import Study
from harness.worker import Context, set_up


@dataclass(frozen=True)
class Fresh:
    """What runs again: the best `top` trials of each solver, on the `seeds` seeds after the study's, each
    with the `splits` data seeds after the study's; None: with the study's own."""

    top: int
    seeds: int
    splits: int | None

    def __post_init__(self) -> None:
        positive("--top", self.top)
        positive("--seeds", self.seeds)
        if self.splits is not None:
            positive("--data-seeds", self.splits)

    def pairs(self, spec: StudySpec) -> Iterator[tuple[int, int]]:
        """Seed and data seed, seed after seed: what is there when it is interrupted is balanced."""
        own, split = spec.rules.seed, spec.data_seed
        splits = [split] if self.splits is None else range(split + 1, split + 1 + self.splits)
        return ((seed, data) for seed in range(own + 1, own + 1 + self.seeds) for data in splits)


def confirm_study(folder: Path, fresh: Fresh, execution: Execution, context: Context) -> int:
    """context: of the study, but for seeds."""
    spec = read_spec(folder)
    solvers = listed(folder, spec, fresh.top)
    files = [Path(file) for file in context.plugins]
    plugins = context.find_plugins()
    for solver in solvers:
        require_sources(folder, spec, solver, files)
    classes = {name: plugins.solver(name) for name in solvers}
    places = []
    for seed, data in fresh.pairs(spec):
        own: dict[str, Any] = {"rules": replace(spec.rules, seed=seed), "data_seed": data}
        wanted = spec.model_copy(
            update={
                **own,
                "sampler": LISTING,
                "solvers": solvers,
                "trials": max(len(solver.configs) for solver in solvers.values()),
                "plugins": fingerprint(files),
                "versions": versions(context.device),
            }
        )
        places.append(folder / CONFIRMATION / f"seed-{seed}-data-{data}")
        if not _confirmed(places[-1], wanted, replace(context, **own), classes, execution):
            return INTERRUPTED
    results = [result for place in places for result in _results(place)]
    lost = sum(result.state == "failed" for result in results)
    typer.echo(
        f"{folder / CONFIRMATION}: {len(places)} studies, {len(results)} trials recorded, {lost} failed; "
        f"next: harness report {folder}"
    )
    return 0


def context_of(
    folder: Path,
    files: Sequence[Path],
    data_dir: Path | None,
    device: str,
    trial_timeout: float,
    elsewhere: bool,
) -> Context:
    """What a worker needs to know to run trials of a recorded study; elsewhere: other machines may work.
    Raises HarnessError: DIR is itself a confirmation."""
    spec = read_spec(folder)
    if spec.sampler == LISTING:
        raise HarnessError(f"{folder} is a confirmation itself; give the study that it confirms")
    return Context(
        problem=spec.problem,
        options=spec.options,
        data_dir=str(data_dir.resolve()) if data_dir else None,
        data_seed=spec.data_seed,
        device=check_device(one_of("--device", device, ("cpu", "cuda", "auto")), elsewhere),
        plugins=[str(file.resolve()) for file in files],
        rules=spec.rules,
        trial_timeout=not_negative("--trial-timeout", trial_timeout),
    )


def listed(folder: Path, spec: StudySpec, top: int) -> dict[str, SolverSpec]:
    """By solver the configurations that are confirmed: those that have been, then the `top` best and the
    published one, where trial 0 was that, if they are not among them. The list only grows, also where the
    study has found better ones since.

    Raises HarnessError where no trial has a finite objective."""
    before = [read_spec(place).solvers for place in confirmations(folder)]
    found = {}
    for solver, trials in read_trials(folder, spec).items():
        results = {trial.number: result_of(trial) for trial in trials if trial.told}
        usable = [n for n, result in results.items() if math.isfinite(result.objective)]
        best = sorted(usable, key=lambda n: (results[n].objective, n))[:top]
        known = [solvers[solver] for solvers in before if solver in solvers]
        own = max(known, key=lambda one: len(one.of), default=spec.solvers[solver])
        published = [0] if spec.solvers[solver].published and 0 in usable else []
        new = [n for n in dict.fromkeys([*best, *published]) if n not in own.of]
        update = {
            "published": {},
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "configs": [*own.configs, *(results[n].config for n in new)],
            "of": [*own.of, *new],
        }
        if update["of"]:
            found[solver] = spec.solvers[solver].model_copy(update=update)
    if not found:
        raise HarnessError(f"{folder} has no trial with a score yet; run it first")
    return found


def _confirmed(
    place: Path,
    wanted: StudySpec,
    context: Context,
    solvers: dict[str, type[Solver[Any]]],
    execution: Execution,
) -> bool:
    """Run what is left of one confirmation; False where it was interrupted."""
    if (place / NAME).exists():
        found = differences(read_spec(place), wanted)
        if found:
            raise HarnessError(
                f"{place} confirms another study, {'; '.join(found)}; move {place.parent} elsewhere first"
            )
        if len(list(_results(place))) == sum(map(wanted.trials_of, solvers)):
            return True
    problem = set_up(context.find_plugins(), context)
    with locked(place, wanted, Again([], False, [])) as whole:
        study = Study(place, whole, problem, solvers, execution.packing_of(context.device, wanted))
        return carried_out(study, context, execution)


def _results(place: Path) -> Iterator[Result]:
    for trials in read_trials(place, read_spec(place)).values():
        yield from (result_of(trial) for trial in trials if trial.told)
