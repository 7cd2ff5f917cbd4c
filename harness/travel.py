"""What goes to a worker's node: plug-in files by content, and the versions that must agree."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import torch
from platformdirs import user_cache_path

import harness
from harness.data import data_folder
from harness.errors import HarnessError, last_line
from harness.plugins import SOURCES, mark_of
from harness.watched import Watched, working
from harness.worker import Context, Spent, Worker

BYTES = "latin-1"
"""Of a plug-in file as text: each byte is one character, whatever its encoding."""


def packed(context: Context, solvers: Iterable[str]) -> str:
    """A context as text, with the plug-in files and the solvers that a worker must load."""
    folder = data_folder(Path(context.data_dir) if context.data_dir else None)
    whole = dataclasses.replace(context, solvers=list(solvers), data_dir=str(folder) if folder else None)
    sources = {file: Path(file).read_bytes().decode(BYTES) for file in context.plugins}
    return json.dumps({"context": whole.to_json(), "sources": sources, "versions": versions()})


def unpacked(text: str) -> Context:
    """The context on this node: the driver's plug-in files where they are the same here, copies where not;
    the driver's data folder where there is one, else this node's $HARNESS_DATA or cache.

    Raises HarnessError: a version differs."""
    given = json.loads(text)
    require_same_versions(given["versions"])
    context = Context.from_json(given["context"])
    plugins = [str(_here(Path(file), content.encode(BYTES))) for file, content in given["sources"].items()]
    data_dir = context.data_dir if context.data_dir and Path(context.data_dir).is_dir() else None
    return dataclasses.replace(context, plugins=plugins, data_dir=data_dir)


def _here(file: Path, content: bytes) -> Path:
    """A file of this name with this content. Copies lie in the user's cache by fingerprint, under their own
    names, so that errors say the same as the driver's."""
    if _holds(file, content):
        return file
    copy = user_cache_path("bilevel-harness") / SOURCES / mark_of(content) / file.name
    if not _holds(copy, content):
        copy.parent.mkdir(parents=True, exist_ok=True)
        scratch = copy.with_suffix(f".{os.getpid()}")
        scratch.write_bytes(content)
        scratch.replace(copy)
    return copy


def _holds(file: Path, content: bytes) -> bool:
    try:
        return file.read_bytes() == content
    except OSError:
        return False


def versions() -> dict[str, str]:
    """What nodes must agree on; builds of PyTorch for different devices are one version."""
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "torch": torch.__version__.partition("+")[0],
        "bilevel-harness": f"{version('bilevel-harness')} (source {_source()})",
    }


def _source() -> str:
    """The fingerprint of the installed files: checkouts differ where versions do not."""
    home, found = Path(harness.__file__).resolve().parents[1], sha256()
    for package in ("harness", "problems", "solvers"):
        for file in sorted((home / package).rglob("*.py")):
            found.update(file.relative_to(home).as_posix().encode() + b"\0" + file.read_bytes())
    return found.hexdigest()[:8]


def require_same_versions(driver: Mapping[str, str]) -> None:
    here = versions()
    differing = [
        f"{name} {here[name]} instead of {wanted}" for name, wanted in driver.items() if here[name] != wanted
    ]
    if differing:
        raise HarnessError(f"it has {', '.join(differing)}; install what the driver has")


def begun(text: str, spent: Spent, opened: ExitStack) -> tuple[Worker | Watched | None, str]:
    """A worker on this node, and "", or none and why; it ends with `opened`."""
    try:
        return opened.enter_context(working(unpacked(text), spent)), ""
    except Exception as error:  # noqa: BLE001 - no trial's failure: the driver says it
        return None, str(error) if isinstance(error, HarnessError | OSError) else last_line(error)
