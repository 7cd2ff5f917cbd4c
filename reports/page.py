"""One HTML page that needs nothing beside it: tables, figures, every trial, sources to download."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from reports import formats, latex, looks, text
from reports.answer import answer
from reports.figures import Picture
from reports.table import Column, Table
from reports.view import View, outcome

if TYPE_CHECKING:
    from jinja2 import Template

MOST_TRIALS = 3000
"""Trials that a page lists."""
NO_AXIS = ("Trial", "Fallbacks", "Seconds")


def render(view: View, tables: list[Table], pictures: list[Picture], folder: Path) -> str:
    """The page; `folder` holds the saved files of `pictures`."""
    trials = _on_the_page(view, tables)
    columns = trial_columns(view, trials)
    identity = (trials["trial"], outcome(trials), trials["solver"])
    return _template("page.html.j2").render(
        view=view,
        answer=answer(view),
        tables=[(table, _downloads(table)) for table in tables],
        pictures=[(picture, _embedded(picture, folder)) for picture in pictures],
        trials=columns,
        axes=[_axis(column) for column in columns],
        rows=list(zip(*(column.astype(str) for column in identity), strict=True)),
        colours={solver: looks.look(solver, view.solvers).colour for solver in view.solvers},
        solvers={s: view.spec["solvers"].get(s, {}) for s in view.solvers},
    )


def render_comparison(
    facts: dict[str, str], tables: list[Table], pictures: list[Picture], folder: Path
) -> str:
    """The page of several studies side by side; `folder` holds the saved files of `pictures`."""
    return _template("compare.html.j2").render(
        facts=facts,
        tables=[(table, _downloads(table)) for table in tables],
        pictures=[(picture, _embedded(picture, folder)) for picture in pictures],
    )


def _template(name: str) -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(symbols=symbols, key=sort_key)
    return environment.get_template(name)


def _on_the_page(view: View, tables: list[Table]) -> pd.DataFrame:
    """The trials that the page lists: all, or of many those that a table refers to, and of each solver the
    best and an even share of the rest."""
    if len(view.trials) <= MOST_TRIALS:
        return view.trials
    named = {trial for table in tables for behind in table.behind.values() for trial in behind}
    linked = {link for table in tables for column in table.columns for link in column.links}
    each = max(1, MOST_TRIALS // (2 * len(view.solvers)))
    kept = view.trials["trial"].isin(named) | ("trial-" + view.trials["trial"].astype(str)).isin(linked)
    for solver in view.solvers:
        own = view.of_solver(solver)
        kept[own["objective"].nsmallest(each).index] = True
        kept[own.index[:: max(1, len(own) // each)]] = True
    return view.trials[kept]


def _axis(column: Column) -> str:
    """The scale of a column's axis in the parallel coordinates; "": it has none."""
    if column.heading in NO_AXIS or not all(_is_number(key) for key in column.keys):
        return ""
    values = np.array([key for key in column.keys if key is not None and np.isfinite(key)], dtype=float)
    if np.unique(values).size < 2:
        return ""
    return "log" if values.min() > 0 and values.max() > 100 * values.min() else "linear"


def _is_number(key: object) -> bool:
    return key is None or (isinstance(key, (int, float, np.number)) and not isinstance(key, bool))


def trial_columns(view: View, trials: pd.DataFrame) -> list[Column]:
    """Trials with their outcome, scores, configuration and cost."""
    kinds = outcome(trials)
    columns = [
        Column("Trial", list(trials["trial"].astype(str)), list(trials["number"])),
        Column("Outcome", list(kinds.astype(str)), list(kinds)),
        _scores(f"{view.heading(view.objective)} (objective)", trials["objective"]),
    ]
    metrics = [c for c in trials.columns if c.startswith("metric.") and c != f"metric.{view.objective}"]
    columns += [_scores(_heading(view, c.removeprefix("metric.")), trials[c]) for c in metrics]
    for name in view.parameters:
        values = view.values(trials, name)
        columns.append(Column(view.symbol(name), [text.parameter(v) for v in values], values))
    for heading, name, show in (
        ("Iterations", "upper_iterations", text.count),
        ("Samples", "ledger.total", text.count),
        ("Fallbacks", "system_fallbacks", text.count),
        ("Seconds", "seconds", text.seconds),
    ):
        columns.append(Column(heading, [show(v) for v in trials[name]], list(trials[name])))
    columns.append(Column("Reason", list(trials["reason"]), list(trials["reason"])))
    return [column for column in columns if any(cell not in ("", text.MISSING) for cell in column.cells)]


def _heading(view: View, metric: str) -> str:
    """With an arrow where solvers are judged by it; of a diagnostic neither direction is better."""
    return view.heading(metric) if metric == view.headline else view.short(metric)


def symbols(words: str) -> Markup:
    """`words` escaped, with η_LL shown as a letter and its subscript."""
    return Markup(re.sub(text.SYMBOL, r"\1<sub>\2</sub>", str(escape(words))))


def sort_key(value: object) -> str:
    """A cell's key for the page's script: a number where it is one, else the text; empty sorts last."""
    return "" if value is None or value != value else str(value)


def _scores(heading: str, values: pd.Series[float]) -> Column:
    digits = text.decimals(values)
    return Column(heading, [text.score(float(v), digits) for v in values], list(values))


def _downloads(table: Table) -> dict[str, str]:
    contents = {
        "csv": formats.to_csv(table),
        "tex": latex.table(table),
        "md": formats.to_markdown(table),
    }
    return {
        f"{table.name}.{kind}": _data("text/plain;charset=utf-8", c.encode()) for kind, c in contents.items()
    }


def _embedded(picture: Picture, folder: Path) -> dict[str, str]:
    kinds = {"svg": "image/svg+xml", "pdf": "application/pdf"}
    files = {f"{picture.name}.{suffix}": media for suffix, media in kinds.items()}
    return {name: _data(media, (folder / name).read_bytes()) for name, media in files.items()}


def _data(media: str, content: bytes) -> str:
    return f"data:{media};base64,{base64.b64encode(content).decode()}"
