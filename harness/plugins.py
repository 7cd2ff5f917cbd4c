"""Finding problems and solvers: entry points of installed distributions, and `--plugin FILE.py`.

Nothing is imported before it is asked for, so a plug-in that fails to import breaks only what uses it.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, last_line, nearest

if TYPE_CHECKING:
    from harness.problem import Problem
    from harness.solver import Solver

PLUGIN_KINDS = ("problem", "solver")
SOURCES = "plugins"


@dataclass(frozen=True)
class Plugin:
    """A named problem or solver; `origin` is the file (or module) it comes from."""

    kind: str
    name: str
    origin: str
    loader: Callable[[], Any]

    def load(self) -> Any:
        """The class. Raises HarnessError where its module cannot be imported."""
        try:
            return self.loader()
        except HarnessError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a plug-in does on import, one line
            raise HarnessError(
                f"{self.kind} {self.name!r} cannot be imported from {self.origin}: {last_line(error)}"
            ) from None


class Plugins:
    """Every problem and solver that can be named; `broken` holds the plug-in files that cannot be read."""

    def __init__(self, files: Sequence[Path] = ()) -> None:
        self._found: dict[str, dict[str, Plugin]] = {kind: {} for kind in PLUGIN_KINDS}
        self.broken: dict[str, str] = {}
        for kind in PLUGIN_KINDS:
            self._add(_installed(kind))
        for file in dict.fromkeys(path.resolve() for path in files):
            try:
                self._add(_in_file(file))
            except _Unreadable as error:
                self.broken[str(file)] = str(error)

    def _add(self, plugins: Iterable[Plugin]) -> None:
        for plugin in plugins:
            known = self._found[plugin.kind].setdefault(plugin.name, plugin)
            if known is not plugin:
                raise HarnessError(
                    f"two {plugin.kind}s are called {plugin.name!r}: {known.origin} and {plugin.origin}; "
                    "rename one"
                )

    def names(self, kind: str) -> list[str]:
        return sorted(self._found[kind])

    def get(self, kind: str, name: str) -> Plugin:
        if name not in self._found[kind]:
            hint = "".join(f"; {file} cannot be imported: {why}" for file, why in self.broken.items())
            raise HarnessError(f"unknown {kind} {name!r}; {nearest(name, self._found[kind])}{hint}")
        return self._found[kind][name]

    def problem(self, name: str) -> type[Problem]:
        """The class of a problem. Raises HarnessError: unknown name, import failure."""
        loaded: type[Problem] = self.get("problem", name).load()
        return loaded

    def solver(self, name: str) -> type[Solver[Any]]:
        """The class of a solver. Raises HarnessError: unknown name, import failure."""
        loaded: type[Solver[Any]] = self.get("solver", name).load()
        return loaded


def _installed(kind: str) -> list[Plugin]:
    points = {(point.name, point.value): point for point in entry_points(group=f"harness.{kind}s")}
    return [Plugin(kind, point.name, _origin(point), point.load) for point in points.values()]


def _origin(point: EntryPoint) -> str:
    """The file of an entry point's module, without importing it; its name where that is not found."""
    try:
        spec = importlib.util.find_spec(point.module)
    except (ImportError, AttributeError, ValueError):
        spec = None
    return spec.origin if spec is not None and spec.origin else point.value


class _Unreadable(Exception):
    pass


def _in_file(file: Path) -> list[Plugin]:
    """The problems and solvers that a file defines, under the snake_case of their class names."""
    from harness.problem import Problem
    from harness.solver import Solver

    if not file.is_file():
        raise HarnessError(f"plug-in file {file} does not exist; check --plugin")
    module = _import_file(file)
    found: list[Plugin] = []
    for kind, base in zip(PLUGIN_KINDS, (Problem, Solver), strict=True):
        for value in vars(module).values():
            if inspect.isclass(value) and issubclass(value, base) and value.__module__ == module.__name__:
                if not inspect.isabstract(value):
                    found.append(Plugin(kind, snake_case(value.__name__), str(file), _constant(value)))
    return found


def _constant(value: Any) -> Callable[[], Any]:
    return lambda: value


def _import_file(file: Path) -> ModuleType:
    """Import once per file; the module stays in sys.modules because dataclasses look there."""
    name = f"harness_plugin_{file.stem}_{sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    from harness.surroundings import restored

    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise _Unreadable("not a Python file (expected NAME.py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with restored():
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - listed with its error, breaks nothing else
        del sys.modules[name]
        raise _Unreadable(last_line(error)) from None
    return module


def snake_case(name: str) -> str:
    """MySolverV2 -> my_solver_v2."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def fingerprint(files: Sequence[Path]) -> dict[str, str]:
    """Plug-in files with the start of the SHA-256 of their content, for the study's specification."""
    return {str(path.resolve()): mark_of(path.read_bytes()) for path in files if path.is_file()}


def mark_of(content: bytes) -> str:
    return sha256(content).hexdigest()[:16]


def kept_source(folder: Path, mark: str) -> Path | None:
    """A study's copy of the plug-in file with this fingerprint; it is never run unless it is named."""
    return next((folder / SOURCES).glob(f"*_{mark}.py"), None)


def keep_sources(folder: Path, plugins: Mapping[str, str]) -> None:
    """Copy plug-in files into a study's folder."""
    for file, mark in plugins.items():
        copy = folder / SOURCES / f"{Path(file).stem}_{mark}.py"
        if not copy.exists() or mark_of(copy.read_bytes()) != mark:
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(Path(file).read_bytes())


def require_source(plugin: Plugin, files: Sequence[Path], marks: Collection[str], folder: Path) -> None:
    """Raises HarnessError where a plug-in's file has none of these fingerprints ("": it is installed)."""
    found = fingerprint(files).get(plugin.origin, "")
    if found not in marks:
        copies = [str(copy) for mark in marks if (copy := kept_source(folder, mark))]
        hint = f"look at its copy and give it as --plugin {' or '.join(copies)}" if copies else "restore it"
        raise HarnessError(
            f"{plugin.kind} {plugin.name!r} of {plugin.origin} is not the one of {folder} (its fingerprint "
            f"is {found or 'none'} instead of {' or '.join(marks)}); {hint}"
        )
