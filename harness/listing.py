"""`harness list` and `harness show`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.errors import HarnessError, nearest
from harness.params import MOST_STEPS, Parameter, parameters
from harness.plugins import PLUGIN_KINDS, Plugin, Plugins
from harness.solver import Needs, Solver
from harness.space import find_space, in_words


def print_list(files: Sequence[Path]) -> None:
    plugins = Plugins(files)
    table = _table("kind", "name", "what it is, and from where")
    for kind in PLUGIN_KINDS:
        for name in plugins.names(kind):
            plugin = plugins.get(kind, name)
            table.add_row(kind, Text(name), Text(f"{_summary(plugin)}\n{plugin.origin}"))
    for file, why in plugins.broken.items():
        table.add_row("?", "", Text(f"error: {why}\n{file}"))
    console = Console()
    console.print(table)
    console.print(_what_runs_where(plugins))


def _what_runs_where(plugins: Plugins) -> Table:
    """Solvers by problems; what depends on the data is said in the last column."""
    problems = {
        name: found for name in plugins.names("problem") if (found := _loaded(plugins, "problem", name))
    }
    table = Table(box=None, header_style="bold", title="what runs where", title_justify="left")
    table.add_column("solver", no_wrap=True)
    for name in problems:
        table.add_column(name.replace("_", " "), justify="center", overflow="fold")
    table.add_column("where")
    for name in plugins.names("solver"):
        solver = _loaded(plugins, "solver", name)
        if solver is not None:
            unmet = [solver.needs.unmet(problem) for problem in problems.values()]
            marks = ["–" if why else "•" for why in unmet]
            table.add_row(Text(name), *marks, Text(needs_in_words(solver.needs)))
    return table


def _loaded(plugins: Plugins, kind: str, name: str) -> Any:
    """A plug-in's class; None where it cannot be imported, which the list above says."""
    try:
        return plugins.get(kind, name).load()
    except HarnessError:
        return None


def needs_in_words(needs: Needs) -> str:
    """Empty: nothing."""
    words = []
    if needs.loss:
        words.append("the lower level is a loss, not a map")
    if needs.one_lower_problem:
        words.append("one lower problem for all examples")
    if needs.dim_y is not None:
        words.append(f"at most {needs.dim_y} lower variables")
    return "; ".join(words)


def _table(*heads: str) -> Table:
    """Readable on 80 columns: names whole, long words folded in the last column."""
    table = Table(box=None, header_style="bold")
    for head in heads[:-1]:
        table.add_column(head, no_wrap=True)
    table.add_column(heads[-1], overflow="fold")
    return table


def _summary(plugin: Plugin) -> str:
    try:
        loaded = plugin.load()
    except HarnessError as error:
        return f"error: {error}"
    return f"{loaded.label} — {loaded.reference}"


def print_plugin(name: str, files: Sequence[Path]) -> None:
    plugins = Plugins(files)
    kinds = [kind for kind in PLUGIN_KINDS if name in plugins.names(kind)]
    if not kinds:
        every = [known for kind in PLUGIN_KINDS for known in plugins.names(kind)]
        raise HarnessError(f"unknown problem or solver {name!r}; {nearest(name, every)}")
    for kind in kinds:
        plugin = plugins.get(kind, name)
        loaded = plugin.load()
        table = _table("parameter", "symbol", "default", "meaning")
        for parameter_name, parameter in parameters(loaded).items():
            default = "required" if parameter.required else str(parameter.default)
            cells = (parameter_name, parameter.symbol, default, _meaning(parameter))
            table.add_row(*map(Text, cells))
        console = Console()
        lines = [f"{kind} {name}: {loaded.label}", f"reference: {loaded.reference}", f"file: {plugin.origin}"]
        if kind == "solver":
            lines.insert(2, f"defined where: {needs_in_words(loaded.needs) or 'everywhere'}")
        console.print(Text("\n".join(lines)))
        console.print(table)
        if kind == "solver" and (usual := _usual(plugins, name, loaded)).row_count:
            console.print(usual)


def _usual(plugins: Plugins, solver: str, plugin: type[Solver[Any]]) -> Table:
    """What the shipped search spaces give a solver, but for values that are its defaults."""
    table, known = _table("on", "usual ranges"), parameters(plugin)
    for problem in plugins.names("problem"):
        shipped = find_space(problem, None)
        if solver in shipped.solvers():
            entries = shipped.space(solver, plugin).entries
            own = {name: e for name, e in entries.items() if e != {"value": known[name].default}}
            table.add_row(Text(problem), Text("; ".join(f"{name} {in_words(e)}" for name, e in own.items())))
    return table


def _meaning(parameter: Parameter) -> str:
    words = [parameter.meaning]
    if parameter.choices is not None:
        words.append(f"one of {', '.join(map(str, parameter.choices))}")
    if parameter.low is not None:
        words.append(f"at least {parameter.low:g}")
    if parameter.high is not None and parameter.high < MOST_STEPS:
        words.append(f"at most {parameter.high:g}")
    return "; ".join(words)
