"""Folders and files of a user's that stand in the way of an import of ours."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from harness.errors import HarnessError

PACKAGES = ("problems", "solvers", "search_spaces", "reports", "recipes")
"""Installed beside `harness`, under common names."""


def require_unshadowed() -> None:
    """Raises HarnessError where Python finds another package under a name of ours."""
    home = Path(__file__).resolve().parents[1]
    for name in PACKAGES:
        spec = find_spec(name)
        found = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if found is not None and found != home / name and (home / name).is_dir():
            raise HarnessError(_in_the_way(name, found))


def require_clear(folder: Path) -> None:
    """Workers of Ray look in the driver's folder first. Raises HarnessError where something there has the
    name of what we import."""
    for entry in sorted(folder.iterdir()):
        package = (entry / "__init__.py").is_file()
        name = entry.stem if entry.suffix == ".py" else entry.name
        if (package or entry.suffix == ".py") and _wanted(name):
            spec = find_spec(name)
            if spec and spec.origin and not Path(spec.origin).resolve().is_relative_to(folder.resolve()):
                raise HarnessError(_in_the_way(name, entry.resolve(), "would be"))


def _wanted(name: str) -> bool:
    ours = name in PACKAGES or name in sys.modules
    return ours and name not in sys.stdlib_module_names and name != "__main__"


def shadowed_by(error: BaseException) -> str | None:
    """Of an import that failed, the module of the user's that stands in the way, in words; None: none."""
    if not isinstance(error, ImportError | AttributeError):
        return None
    name = (getattr(error, "name", None) or "").partition(".")[0]
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    here = Path.cwd()
    if file and Path(file).resolve().is_relative_to(here) and "site-packages" not in Path(file).parts:
        return _in_the_way(name, Path(file).resolve())
    return None


def _in_the_way(name: str, found: Path, verb: str = "is") -> str:
    return (
        f"{found} {verb} imported as {name!r} in place of the installed one; rename it, or run harness from "
        "another folder and without it on PYTHONPATH"
    )
