"""A study file: the settings of `harness run` as TOML, to repeat and to cite.

    problem = "data_poisoning"
    solvers = "bsgm,alset"
    trials = 200
    budget = 2000000
    plugin = ["my_method.py"]

    [set]
    dataset = "digits"

Keys are the long options, `data-seed` as `data_seed`; [set] and [price] are tables. Paths are relative to the
file. What stands on the command line beats the file.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, nearest

TABLES = {"set": "options", "price": "price"}
"""Tables of NAME = VALUE, and the parameters of the command that take them as words."""
PATHS = {"space", "plugin", "out", "data_dir"}
NOT_IN_A_FILE = {"config", "save_config", "dry_run"}
RENAMED = {"set": "options", "plugin": "plugins"}


def read_config(path: Path, known: Iterable[str]) -> dict[str, Any]:
    """Values by the names of the command's parameters. known: those names. Raises HarnessError: no such file,
    not TOML, an unknown key."""
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise HarnessError(f"--config {path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # also what is no UTF-8, or has no end
        raise HarnessError(f"--config {path} is not valid TOML: {error}") from None
    return by_parameter(values, known, f"--config {path}", path.parent)


def by_parameter(values: Mapping[str, Any], known: Iterable[str], where: str, folder: Path) -> dict[str, Any]:
    """Values by the names of a command's parameters. values: by key of a file. where: they come from, in
    words. folder: what paths are relative to. Raises HarnessError: unknown key, value of another kind."""
    back = {parameter: key for key, parameter in RENAMED.items()}
    keys = {back.get(name, name) for name in known} - NOT_IN_A_FILE
    found = {}
    for key, value in values.items():
        if key not in keys:
            raise HarnessError(f"{where}: unknown key {key!r}; {nearest(key, keys)}")
        found[RENAMED.get(key, key)] = _as_words(where, folder, key, value)
    return found


def _as_words(where: str, folder: Path, key: str, value: Any) -> Any:
    if key in TABLES:
        if not isinstance(value, dict):
            raise HarnessError(f"{where}: {key} must be a table of NAME = VALUE, but got {value!r}")
        return [f"{name}={_text(inner)}" for name, inner in value.items()]
    if key == "plugin":
        if not isinstance(value, list):
            raise HarnessError(f"{where}: plugin must be a list of files, but got {value!r}")
        return [str(folder / str(file)) for file in value]
    if isinstance(value, dict | list):
        raise HarnessError(f"{where}: {key} must be one value, but got {value!r}")
    return str(folder / value) if key in PATHS and isinstance(value, str | Path) else value


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def write_config(path: Path, values: Mapping[str, Any]) -> None:
    """values: by key of the file; None: left out. Raises HarnessError: the file exists."""
    lines, tables = ["# harness run --config " + path.name], []
    for key, value in values.items():
        if value is None or value == {} or value == []:
            continue
        if isinstance(value, Mapping):
            tables += ["", f"[{key}]", *(f"{name} = {toml_value(inner)}" for name, inner in value.items())]
        else:
            lines.append(f"{key} = {toml_value(_relative(path, key, value))}")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write("\n".join([*lines, *tables]) + "\n")
    except FileExistsError:
        raise HarnessError(f"--save-config {path} exists already; remove it, or give another name") from None


def _relative(path: Path, key: str, value: Any) -> Any:
    if key not in PATHS:
        return value
    files = value if isinstance(value, list) else [value]
    found = [os.path.relpath(Path(file).resolve(), path.resolve().parent) for file in files]
    return found if isinstance(value, list) else found[0]


def toml_value(value: Any) -> str:
    """A number, a word, a switch or a list of these, as TOML writes it."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False)
