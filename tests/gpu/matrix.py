"""Solvers on problems, on the pretend device and on the CPU: the same numbers, and no mixed devices.

    python -m tests.gpu.matrix [PROBLEM ...] [--solvers NAME,NAME]

prints a line for each solver on each problem, as JSON.
"""

from tests.gpu import pretend  # isort: skip - before torch

import argparse
import dataclasses
import json
import math
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import harness.meter
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


@contextmanager
def on(gpu: pretend.Gpu) -> Iterator[None]:
    """On the device, whose tensors the meter, which asks for their type, takes for plain ones."""
    vars(harness.meter)["type"] = lambda value: (
        torch.Tensor if isinstance(value, pretend.Device) else type(value)
    )
    try:
        with gpu:
            yield
    finally:
        del vars(harness.meter)["type"]


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


def differing(one: Any, two: Any, where: str = "") -> list[str]:
    """Where two results differ, numbers by more than rounding."""
    if isinstance(one, Mapping) and isinstance(two, Mapping) and one.keys() == two.keys():
        return [at for key in one for at in differing(one[key], two[key], f"{where}.{key}")]
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        return [
            at
            for n, pair in enumerate(zip(one, two, strict=True))
            for at in differing(*pair, f"{where}[{n}]")
        ]
    same = one == two
    if isinstance(one, float) and isinstance(two, float):
        same = same or math.isclose(one, two, rel_tol=1e-4) or (math.isnan(one) and math.isnan(two))
    return [] if same else [f"{where}: {one!r} on the CPU, {two!r}"]


def compared(
    problems: tuple[Problem, Problem], gpu: pretend.Gpu, name: str, solver: type[Solver[Any]]
) -> dict[str, Any]:
    """What differs, by case, and how the trials ended."""
    here, there = problems
    found: dict[str, Any] = {"ends": [], "differs": []}
    for case, (wild, options) in CASES.items():
        configs = configs_of(solver, name, wild)
        budget = 5 * float(first_cost(here, solver, configs, SEED).min())
        rules = Rules(budget, {}, SEED, curves=3, **options)
        forget(*problems)
        expected = run_pack(here, solver, configs, rules, CPU, here.dtype)
        with on(gpu):
            results = run_pack(there, solver, configs, rules, pretend.DEVICE, there.dtype)
        found["differs"] += differing([*map(plain, expected)], [*map(plain, results)], case)
        found["ends"].append([f"{result.state} {result.upper_iterations}" for result in results])
    return found


def forget(*problems: Problem) -> None:
    """What a problem keeps for later trials."""
    for problem in problems:
        if isinstance(problem, data_poisoning.DataPoisoning):
            problem._unattacked = None


def lines(names: Sequence[str], solvers: Sequence[str]) -> Iterator[dict[str, Any]]:
    plugins = Plugins([TOY])
    for name in names:
        gpu = pretend.Gpu()
        here = set_up(plugins, name, CPU)
        with on(gpu):
            there = set_up(plugins, name, pretend.DEVICE)
        for solver in solvers or Plugins().names("solver"):
            plugin = plugins.solver(solver)
            if plugin.needs.unmet(here):
                continue
            line = {"problem": name, "solver": solver}
            try:
                yield line | compared((here, there), gpu, name, plugin)
            except Exception as error:  # noqa: BLE001 - said in the line
                where = traceback.extract_tb(error.__traceback__)
                ours = [
                    f
                    for f in where
                    if f.filename.startswith(str(pretend.ROOT)) and "/tests/gpu/" not in f.filename
                ]
                at = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
                yield line | {"error": f"{type(error).__name__}: {str(error)[:200]} {at}"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("problems", nargs="*", default=list(SET_UPS))
    parser.add_argument("--solvers", default="")
    asked = parser.parse_args()
    quicken()
    for line in lines(asked.problems or list(SET_UPS), [name for name in asked.solvers.split(",") if name]):
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
