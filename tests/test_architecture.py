"""The arrows between the packages, the weight of an import, and the shape of a solver file."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = ("problems", "solvers", "search_spaces", "reports")
PACKAGES = ("harness", *PLUGINS)
HEAVY = ("torch", "ray", "optuna", "pandas", "seaborn")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
ENGINE = [path for path in SOURCES if path.is_relative_to(ROOT / "harness")]
SOLVERS = sorted(path for path in (ROOT / "solvers").glob("*.py") if path.name != "__init__.py")
PROBLEMS = sorted((ROOT / "problems").glob("*.py"))


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _imports(node: ast.AST, inside: bool = False) -> Iterator[tuple[str, bool]]:
    """Top-level names of the imported modules, and whether the import is inside a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name.partition(".")[0], inside) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative import"
            yield (child.module or "").partition(".")[0], inside
        function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _imports(child, inside or function)


def _run(code: str, folder: Path) -> list[str]:
    """The lines a fresh interpreter prints that sees installed packages only."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=folder, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def _loaded(code: str, folder: Path) -> set[str]:
    """Which heavy packages are loaded after running `code`."""
    lines = _run(f"{code}\nimport sys\nprint(*(n for n in {HEAVY!r} if n in sys.modules))", folder)
    return set(lines[-1].split())


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_arrows_point_one_way(path: Path) -> None:
    """harness names no plug-in package, and these do not name each other. One door stays open:
    harness/cli.py may import reports inside a function."""
    package = _name(path).partition("/")[0]
    forbidden = set(PLUGINS) - {package}
    found = set(_imports(_tree(path)))
    if _name(path) == "harness/cli.py":
        found.discard(("reports", True))
    assert forbidden.isdisjoint(module for module, _ in found)


def _foreign_names(tree: ast.Module) -> Iterator[str]:
    """Every name that is imported, or read off anything but self, cls or a class of the module."""
    own = {"self", "cls"} | {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) not in own:
            yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (*(node.module or "").split("."), *(alias.name for alias in node.names))
        elif isinstance(node, ast.Import):
            yield from (part for alias in node.names for part in alias.name.split("."))


@pytest.mark.parametrize("path", ENGINE, ids=_name)
def test_the_engine_uses_public_names_only(path: Path) -> None:
    assert not [name for name in _foreign_names(_tree(path)) if re.match("_[^_]", name) and name != "_exit"]


@pytest.mark.parametrize("path", ENGINE, ids=_name)
def test_the_engine_imports_nothing_by_a_string(path: Path) -> None:
    """Else an arrow could point the wrong way unseen. Plug-ins arrive by entry points and files only."""
    names = {getattr(node, key, None) for node in ast.walk(_tree(path)) for key in ("id", "attr", "name")}
    assert {"import_module", "__import__", "run_module"}.isdisjoint(names)


@pytest.mark.parametrize("path", sorted((ROOT / "reports").rglob("*.py")), ids=_name)
def test_reports_need_no_engine_libraries(path: Path) -> None:
    assert {"torch", "optuna", "ray"}.isdisjoint(module for module, _ in _imports(_tree(path)))


def test_packages_are_ours(tmp_path: Path) -> None:
    """The names are generic: another distribution's package must not shadow them."""
    find = f"from importlib.util import find_spec\nfor n in {PACKAGES!r}: print(find_spec(n).origin)"
    found = [Path(line).resolve() for line in _run(find, tmp_path)]
    assert found == [ROOT / package / "__init__.py" for package in PACKAGES]


def test_import_is_light(tmp_path: Path) -> None:
    assert _loaded("import harness", tmp_path) == set()


def test_the_doors_for_notebooks_are_light(tmp_path: Path) -> None:
    assert _loaded("import harness.notebook", tmp_path) == set()
    assert _loaded("import reports.notebook", tmp_path) == {"pandas"}


def test_what_only_reads_imports_no_torch(tmp_path: Path) -> None:
    assert _loaded("import harness.reading", tmp_path) == set()
    assert _loaded("import harness.reading, reports.report, reports.compare", tmp_path) == {"pandas"}


def test_help_is_light(tmp_path: Path) -> None:
    code = (
        "import sys\nsys.argv = ['harness', '--help']\nfrom harness.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code"
    )
    assert _loaded(code, tmp_path) == set()


WORKER = """
import sys
from pathlib import Path
from harness.rules import Rules
from harness.worker import Pack, Worker, make_context
plugins = [Path(path) for path in {plugins!r}]
worker = Worker(make_context(*{words!r}, plugins, None, None, "cpu", Rules(1000, {{}}, 1), 0.0))
config = dict(upper_step_size=0.1, lower_step_size=0.1, system_step_size=0.1, lower_steps=1, system_steps=1)
(result,) = worker.run(Pack("bsgm", (0,), (config,)))
assert result.upper_iterations > 1, result
print("torch._dynamo" in sys.modules)
"""


@pytest.mark.parametrize(
    ("words", "plugins"),
    [
        (("quadratic", ["upper_dim=3", "lower_dim=2"]), []),
        (("toy_quadratic", []), [str(ROOT / "tests" / "harness" / "toy_plugin.py")]),
    ],
    ids=["closed forms", "derived"],
)
def test_no_worker_imports_pytorchs_compiler(
    words: tuple[str, list[str]], plugins: list[str], tmp_path: Path
) -> None:
    """torch.func's grad does, and takes seconds."""
    assert _run(WORKER.format(words=words, plugins=plugins), tmp_path)[-1] == "False"


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_no_print_no_global(path: Path) -> None:
    for node in ast.walk(_tree(path)):
        assert not isinstance(node, ast.Global), f"global at line {node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"print at line {node.lineno}"


@pytest.mark.parametrize("path", SOLVERS, ids=_name)
def test_solver_files_cite_and_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    doc = ast.get_docstring(ast.parse(text)) or ""
    assert re.search(r"\b(19|20)\d\d\b", doc)
    assert "Differs from the paper" in doc
    assert len(text.splitlines()) <= 250


def _modules(path: Path) -> set[str]:
    """The modules that a file imports from, in full."""
    nodes = list(ast.walk(_tree(path)))
    named = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return named | {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}


@pytest.mark.parametrize("path", [*SOLVERS, *PROBLEMS], ids=_name)
def test_plugins_know_the_interface_only(path: Path) -> None:
    """Of the engine `harness.api`, problems also `harness.data`, which reads their files; no solver."""
    ours = {module for module in _modules(path) if module.partition(".")[0] in ("harness", "solvers")}
    assert ours <= ({"harness.api", "harness.data"} if path in PROBLEMS else {"harness.api"})


@pytest.mark.parametrize("path", SOLVERS, ids=_name)
def test_solver_files_need_little_else(path: Path) -> None:
    assert _modules(path) <= {"harness.api", "abc", "dataclasses", "typing", "math", "torch"}
