"""How far a study has come, as a table: live while it runs, once for `harness status`."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness.result import Metric, Tally
from harness.spec import StudySpec

if TYPE_CHECKING:
    from harness.study import Study

PLAIN_SECONDS = 30.0
"""Between two lines where stderr is no terminal."""


def objective_in_words(spec: StudySpec) -> str:
    """The column head of the best objective: its metric and direction."""
    metric = Metric(**spec.metrics[spec.objective])  # type: ignore[arg-type]  # recorded as words
    return f"best {metric.short} ({'↓' if metric.better == 'lower' else '↑'})"


def tally_table(
    spec: StudySpec, tallies: Mapping[str, Tally], left: Mapping[str, float] | None = None
) -> Table:
    """One row per solver, and one for all. left: seconds to go by solver, nan: not known yet; None: no such
    column."""
    table = Table(box=None, header_style="bold")
    table.add_column("solver", no_wrap=True)
    for head in ("done", "diverged", "failed"):
        table.add_column(head)
    table.add_column(Text(objective_in_words(spec)), justify="right")
    table.add_column("samples spent", justify="right")
    if left is not None:
        table.add_column("time left", justify="right")
    rows = [(name, tally, math.nan if left is None else left[name]) for name, tally in tallies.items()]
    if len(rows) > 1:
        rows.append(("all", _sum(tallies), math.nan if left is None else left["all"]))
    for name, tally, seconds in rows:
        best = f"{tally.best:.4g}" if math.isfinite(tally.best) else "–"
        counts = (f"{tally.told}/{tally.trials}", str(tally.states["diverged"]), str(tally.states["failed"]))
        spent = f"{share(tally, spec.rules.budget):.0%}"
        table.add_row(Text(name), *counts, best, spent, *([] if left is None else [in_words(seconds)]))
    return table


def _sum(tallies: Mapping[str, Tally]) -> Tally:
    whole = Tally(sum(tally.trials for tally in tallies.values()))
    for tally in tallies.values():
        for state, number in tally.states.items():
            whole.states[state] += number
        whole.best = min(whole.best, tally.best)
        whole.in_flight += tally.in_flight
    return whole


def share(tally: Tally, budget: float) -> float:
    """Of the samples that its trials may use, those that are used: a told trial counts as a whole one."""
    return min(1.0, (tally.told + tally.in_flight / budget) / max(tally.trials, 1))


def in_words(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class Progress:
    """What is shown of a running study."""

    def __init__(self, study: Study) -> None:
        self.study, self.spec = study, study.spec
        self.begun = time.monotonic()
        self.first = self._shares()

    def _shares(self) -> dict[str, float]:
        """By solver, and of all, the samples spent as shares."""
        tallies, budget = self.study.tallies, self.spec.rules.budget
        for name, spent in self.study.in_flight_samples().items():
            tallies[name].in_flight = spent
        return {name: share(t, budget) for name, t in [*tallies.items(), ("all", _sum(tallies))]}

    def left(self) -> dict[str, float]:
        """Seconds to go, at the pace of this session; nan: nothing is done yet."""
        seconds = time.monotonic() - self.begun
        now = self._shares()
        pace = {name: (now[name] - self.first[name]) / max(seconds, 1e-9) for name in now}
        return {name: (1 - now[name]) / pace[name] if pace[name] > 0 else math.nan for name in now}

    def table(self) -> Table:
        left = self.left()
        table = tally_table(self.spec, self.study.tallies, left)
        if self.study.stage:
            table.caption, table.caption_justify = f"{self.study.stage} ...", "left"
        return table

    def line(self) -> str:
        """The same for where nothing can be drawn over."""
        left = self.left()
        whole = _sum(self.study.tallies)
        each = ", ".join(
            f"{name} {tally.told}/{tally.trials} ({share(tally, self.spec.rules.budget):.0%})"
            for name, tally in self.study.tallies.items()
        )
        clock = in_words(time.monotonic() - self.begun)
        stage = f"; {self.study.stage}" if self.study.stage else ""
        return f"{clock}  {whole.told}/{whole.trials} trials, {in_words(left['all'])} left: {each}{stage}"

    def __rich__(self) -> Table:
        return self.table()


@contextmanager
def shown(study: Study) -> Iterator[None]:
    """A live table on a terminal; elsewhere a line every half minute and the table at the end. On stderr:
    stdout is for results."""
    console = Console(file=sys.stderr)
    progress = Progress(study)
    if console.is_terminal:
        with Live(progress, console=console, refresh_per_second=2):
            yield
        return
    with _lines(progress):
        yield
    console.print(progress.table())


@contextmanager
def _lines(progress: Progress) -> Iterator[None]:
    """A line at once, whenever the stage changes, and every PLAIN_SECONDS."""
    over, said, at = threading.Event(), "", -math.inf

    def say() -> None:
        nonlocal said, at
        progress.study.in_flight_samples()  # the stage may follow from it
        stage, now = progress.study.stage, time.monotonic()
        if stage != said or now - at >= PLAIN_SECONDS:
            sys.stderr.write(progress.line() + "\n")
            sys.stderr.flush()
            said, at = stage, now

    def run() -> None:
        while not over.wait(0.2):
            say()

    say()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(1.0)
