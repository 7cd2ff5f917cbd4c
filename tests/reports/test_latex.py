"""Tables and the paper compile, and nothing is wider than the text, whatever the labels."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.record import Record
from reports import latex, tables
from reports.report import write_report
from reports.table import Column, Table
from reports.view import View

LABELS = ['a"b', "a_b_c_d", r"\x_1 \end{table}", "50 % #1 & $~^{}", "中文 Ж ½", "W" * 20_000]
needs_latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")


def hostile(record: Record, copies: int = 1) -> Record:
    """Every solver under a hostile label, `copies` times."""
    names = {f"{name}_{i}" if i else name: name for i in range(copies) for name in record.spec["solvers"]}
    told = {
        new: {**record.spec["solvers"][old], "label": LABELS[place % len(LABELS)]}
        for place, (new, old) in enumerate(names.items())
    }
    own = [
        record.trials[record.trials["solver"] == old].assign(
            solver=new, trial=[f"{new}/{n}" for n in range(30)], reason="$ _ # \\ \x1b"
        )
        for new, old in names.items()
    ]
    frames: dict[str, Any] = {"trials": pd.concat(own, ignore_index=True), "curves": record.curves.head(0)}
    spec = {**record.spec, "solvers": told, "options": {"path": 'C:\\a_b %#"&', "地": "図"}}
    return replace(record, spec=spec, evaluations=record.evaluations.head(0), **frames)


def compiled(source: str, folder: Path) -> str:
    """The log of pdflatex, which must not stop."""
    (folder / "it.tex").write_text(source, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "it.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


@needs_latex
@pytest.mark.parametrize("copies", [1, 9])
def test_tables_fit_a_plain_article(copies: int, record: Record, tmp_path: Path) -> None:
    made = tables.all_tables(View.of(hostile(record, copies)), 10)
    body = "\n\\clearpage\n".join(map(latex.table, made))
    log = compiled(
        rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{body}\end{{document}}", tmp_path
    )
    assert "Overfull" not in log and "Float too large" not in log and "undefined" not in log


@needs_latex
def test_the_paper_compiles(record: Record, tmp_path: Path) -> None:
    write_report(hostile(record), tmp_path, paper=True)
    log = compiled((tmp_path / "paper.tex").read_text("utf-8"), tmp_path)
    assert "Overfull" not in log and "Float too large" not in log and (tmp_path / "it.pdf").exists()


def test_the_paper_has_everything_in_its_place_and_the_settings_once(record: Record, tmp_path: Path) -> None:
    write_report(record, tmp_path, paper=True)
    source = (tmp_path / "paper.tex").read_text("utf-8")
    for kind, name in (("tables", "best"), ("tables", "spaces"), ("figures", "curves")):
        assert f"{kind}/{name}" in source
    parts = [source, *(p.read_text("utf-8") for p in (tmp_path / "tables").glob("*.tex"))]
    assert sum(part.count("samples per trial; 30 trials") for part in parts) == 1
    assert all(part.count(r"\begin{") == part.count(r"\end{") for part in parts)


def test_columns_that_do_not_fit_go_below_and_rows_to_the_next_page() -> None:
    names = [f"method number {i}" for i in range(90)]
    wide = [Column(f"a heading {i}", ["123456.789"] * 90, [0] * 90) for i in range(9)]
    written = latex.table(
        Table(
            "t", "Title", "How to read it. Settings.", [Column("Solver", names, names), *wide], pd.DataFrame()
        ),
        "Settings.",
    )
    assert written.count(r"\begin{table}") >= 3 and written.count(r"\label{") == 1
    assert written.count("How to read it.") == 1 and "Settings." not in written
    assert written.count("method number 7 ") == written.count(r"\begin{tabular}") / 3 > 1
