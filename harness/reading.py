"""The commands that read what is recorded: they run no trial, and import no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import typer
from rich.console import Console

from harness.errors import HarnessError
from harness.exchange import export, load_together, merge
from harness.folder import sole_driver
from harness.options import positive
from harness.progress import tally_table
from harness.record import JOURNAL, Record, confirmations, load_record, read_trials, result_of
from harness.repair import repair
from harness.result import Tally
from harness.spec import NAME, read_spec


def repair_study(folder: Path) -> None:
    if not (folder / NAME).exists() and not (folder / JOURNAL).exists():
        raise HarnessError(f"{folder} is not a study; check the path")
    with sole_driver(folder):
        for line in repair(folder):
            typer.echo(line)


def show_status(folder: Path) -> None:
    spec = read_spec(folder)
    tallies = {solver: Tally(spec.trials_of(solver)) for solver in spec.solvers}
    for solver, trials in read_trials(folder, spec).items():
        for trial in trials:
            if trial.told:
                tallies[solver].add(result_of(trial))
    Console().print(tally_table(spec, tallies))
    for place in confirmations(folder):
        again = read_spec(place)
        runs = [sum(trial.told for trial in trials) for trials in read_trials(place, again).values()]
        typer.echo(f"{place}: {sum(runs)} of {sum(map(again.trials_of, again.solvers))} trials recorded")


def report_study(
    place: Path, others: Sequence[Path], top: int, out: Path, write: Callable[[Record, Path, int], Path]
) -> None:
    """place, others: folders or exported files. write: makes the report of a record in a folder, and gives
    the path of its page."""
    positive("--top", top)
    record = load_together(place, others)
    if record.trials.empty:
        raise HarnessError(f"{place} has no recorded trial yet; run it first")
    page = write(record, out, top)
    for name in ("repricing", "best", "tunability", "confirmation"):
        if (table := out / "tables" / f"{name}.md").exists():
            typer.echo(table.read_text("utf-8"))
    typer.echo(f"page: {page}")


def export_study(folder: Path, out: Path) -> None:
    typer.echo(f"{out}: {export(folder, out)} trials; next: harness report {out} --out FOLDER")


def merge_studies(out: Path, places: Sequence[Path]) -> None:
    counts = merge(out, places)
    said = ", ".join(f"{solver} {number}" for solver, number in counts.items())
    typer.echo(f"{out}: {said} trials; next: harness report {out}")


def compare_studies(
    folders: Sequence[Path], out: Path, write: Callable[[list[tuple[str, Record]], Path], Path]
) -> None:
    """write: compares records, each with the name of its folder."""
    page = write([(folder.resolve().name, load_record(folder)) for folder in folders], out)
    typer.echo((out / "tables" / "ranks.md").read_text("utf-8"))
    typer.echo(f"page: {page}")
