"""Everything `harness report` writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reports import figures, latex, page, tables
from reports.answer import answer
from reports.choice import Choice
from reports.confirmation import confirmation_tables
from reports.data import write_data
from reports.formats import write_table
from reports.maps import map_figures
from reports.tunability import tunability_tables
from reports.view import View

if TYPE_CHECKING:
    from harness.record import Record

EVERYTHING = Choice()


def write_report(
    study: Record,
    out: Path,
    top: int = 10,
    choice: Choice = EVERYTHING,
    width: str = "page",
    paper: bool = False,
    targets: Sequence[float] = (),
) -> Path:
    """Write `tables/`, `figures/`, `data/` and `index.html` under `out`; return the path of the page.

    `top` is the number of best trials a solver is judged by; where fewer have a finite objective those are
    used, and the tables say how many. Figures show at most `figures.MOST` solvers. A study that is still
    running is reported as far as it has come.
    width: of the figures, one of `figures.WIDTHS`. paper: write `paper.tex` too. targets: of the objective;
    none: chosen from the data.
    """
    study = choice.of(study)
    folders = {name: out / name for name in ("tables", "figures", "data")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    view = View.of(study, targets=targets)
    written = [
        *tables.all_tables(view, top),
        *tunability_tables(view),
        *confirmation_tables(study, view),
    ]
    for table in written:
        write_table(table, folders["tables"], view.conditions)
    write_data(study, folders["data"])
    with figures.house_style(width):
        shown = view.foremost(figures.MOST)
        drawn = [*figures.all_figures(shown), *map_figures(shown)]
        for picture in drawn:
            figures.write_figure(picture, folders["figures"])
    if paper:
        source = latex.paper(str(view.spec["problem"]), answer(view), view.conditions, written, drawn)
        (out / "paper.tex").write_text(source, encoding="utf-8")
    html = out / "index.html"
    html.write_text(page.render(view, written, drawn, folders["figures"]), encoding="utf-8")
    return html
