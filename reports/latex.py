"""LaTeX: tables of booktabs that are never wider than the text of a plain `article`, and a paper of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reports import text

if TYPE_CHECKING:
    from reports.figures import Picture
    from reports.table import Column, Table

# Points, in a plain article of 10 pt; a line of \footnotesize has 9.5, one of \scriptsize 8.
WIDTH, HEIGHT = 345.0, 500.0
LINE, NOTE_LINE, NOTE_LETTER = 9.5, 8.0, 4.2
GAP = 7.0  # between two columns, and 1 pt of a rule for safety
WIDEST = 150.0  # of a cell: two of them side by side fit
MOST_ROWS = 40
BOLD = 1.2

# Upper bounds of the letters of Computer Modern at 8 pt, which \footnotesize is, by their widths in points.
_BY_WIDTH = {
    1.6: text.THIN,
    2.4: "il.,;:'|![]",
    3.4: "fjrst()I -",
    4.3: "0123456789aceghoz/–⁻⁰¹²³⁴⁵⁶⁷⁸⁹²",
    4.8: 'bdknpquvxyJS_"',
    6.7: "ABCDEFGHKLNOPQRTUVXYZ=×±−≤≥↓↑",
    8.8: "mwMW%@&",
}
_WIDTHS = {letter: points for points, letters in _BY_WIDTH.items() for letter in letters}
_OTHER = 9.5
_CODE_POINT = 50.0


def width(words: str) -> float:
    """An upper bound of the width of `words`, in points."""
    return sum(_WIDTHS.get(letter) or _width_of_other(letter) for letter in words)


def _width_of_other(letter: str) -> float:
    return _CODE_POINT if text.latex(letter).startswith("{[}U") else _OTHER


def shortened(words: str, most: float) -> str:
    """`words`, cut where they would be wider than `most`."""
    if width(words) <= most:
        return words
    while width(words + "…") > most:
        words = words[:-1]
    return words + "…"


def table(told: Table, settings: str = "") -> str:
    """Needs `\\usepackage{booktabs}`. The caption is the title; how to read it stands below, and `settings`,
    with which the long caption may end, nowhere: they are said once for all tables. Columns that do not fit
    go below, the first one repeated; what does not fit on a page goes to the next."""
    panels = [_panel(columns, rows) for rows in _chunks(told.rows) for columns in _fitting(told.columns)]
    note = text.latex(told.caption.removesuffix(settings).strip())
    last = NOTE_LINE * math.ceil(len(note) * NOTE_LETTER / WIDTH)
    floats: list[list[str]] = [[]]
    room = HEIGHT
    for place, (body, height) in enumerate(panels):
        needed = height + (last if place == len(panels) - 1 else 0)
        if needed > room and floats[-1]:
            floats.append([])
            room = HEIGHT
        floats[-1].append(body)
        room -= height
    return "\n".join(
        _float(told, bodies, place, note if place == len(floats) - 1 else "")
        for place, bodies in enumerate(floats)
    )


def _chunks(rows: int) -> list[range]:
    return [range(start, min(start + MOST_ROWS, rows)) for start in range(0, rows, MOST_ROWS)] or [range(0)]


def _fitting(columns: Sequence[Column]) -> list[list[Column]]:
    """The columns in panels, each of which begins with the first column and fits the width."""
    first, *rest = columns
    panels, room = [[first]], WIDTH - _column_width(first)
    for column in rest:
        needed = GAP + _column_width(column)
        if needed > room and len(panels[-1]) > 1:
            panels.append([first])
            room = WIDTH - _column_width(first)
        panels[-1].append(column)
        room -= needed
    return panels


def _column_width(column: Column) -> float:
    bold = column.bold or [False] * len(column.cells)
    cells = [
        width(shortened(c, WIDEST)) * (BOLD if b else 1) for c, b in zip(column.cells, bold, strict=True)
    ]
    return max([*map(width, _lines(column.heading)), *cells], default=0.0)


def _lines(heading: str) -> list[str]:
    """A heading in one line or two, as narrow as that makes it."""
    words = shortened(heading, WIDEST).split(" ")
    splits = [[" ".join(words[:n]), " ".join(words[n:])] for n in range(1, len(words))]
    return min([[" ".join(words)], *splits], key=lambda lines: (max(map(width, lines)), len(lines)))


def _panel(columns: Sequence[Column], rows: range) -> tuple[str, float]:
    """A tabular and its height."""
    heads = [_lines(column.heading) for column in columns]
    written = [text.latex("\n".join(lines)).replace("\n", r" \\ ") for lines in heads]
    stacked = [rf"\shortstack[r]{{{w}}}" if len(h) > 1 else w for w, h in zip(written, heads, strict=True)]
    lines = [rf"\begin{{tabular}}{{@{{}}l{'r' * (len(columns) - 1)}@{{}}}}", r"\toprule"]
    lines += [" & ".join(stacked) + r" \\", r"\midrule"]
    lines += [" & ".join(_cell(column, row) for column in columns) + r" \\" for row in rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines), LINE * (len(rows) + max(map(len, heads)) + 2)


def _cell(column: Column, row: int) -> str:
    words = text.latex(shortened(column.cells[row], WIDEST))
    return rf"\textbf{{{words}}}" if column.bold and column.bold[row] else words


def _float(told: Table, bodies: Sequence[str], place: int, note: str) -> str:
    title = text.latex(told.title)
    lines = [r"\begin{table}[tp]", r"\centering", r"\footnotesize", r"\setlength{\tabcolsep}{3pt}"]
    if place:
        lines += [r"\addtocounter{table}{-1}", rf"\caption[]{{{title}, continued}}"]
    else:
        lines += [rf"\caption{{{title}}}", rf"\label{{tab:{told.name}}}"]
    lines.append("\n\n\\medskip\n\n".join(bodies))
    if note:
        lines.append(f"\n\\medskip\n\\parbox{{\\linewidth}}{{\\raggedright\\scriptsize {note}}}")
    return "\n".join([*lines, r"\end{table}", ""])


def paper(
    title: str, answer: str, settings: str, tables: Sequence[Table], pictures: Sequence[Picture]
) -> str:
    """A paper that has all tables and figures in place, to be compiled in the report's folder."""
    refs = [rf"Table~\ref{{tab:{t.name}}} ({text.latex(t.title)})" for t in tables]
    refs += [rf"Figure~\ref{{fig:{p.name}}} ({text.latex(p.title)})" for p in pictures]
    lines = [
        "% Written by harness report --paper: pdflatex paper.tex, twice.",
        r"\documentclass{article}",
        r"\usepackage[margin=0.8in]{geometry}",
        r"\usepackage{booktabs,graphicx}",
        rf"\title{{{text.latex(title)}}}",
        r"\author{}",
        r"\begin{document}",
        r"\maketitle",
        r"\sloppy",
        r"\section{Results}",
        text.latex(answer),
        "",
        rf"\paragraph{{Settings.}} {text.latex(settings)}",
        "",
        "; ".join(refs) + ".",
        *(rf"\input{{tables/{t.name}.tex}}" for t in tables),
        r"\clearpage",
        *(_figure(picture, settings) for picture in pictures),
        r"\end{document}",
        "",
    ]
    return "\n".join(lines)


def _figure(picture: Picture, settings: str) -> str:
    across, high = picture.figure.get_size_inches()
    inches = across * min(1.0, 6.9 / across, 7.0 / high)
    caption = text.latex(f"{picture.title}. {picture.caption.removesuffix(settings).strip()}")
    return "\n".join(
        [
            r"\begin{figure}[p]",
            r"\centering",
            rf"\includegraphics[width={inches:.2f}in]{{figures/{picture.name}.pdf}}",
            rf"\caption[{text.latex(picture.title)}]{{{caption}}}",
            rf"\label{{fig:{picture.name}}}",
            r"\end{figure}",
        ]
    )
