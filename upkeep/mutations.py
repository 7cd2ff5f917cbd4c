"""Small wrong edits of a source file, and which of them the tests do not notice.

python -m upkeep.mutations solvers/soba.py --tests tests/solvers --traced runs/traced.json --out runs/soba.md

For every file: mutants with one changed place each (operators, constants, comparisons, a term left out, a
stale or mistaken variable, another batch, another step size, an upper iteration off by one), a random
choice of `--most` of them. A mutant is served to the tests in place of the file by an import hook, in a
fork of a process that has the heavy libraries loaded; the tests that run the mutated function, the quick
ones first, stop at the first failure. A mutant that hangs counts as caught. What survives is listed with
its line: an equivalent edit, or a test that is missing.
"""

import argparse
import ast
import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
SWAPS: dict[type, type] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult},
    **{ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.MatMult: ast.Add},
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq},
    **{ast.NotEq: ast.Eq, ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd},
    **{ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In},
}
SIGNS: dict[type, str] = {
    **{
        ast.Add: "+",
        ast.Sub: "-",
        ast.Mult: "*",
        ast.Div: "/",
        ast.FloorDiv: "//",
        ast.Mod: "%",
        ast.Pow: "**",
    },
    **{ast.MatMult: "@", ast.BitAnd: "&", ast.BitOr: "|"},
}
LEVELS = ("lower", "upper", "system", "penalised")
NOT_MUTATED = ("held", "memory", "__repr__")  # estimates of memory
WAIT = 60.0  # seconds a mutant may take beyond ten times its tests


@dataclass(frozen=True)
class Mutant:
    """function: the one it lies in; edit: what became what, in its line."""

    line: int
    function: str
    edit: str
    source: str


class _Places(ast.NodeVisitor):
    """Every place of a file that can be edited: (node, replacement, function)."""

    def __init__(self, text: str) -> None:
        self.text, self.function, self.found = text, "", list[tuple[ast.expr | ast.stmt, str, str]]()
        self.names: set[str] = set()
        self.aliases: set[str] = set()
        self.phases = sorted(set(re.findall(r'(?:_batch(?:es)?|loop|when)\([^"\n]*"(\w+)"', text)))
        self.attributes = set(re.findall(r"\b(?:self|method)\.(\w+)", text))
        self.fields = set(re.findall(r"\bstate\.(\w+)", text))

    def add(self, node: ast.expr | ast.stmt, replacement: str) -> None:
        if (
            self.function.split(".")[-1] not in NOT_MUTATED
            and ast.get_source_segment(self.text, node) != replacement
        ):
            self.found.append((node, replacement, self.function))

    def of(self, node: ast.AST) -> str:
        return ast.get_source_segment(self.text, node) or ""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer, names, self.function = self.function, self.names, f"{self.function}.{node.name}".strip(".")
        inner = [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        self.names = names | {arg.arg for arg in node.args.args} | set(inner)
        aliases, self.aliases = self.aliases, self.aliases | _aliases(node, inner)
        for statement in node.body:
            if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
                self.visit(statement)
        self.function, self.names, self.aliases = outer, names, aliases

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        outer, self.function = self.function, f"{self.function}.{node.name}".strip(".")
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef):
                self.visit(statement)
        self.function = outer

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        """A message is not judged."""

    def visit_Assert(self, node: ast.Assert) -> None:
        """For the type checker."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """A message."""

    def visit_BinOp(self, node: ast.BinOp) -> None:
        left, right, kind = self.of(node.left), self.of(node.right), type(node.op)
        if kind in SWAPS:
            self.add(node, f"({left}) {SIGNS[SWAPS[kind]]} ({right})")
        if kind in (ast.Add, ast.Sub):
            self.add(node, f"({left})")
            self.add(node, f"({right})" if kind is ast.Add else f"(-({right}))")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.USub | ast.Not | ast.Invert):
            self.add(node, f"({self.of(node.operand)})")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        if len(node.ops) == 1 and type(node.ops[0]) in SWAPS:
            mutated = ast.Compare(node.left, [SWAPS[type(node.ops[0])]()], node.comparators)
            self.add(node, f"({ast.unparse(mutated)})")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self.add(node, f"({ast.unparse(ast.BoolOp(SWAPS[type(node.op)](), node.values))})")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.add(node, f"({self.of(node.body)})")
        self.add(node, f"({self.of(node.orelse)})")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if type(node.op) in SWAPS:
            target, value = self.of(node.target), self.of(node.value)
            self.add(node, f"{target} {SIGNS[SWAPS[type(node.op)]]}= {value}")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.add(node, str(not node.value))
        elif isinstance(node.value, int):
            self.add(node, str(node.value + 1))
        elif isinstance(node.value, float):
            self.add(node, str(2 * node.value + (node.value == 0)))
        elif isinstance(node.value, str) and node.value in self.phases:
            others = [phase for phase in self.phases if phase != node.value]
            if others:
                self.add(node, f'"{others[len(node.value) % len(others)]}"')

    def visit_Attribute(self, node: ast.Attribute) -> None:
        owner = self.of(node.value)
        if owner in ("self", "method"):
            for one in LEVELS:
                for two in LEVELS:
                    other = two + node.attr.removeprefix(one)
                    if one != two and node.attr.startswith(one + "_") and other in self.attributes:
                        self.add(node, f"{owner}.{other}")
        if node.attr == "iteration":
            self.add(node, f"({self.of(node)} + 1)")
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if not isinstance(node.ctx, ast.Load):
            return
        stale = "state" in self.names and node.id not in self.aliases
        if stale and node.id in self.fields and node.id in self.names:
            self.add(node, f"state.{node.id}")
        for other in sorted(self.names):
            if other != node.id and node.id in self.names and _stem(other) == _stem(node.id):
                self.add(node, other)

    def visit_Call(self, node: ast.Call) -> None:
        self.visit(node.func)
        for argument in node.args:
            self.visit(argument)
        for keyword in node.keywords:
            self.visit(keyword.value)


def _aliases(function: ast.FunctionDef, assigned: list[str]) -> set[str]:
    """Names that are state.NAME throughout a function."""
    found = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = list(zip(target.elts, value.elts, strict=False))
            for name, held in pairs:
                if isinstance(name, ast.Name) and ast.unparse(held) == f"state.{name.id}":
                    found.add(name.id)
    return {name for name in found if assigned.count(name) == 1}


def _stem(name: str) -> str:
    """What x, old_x, new_x and x_hat have in common; a level is none of it."""
    plain = re.sub(r"^(old|new|last|here|there)_|_(hat|next|old|new)$", "", name)
    return "level" if plain in LEVELS else plain


def mutants(text: str) -> list[Mutant]:
    """All that compile, without repetitions."""
    places = _Places(text)
    places.visit(ast.parse(text))
    lines = text.splitlines(keepends=True)
    found: dict[str, Mutant] = {}
    for node, replacement, function in places.found:
        assert node.end_lineno is not None and node.end_col_offset is not None
        start = sum(map(len, lines[: node.lineno - 1])) + _column(lines[node.lineno - 1], node.col_offset)
        end = sum(map(len, lines[: node.end_lineno - 1])) + _column(
            lines[node.end_lineno - 1], node.end_col_offset
        )
        source = text[:start] + replacement + text[end:]
        with contextlib.suppress(SyntaxError):
            compile(source, "mutant", "exec")
            edit = f"{' '.join(text[start:end].split())} → {' '.join(replacement.split())}"
            found.setdefault(source, Mutant(node.lineno, function, edit, source))
    return list(found.values())


def _column(line: str, offset: int) -> int:
    """ast counts bytes."""
    return len(line.encode()[:offset].decode())


# --- serving a mutant, and running tests on it


class _Served(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports one module from a text."""

    def __init__(self, module: str, path: Path, source: str) -> None:
        self.module, self.path, self.source = module, path, source

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> Any:
        if name != self.module:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)

    def get_source(self, fullname: str) -> str:
        return self.source

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.source, str(self.path), "exec"), module.__dict__)  # noqa: S102 - a mutant is code


def _module(path: Path) -> str:
    return ".".join(path.resolve().relative_to(ROOT).with_suffix("").parts)


def _pytest(arguments: Sequence[str], *plugins: object) -> int:
    import pytest

    quiet = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=", "-m", "not slow"]
    return int(pytest.main([*quiet, *arguments], plugins=list(plugins)))


def _forked(work: Any, wait: float) -> int | None:
    """The exit status of `work` in a fork; None where it takes too long."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        status = 70
        try:
            status = work()
        finally:
            os._exit(status)
    end = time.monotonic() + wait
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


class _Traced:
    """Which functions of the files each test that passes runs, and how long it takes."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = {str(path.resolve()) for path in files}
        self.tests: dict[str, tuple[float, list[str]]] = {}
        self._good = False

    def pytest_runtest_protocol(self, item: Any, nextitem: Any) -> None:
        self._met, self._begun = set[str](), time.monotonic()
        sys.setprofile(self._called)

    def _called(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename in self.files:
            self._met.add(f"{code.co_filename}:{code.co_qualname.replace('.<locals>', '')}")

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._good = report.passed and (report.when == "setup" or self._good)

    def pytest_runtest_logfinish(self, nodeid: str, location: Any) -> None:
        sys.setprofile(None)
        if self._met and self._good:
            self.tests[nodeid] = time.monotonic() - self._begun, sorted(self._met)


def traced(files: Sequence[Path], tests: Sequence[str], kept: Path) -> dict[str, tuple[float, list[str]]]:
    """By test, from a file of an earlier run or by running all of them once."""
    if not kept.exists():

        def work() -> int:
            plugin = _Traced(files)
            _pytest(tests, plugin)
            kept.write_text(json.dumps(plugin.tests))
            return 0

        _forked(work, 3600.0)
    found: dict[str, tuple[float, list[str]]] = json.loads(kept.read_text())
    return found


def _runs(mutant: Mutant, path: Path, met: str) -> bool:
    """Whether a called function has the mutant's place; a constant of the module is any function's."""
    file, _, function = met.partition(":")
    return file == str(path.resolve()) and mutant.function in ("", function)


def judged(
    path: Path, most: int, runs: dict[str, tuple[float, list[str]]], longest: float
) -> Iterator[tuple[Mutant, str]]:
    """Each mutant of a file, and "caught", "hangs", "no test" or "survives"."""
    text = path.read_text("utf-8")
    every = mutants(text)
    chosen = sorted(random.Random(0).sample(every, min(most, len(every))), key=lambda m: m.line)
    for mutant in chosen:
        tests = sorted(
            (seconds, test)
            for test, (seconds, met) in runs.items()
            if any(_runs(mutant, path, m) for m in met)
        )
        names: list[str] = []
        total = 0.0
        for seconds, test in tests:
            if total + seconds > longest and names:
                break
            names.append(test)
            total += seconds
        if not names:
            yield mutant, "no test"
            continue

        def work(mutant: Mutant = mutant, names: list[str] = names) -> int:
            sys.meta_path.insert(0, _Served(_module(path), path.resolve(), mutant.source))
            return _pytest(["-x", *names])

        status = _forked(work, WAIT + 10 * total)
        yield mutant, "hangs" if status is None else "survives" if status == 0 else "caught"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--tests", nargs="+", default=["tests/solvers"])
    parser.add_argument("--most", type=int, default=40, help="mutants of a file")
    parser.add_argument("--longest", type=float, default=60.0, help="seconds of tests for a mutant")
    parser.add_argument("--traced", type=Path, required=True, help="what tests run; made where it is missing")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    heavy = ["torch", "scipy.stats", "pandas", "optuna", "pytest", "torch._dynamo"]
    if all("harness" not in path.parts for path in options.files):
        heavy += ["harness.check", "harness.runner", "harness.plugins"]
    for name in heavy:
        importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)
    runs = traced(options.files, options.tests, options.traced)
    rows, survivors = [], []
    for path in options.files:
        counts = dict.fromkeys(("caught", "hangs", "survives", "no test"), 0)
        for mutant, verdict in judged(path, options.most, runs, options.longest):
            counts[verdict] += 1
            if verdict in ("survives", "no test"):
                survivors.append(
                    f"| `{path}:{mutant.line}` | {verdict} | `{mutant.edit}` |".replace("\n", " ")
                )
        made = sum(counts.values())
        share = (counts["caught"] + counts["hangs"]) / max(made, 1)
        rows.append(f"| `{path}` | {made} | {counts['caught'] + counts['hangs']} | {share:.0%} |")
        text = ["| file | mutants | caught | share |", "|---|--:|--:|--:|", *rows, "", "| place | | edit |"]
        options.out.write_text("\n".join([*text, "|---|---|---|", *survivors]) + "\n", encoding="utf-8")
        sys.stdout.write(rows[-1] + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
