"""How far a study has come, as a table: live while it runs, once for `harness status`."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table

from harness.study import Study, Tally


def tally_table(tallies: Mapping[str, Tally], seconds: float | None = None) -> Table:
    """One row per solver. seconds: since the driver started, for the speed; None: none is known."""
    table = Table("solver", "done", "diverged", "failed", "best", box=None, header_style="bold")
    if seconds is not None:
        table.add_column("samples/s", justify="right")
        table.add_column("time left", justify="right")
    for solver, tally in tallies.items():
        best = f"{tally.best:.4g}" if math.isfinite(tally.best) else "–"
        row = [
            solver,
            f"{tally.told}/{tally.trials}",
            str(tally.states["diverged"]),
            str(tally.states["failed"]),
            best,
        ]
        if seconds is not None:
            row += [f"{tally.samples / max(seconds, 1e-9):,.0f}", _left(tally, seconds)]
        table.add_row(*row)
    return table


def _left(tally: Tally, seconds: float) -> str:
    missing = tally.trials - tally.told
    if not missing:
        return "done"
    if not tally.new:
        return "?"
    minutes, rest = divmod(round(missing * seconds / tally.new), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class _Renderable:
    def __init__(self, study: Study) -> None:
        self.study = study

    def __rich__(self) -> Table:
        return tally_table(self.study.tallies, time.monotonic() - self.study.begun)


@contextmanager
def shown(study: Study) -> Iterator[None]:
    """A live table on a terminal; elsewhere the table once at the end. On stderr: stdout is for results."""
    console = Console(file=sys.stderr)
    if console.is_terminal:
        with Live(_Renderable(study), console=console, refresh_per_second=2):
            yield
        return
    yield
    console.print(tally_table(study.tallies, time.monotonic() - study.begun))
