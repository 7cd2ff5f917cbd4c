"""The checks behind `harness check`: does anybody's solver or problem do what it says?

A solver runs on two small problems: one knows every answer (`convergence`), one counts what it is asked
for (`solver_rules`). A problem is held against finite differences and the derivatives of its own losses
(`derivatives`, `algebra`), and against the rules of feasible set, precision, randomness and evaluation
(`problem_rules`).
"""

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch

from harness.check.algebra import Algebra
from harness.check.convergence import Convergence
from harness.check.derivatives import Derivatives
from harness.check.problem_rules import Protocol
from harness.check.problems import CPU, F64, Counting, CountingByExample, ExactQuartic
from harness.check.solver_rules import Load, audit, random_config
from harness.check.solver_rules import checks as rules
from harness.check.verdict import Checks, Verdict, judged
from harness.data import data_folder
from harness.errors import HarnessError, nearest
from harness.params import check_values
from harness.plugins import PLUGIN_KINDS, Plugins
from harness.problem import Problem
from harness.solver import Solver

__all__ = [
    "CPU",
    "F64",
    "Counting",
    "CountingByExample",
    "ExactQuartic",
    "Verdict",
    "audit",
    "fresh_process",
    "judged",
    "plugin_checks",
    "problem_checks",
    "random_config",
    "solver_checks",
]


def plugin_checks(
    name: str, options: Mapping[str, str], files: Sequence[Path], data_dir: Path | None, elsewhere: Executor
) -> Checks:
    """The checks of a problem or solver that `harness list` knows.

    Raises HarnessError: unknown name, bad option, missing data."""
    plugins = Plugins(files)
    if name in plugins.names("problem"):
        problem = plugins.problem(name)
        values = check_values(problem, options, "--set")
        return problem_checks(lambda: problem(**values), data_folder(data_dir))
    if name not in plugins.names("solver"):
        every = [known for kind in PLUGIN_KINDS for known in plugins.names(kind)]
        raise HarnessError(f"unknown problem or solver {name!r}; {nearest(name, every)}")
    if options:
        raise HarnessError(f"--set: {name} is a solver; only problems have options")
    return solver_checks(partial(_named, name, tuple(files)), elsewhere)


def _named(name: str, files: Sequence[Path]) -> type[Solver[Any]]:
    return Plugins(files).solver(name)


def solver_checks(load: Load, elsewhere: Executor, packs: int = 3) -> Checks:
    """load: gives the solver, here and (pickled) in the process of `elsewhere`. packs: random packs on which
    the ledger is audited."""
    return {**Convergence(load()).checks(), **rules(load, elsewhere, packs)}


def problem_checks(make: Callable[[], Problem], data_dir: Path | None, data_seed: int = 0) -> Checks:
    """make: gives the problem with its options, not yet set up. The data are read three times in all."""

    def ready(dtype: torch.dtype) -> Problem:
        problem = make()
        problem.setup(data_dir, data_seed, CPU, dtype)
        return problem

    try:
        problem = ready(F64)
    except HarnessError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a plug-in raises is a verdict on it
        return {"setup": partial(_raise, error)}
    return {**Protocol(problem, ready).checks(), **Derivatives(problem).checks(), **Algebra(problem).checks()}


def _raise(error: Exception) -> NoReturn:
    raise error


def fresh_process() -> Executor:
    """One new interpreter, which starts at its first task."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
