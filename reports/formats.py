"""What a table is, and its Markdown, CSV and LaTeX forms."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from reports import latex, text


@dataclass(frozen=True)
class Column:
    """Cells as readers see them; `keys` sort them, `bold` marks the best, `links` are anchors in the page."""

    heading: str
    cells: list[str]
    keys: Sequence[Any]
    bold: Sequence[bool] = ()
    links: Sequence[str] = ()


@dataclass(frozen=True)
class Table:
    """`columns` to read, `data` with full precision, `behind` the trials a solver's statistics come from."""

    name: str
    title: str
    caption: str
    columns: list[Column]
    data: pd.DataFrame
    behind: dict[str, list[str]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return len(self.columns[0].cells)


def write_table(table: Table, folder: Path, settings: str = "") -> None:
    """`NAME.md`, `NAME.csv` and `NAME.tex` in `folder`; settings: see `latex.table`."""
    written = {"md": to_markdown(table), "csv": to_csv(table), "tex": latex.table(table, settings)}
    for suffix, content in written.items():
        (folder / f"{table.name}.{suffix}").write_text(content, encoding="utf-8")


def to_csv(table: Table) -> str:
    """Full precision: the shortest text that reads back as the same number."""
    return str(table.data.to_csv(index=False, lineterminator="\n"))


def to_markdown(table: Table) -> str:
    """A pipe table, the caption below it, and the trials behind each row's statistics."""
    cells = [[_emphasis(c, row) for c in table.columns] for row in range(table.rows)]
    lines = [
        _line([text.markdown(column.heading) for column in table.columns]),
        _line(["---", *["--:"] * (len(table.columns) - 1)]),
        *map(_line, cells),
        "",
        text.markdown(table.caption),
    ]
    lines += [
        f"\n{text.markdown(row)}: {', '.join(trials)}." for row, trials in table.behind.items() if trials
    ]
    return "\n".join(lines) + "\n"


def _emphasis(column: Column, row: int) -> str:
    cell = text.markdown(column.cells[row])
    return f"**{cell}**" if column.bold and column.bold[row] else cell


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
