"""The reference of the command line, from its own declarations: docs/command-line.md.

python -m upkeep.command_line > docs/command-line.md
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, get_args, get_type_hints

from typer.models import ArgumentInfo

from harness.cli import app
from upkeep.algorithms import markdown

HEAD = """# Command line

Made by `python -m upkeep.command_line`; `harness COMMAND --help` says the same. `harness
--install-completion` teaches your shell the commands, the options, and the names of problems and solvers.

`harness --version` says the version. `--debug`, anywhere, shows an error with its traceback. Exit codes: 0; 1
where `check` or `replay` finds a difference; 2 for an error, said in one line on stderr; 130 after Ctrl-C.
"""
TYPES = {"Path": "PATH", "int": "INTEGER", "float": "NUMBER", "str": "TEXT"}


class Option(NamedTuple):
    """argument: given by its place. word: as it is typed."""

    argument: bool
    word: str
    default: str
    meaning: str


def options(command: Callable[..., Any]) -> Iterator[Option]:
    """What a command's function declares."""
    hints = get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        kind, *declared = get_args(hints[name]) or (None,)
        if not declared:
            continue  # the context
        info = declared[0]
        default = "required" if parameter.default is parameter.empty else parameter.default
        said = "" if default in (None, "", False) else str(default)
        if isinstance(info, ArgumentInfo):
            yield Option(True, info.metavar or name.upper(), said, info.help or "")
            continue
        given = [word for word in (info.default, *(info.param_decls or ())) if str(word).startswith("--")]
        word = given[0] if given else f"--{name.replace('_', '-')}"
        taken = info.metavar or next((text for type_, text in TYPES.items() if type_ in str(kind)), "")
        yield Option(False, f"{word} {taken}".strip(), said, info.help or "")


def section(name: str, command: Callable[..., Any]) -> str:
    found = list(options(command))
    arguments = [option.word for option in found if option.argument]
    rows = [[f"`{o.word}`", f"`{o.default}`" if o.default else "", o.meaning] for o in found]
    usage = " ".join(["harness", name, *arguments, "[OPTIONS]"])
    table = markdown(["option", "default", "meaning"], rows)
    return f"## harness {name}\n\n{command.__doc__}\n\n```text\n{usage}\n```\n\n{table}\n"


def main() -> None:
    sections = []
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        sections.append(section(name, command.callback))
    sys.stdout.write("\n".join([HEAD, *sections]))


if __name__ == "__main__":
    main()
