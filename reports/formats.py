"""What a table is, and its Markdown, CSV and LaTeX forms."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from reports import text


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


def write_table(table: Table, folder: Path) -> None:
    """`NAME.md`, `NAME.csv` and `NAME.tex` in `folder`."""
    for suffix, content in (("md", to_markdown(table)), ("csv", to_csv(table)), ("tex", to_latex(table))):
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


def to_latex(table: Table) -> str:
    """A booktabs table; needs `\\usepackage{booktabs}` and nothing else."""
    columns = range(len(table.columns))
    headings: dict[object, str] = {i: text.latex(table.columns[i].heading) for i in columns}
    cells = pd.DataFrame({i: table.columns[i].cells for i in columns}, dtype=object)
    styles = pd.DataFrame({i: _bold_style(table, i) for i in columns}, dtype=object)
    styler = cells.style.format(lambda cell: text.latex(str(cell))).hide(axis="index")
    styler = styler.format_index(lambda place: headings[place], axis="columns")
    styler = styler.apply(lambda _: styles, axis=None)
    written = styler.to_latex(
        hrules=True,
        position="t",
        position_float="centering",
        column_format="l" + "r" * (len(columns) - 1),
        caption=text.latex(table.caption),
        label=f"tab:{table.name}",
    )
    return str(written).replace("\\centering\n", "\\centering\n\\footnotesize\n", 1)


def _bold_style(table: Table, column: int) -> list[str]:
    marks = table.columns[column].bold or [False] * table.rows
    return ["textbf:--rwrap;" if mark else "" for mark in marks]


def _emphasis(column: Column, row: int) -> str:
    cell = text.markdown(column.cells[row])
    return f"**{cell}**" if column.bold and column.bold[row] else cell


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
