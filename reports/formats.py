"""The Markdown, CSV and LaTeX forms of a table."""

from pathlib import Path

from reports import latex, text
from reports.table import Column, Table


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
