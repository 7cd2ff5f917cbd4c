"""Solvers on problems, on a device and on the CPU: packs with ragged counts, trials that diverge, curves."""

import argparse
import dataclasses
import json
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from harness.check.solver_rules import random_config
from harness.plugins import Plugins
from harness.problem import Problem
from harness.result import Result
from harness.rules import Rules
from harness.runner import first_cost, run_pack
from harness.solver import Solver
from problems import data_poisoning, regularisation
from tests.problems.test_regularisation import small

CPU = torch.device("cpu")
SEED = 3
ROUNDING = 1e-4
"""Of a number, relative: more is a difference."""
TINY = 1e-30
"""Numbers below it are as good as zero."""
NUDGES = {torch.float32: 1e-6, torch.float64: 1e-12}
"""Relative: what rounding comes to after some thousand operations."""
ROOT = Path(__file__).resolve().parents[2]
RETRAINING_STEPS = 3
TOY = Path(__file__).parents[1] / "harness" / "toy_plugin.py"
DIGITS = {"dataset": "digits"}
FEW_SHOT = {
    "ways": 2,
    "shots": 1,
    "queries": 1,
    "channels": 2,
    "tasks": 8,
    "evaluation_tasks": 2,
    "curve_tasks": 1,
}
EQUILIBRIUM = DIGITS | {"width": 5, "evaluation_examples": 40, "curve_examples": 20}
SET_UPS: dict[str, tuple[str, dict[str, Any]]] = {
    "data_cleaning": ("data_cleaning", DIGITS),
    "data_poisoning": ("data_poisoning", DIGITS),
    "data_poisoning_l1": ("data_poisoning", DIGITS | {"ball": "l1", "radius": 1.0}),
    "distillation": ("distillation", DIGITS),
    "equilibrium": ("equilibrium", EQUILIBRIUM),
    "equilibrium_row_sums": ("equilibrium", EQUILIBRIUM | {"theta_bound": "row_sums"}),
    "meta_learning": ("meta_learning", DIGITS | FEW_SHOT),
    "meta_learning_batch": ("meta_learning", DIGITS | FEW_SHOT | {"statistics": "batch"}),
    "newsgroups": ("newsgroups", {"dataset": "drawn", "features": 40}),
    "quadratic": ("quadratic", {"upper_dim": 6, "lower_dim": 5}),
    "quadratic_noisy": ("quadratic", {"upper_dim": 6, "lower_dim": 5, "samples": 40, "noise": 0.3}),
    "regularisation": ("regularisation", {"dataset": "ijcnn1"}),
    "regularisation_classes": ("regularisation", {"dataset": "covtype"}),
    "stochastic_quadratic": (
        "stochastic_quadratic",
        {"upper_dim": 4, "lower_dim": 5, "lower_samples": 60, "upper_samples": 20},
    ),
    "toy": ("toy_quadratic", {}),  # losses only: every derivative is derived
}
UPPER_STEP_SIZES = {"data_poisoning": 1e5, "data_poisoning_l1": 1e5}
CASES: dict[str, tuple[int, dict[str, Any]]] = {  # trials that diverge, rules
    "ragged": (0, {"evaluate_at": (0.5,)}),
    "one diverges": (1, {"divergence": "last", "system_failure": "diverge"}),
    "two diverge": (2, {"divergence": "x0"}),
}


def quicken() -> None:
    """Small data and short retrainings, for this process."""
    torch.set_num_threads(1)
    data_poisoning.DataPoisoning._retrain.__defaults__ = (RETRAINING_STEPS,)
    data_poisoning.BLOCK, data_poisoning.OWN_BLOCK = 500, 100
    regularisation.read_ijcnn1 = lambda data_dir: [small(300, 2, 1), small(120, 2, 2)]
    regularisation.read_covtype = lambda data_dir: small(500, 7, 3)


def set_up(plugins: Plugins, name: str, device: torch.device) -> Problem:
    problem, options = SET_UPS[name]
    made: Problem = plugins.problem(problem)(**options)
    made.setup(None, SEED, device, made.dtype)
    return made


def configs_of(solver: type[Solver[Any]], name: str, wild: int) -> list[dict[str, Any]]:
    """Three configurations of unequal counts; `wild` of them have lower steps that overflow."""
    found = [random_config(solver, number) for number in range(3)]
    for number, config in enumerate(found):
        config["upper_step_size"] *= UPPER_STEP_SIZES.get(name, 1.0)
        for size in ("lower_step_size", "system_step_size"):
            if size in config and number >= 3 - wild:
                config[size] = 1e30
    return found


def plain(result: Result) -> dict[str, Any]:
    """Without what the clock says."""
    fields = {key: value for key, value in dataclasses.asdict(result).items() if "seconds" not in key}
    for points in (fields["curve"], fields["evaluations"]):
        for point in points:
            point.pop("seconds")
    return fields


def unequal(one: Any, two: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The places at which two results differ, and what stands there."""
    if where == ".config":
        return
    if isinstance(one, Mapping) and isinstance(two, Mapping) and one.keys() == two.keys():
        for key in one:
            yield from unequal(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        for n, pair in enumerate(zip(one, two, strict=True)):
            yield from unequal(*pair, f"{where}[{n}]")
    elif one != two and not (one != one and two != two):
        yield where, one, two


def gap(one: Any, two: Any) -> float:
    """Of two unequal values the relative difference; infinite of what are not finite numbers."""
    if not (isinstance(one, float) and isinstance(two, float) and math.isfinite(one - two)):
        return math.inf
    return abs(one - two) / max(abs(one), abs(two), TINY)


def nudged(configs: Sequence[dict[str, Any]], dtype: torch.dtype) -> list[dict[str, Any]]:
    """With steps a little longer."""
    return [
        {
            key: value * (1 + NUDGES[dtype]) if key.endswith("step_size") else value
            for key, value in config.items()
        }
        for config in configs
    ]


Entered = Callable[[], AbstractContextManager[Any]]
"""Makes what is to be entered where the device computes."""


def compared(
    problems: tuple[Problem, Problem], device: torch.device, on: Entered, name: str, solver: type[Solver[Any]]
) -> dict[str, Any]:
    """How the trials ended, what differs, and the largest gap of what does not.

    A trial whose numbers move on the CPU itself when its steps are nudged is `sensitive`: its numbers tell
    nothing, what is counted of it must still agree."""
    here, there = problems
    found: dict[str, Any] = {"ends": [], "largest": 0.0, "sensitive": [], "differs": []}
    for case, (wild, options) in CASES.items():
        configs = configs_of(solver, name, wild)
        budget = 5 * float(first_cost(here, solver, configs, SEED).min())
        rules = Rules(budget, {}, SEED, curves=3, **options)

        def on_cpu(configs: list[dict[str, Any]], rules: Rules = rules) -> list[dict[str, Any]]:
            forget(*problems)
            return [*map(plain, run_pack(here, solver, configs, rules, CPU, here.dtype))]

        expected = on_cpu(configs)
        with on():
            results = [*map(plain, run_pack(there, solver, configs, rules, device, there.dtype))]
        apart = [[*unequal(*pair)] for pair in zip(expected, results, strict=True)]
        moved = expected
        if any(gap(*values) > ROUNDING for places in apart for _, *values in places):
            moved = on_cpu(nudged(configs, here.dtype))
        for n, places in enumerate(apart):
            sensitive = moves(expected[n], moved[n])
            found["sensitive"] += [f"{case}[{n}]"] if sensitive else []
            for where, one, two in places:
                far = gap(one, two)
                if far <= ROUNDING:
                    found["largest"] = max(found["largest"], far)
                elif math.isinf(far) or not sensitive:
                    found["differs"].append(f"{case}[{n}]{where}: {one!r} on the CPU, {two!r}")
        found["ends"].append([f"{result['state']} {result['upper_iterations']}" for result in results])
    return found


def moves(one: dict[str, Any], nudged: dict[str, Any]) -> bool:
    """Whether a nudge to a trial's steps is seen in its numbers."""
    return any(gap(*values) > ROUNDING / 10 for _, *values in unequal(one, nudged))


def forget(*problems: Problem) -> None:
    """What a problem keeps for later trials."""
    for problem in problems:
        if isinstance(problem, data_poisoning.DataPoisoning):
            problem._unattacked = None


def lines(
    names: Sequence[str], solvers: Sequence[str], device: torch.device, on: Entered
) -> Iterator[dict[str, Any]]:
    plugins = Plugins([TOY])
    for name in names:
        here = set_up(plugins, name, CPU)
        with on():
            there = set_up(plugins, name, device)
        for solver in solvers or Plugins().names("solver"):
            plugin = plugins.solver(solver)
            if plugin.needs.unmet(here):
                continue
            line = {"problem": name, "solver": solver}
            try:
                yield line | compared((here, there), device, on, name, plugin)
            except Exception as error:  # noqa: BLE001 - said in the line
                where = traceback.extract_tb(error.__traceback__)
                ours = [
                    f for f in where if f.filename.startswith(str(ROOT)) and "/tests/gpu/" not in f.filename
                ]
                at = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
                yield line | {"error": f"{type(error).__name__}: {str(error)[:200]} {at}"}


def main(device: torch.device, on: Entered) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("problems", nargs="*", default=list(SET_UPS))
    parser.add_argument("--solvers", default="")
    asked = parser.parse_args()
    quicken()
    solvers = [name for name in asked.solvers.split(",") if name]
    for line in lines(asked.problems or list(SET_UPS), solvers, device, on):
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
