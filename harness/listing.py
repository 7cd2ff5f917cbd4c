"""`harness list` and `harness show`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.errors import HarnessError, nearest
from harness.params import Parameter, parameters
from harness.plugins import KINDS, Plugin, Plugins


def print_list(files: Sequence[Path]) -> None:
    plugins = Plugins(files)
    table = Table("kind", "name", "what it is", "from")
    for kind in KINDS:
        for name in plugins.names(kind):
            plugin = plugins.get(kind, name)
            table.add_row(kind, Text(name), Text(_summary(plugin)), Text(plugin.origin))
    for file, why in plugins.broken.items():
        table.add_row("?", "", Text(f"error: {why}"), Text(file))
    Console().print(table)


def _summary(plugin: Plugin) -> str:
    try:
        loaded = plugin.load()
    except HarnessError as error:
        return f"error: {error}"
    return f"{loaded.label} — {loaded.reference}"


def print_plugin(name: str, files: Sequence[Path]) -> None:
    plugins = Plugins(files)
    kinds = [kind for kind in KINDS if name in plugins.names(kind)]
    if not kinds:
        every = [known for kind in KINDS for known in plugins.names(kind)]
        raise HarnessError(f"unknown problem or solver {name!r}; {nearest(name, every)}")
    for kind in kinds:
        plugin = plugins.get(kind, name)
        loaded = plugin.load()
        table = Table("parameter", "symbol", "meaning", "default", "least value", "choices")
        for parameter_name, parameter in parameters(loaded).items():
            table.add_row(*map(Text, (parameter_name, *_cells(parameter))))
        console = Console()
        console.print(
            Text(f"{kind} {name}: {loaded.label}\nreference: {loaded.reference}\nfile: {plugin.origin}")
        )
        console.print(table)


def _cells(parameter: Parameter) -> tuple[str, ...]:
    return (
        parameter.symbol,
        parameter.meaning,
        "required" if parameter.required else str(parameter.default),
        "" if parameter.low is None else f"{parameter.low:g}",
        "" if parameter.choices is None else ", ".join(map(str, parameter.choices)),
    )
