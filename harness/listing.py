"""`harness list` and `harness show`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.errors import HarnessError, nearest
from harness.params import Parameter, parameters
from harness.plugins import PLUGIN_KINDS, Plugin, Plugins


def print_list(files: Sequence[Path]) -> None:
    plugins = Plugins(files)
    table = _table("kind", "name", "what it is, and from where")
    for kind in PLUGIN_KINDS:
        for name in plugins.names(kind):
            plugin = plugins.get(kind, name)
            table.add_row(kind, Text(name), Text(f"{_summary(plugin)}\n{plugin.origin}"))
    for file, why in plugins.broken.items():
        table.add_row("?", "", Text(f"error: {why}\n{file}"))
    Console().print(table)


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
        console.print(
            Text(f"{kind} {name}: {loaded.label}\nreference: {loaded.reference}\nfile: {plugin.origin}")
        )
        console.print(table)


def _meaning(parameter: Parameter) -> str:
    words = [parameter.meaning]
    if parameter.choices is not None:
        words.append(f"one of {', '.join(map(str, parameter.choices))}")
    if parameter.low is not None:
        words.append(f"at least {parameter.low:g}")
    return "; ".join(words)
