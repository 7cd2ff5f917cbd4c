"""The phases of a pack, for whatever counts or measures them on a device."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from harness.oracle import Oracle
from harness.params import parameters
from harness.plugins import Plugins
from harness.problem import Problem
from harness.rules import Rules
from harness.runner import Run, first_cost, run_pack
from problems import data_poisoning
from tests.gpu.compare import CPU, RETRAINING_STEPS, SET_UPS, TOY, Entered, quicken, set_up

COUNTS = {"lower_steps": 30, "system_steps": 30, "cross_batches": 20, "batch_size": 90, "upper_batch_size": 0}
REALS = {"upper_step_size": 1e5, "lower_step_size": 0.1, "system_step_size": 0.1}
ITERATIONS, CURVES = 6, 3
OUTSIDE = "upper iteration, the rest"
CLEAN_BLOCK, OWN_BLOCK = 48, 22  # 18 blocks of clean rows and 10 of a trial's own on a CPU, as MNIST has


class Counting(Protocol):
    """Counts or measures; `phase`: what happens while it is entered is of this phase."""

    def phase(self, name: str) -> AbstractContextManager[None]: ...


class Phases:
    """While entered, what is counted on a device goes by these phases, a step of each loop among
    them. times: how often each was met."""

    def __init__(self, gpu: Counting, problem: type[Problem]) -> None:
        self.gpu = gpu
        self.times: Counter[str] = Counter()
        self._of: dict[str, tuple[type, str]] = {
            OUTSIDE: (Run, "search"),
            "start": (Run, "begin"),
            "cross product": (problem, "cross"),
            "projected step": (problem, "projected_step"),
            "curve point": (problem, "metrics"),
            "evaluation": (Run, "score"),
        }
        if problem is data_poisoning.DataPoisoning:
            self._of["retraining step"] = problem, "_retrain"
        self._plain = {name: getattr(*place) for name, place in self._of.items()}
        self._loop = Oracle.loop

    def _phase(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.times[name] += 1
            with self.gpu.phase(name):
                return plain(*args, **kwargs)

        return call

    def __enter__(self) -> None:
        def loop(oracle: Oracle, phase: str, steps: Any, body: Any, *args: Any, **kwargs: Any) -> Any:
            return self._loop(oracle, phase, steps, self._phase(f"{phase} step", body), *args, **kwargs)

        setattr(Oracle, "loop", loop)  # noqa: B010
        for name, place in self._of.items():
            setattr(*place, self._phase(name, self._plain[name]))

    def __exit__(self, *error: object) -> None:
        setattr(Oracle, "loop", self._loop)  # noqa: B010
        for name, place in self._of.items():
            setattr(*place, self._plain[name])


def run_by_phases(
    gpu: Counting, device: torch.device, on: Entered, name: str, solver: str, trials: int
) -> dict[str, int]:
    """Run a pack of a few upper iterations; how often each of its phases was met."""
    plugins = Plugins([TOY])
    plugin, here = plugins.solver(solver), set_up(plugins, name, CPU)
    config = {
        known: COUNTS.get(known, REALS.get(known, 2 if parameter.required else parameter.default))
        for known, parameter in parameters(plugin).items()
    }
    if name not in ("data_poisoning", "mnist"):
        config |= {"upper_step_size": 0.1} | ({"batch_size": 10} if "batch_size" in config else {})
    configs = [config | {"lower_step_size": 0.1 + 0.001 * number} for number in range(trials)]
    budget = ITERATIONS * float(first_cost(here, plugin, configs, 0)[0])
    phases = Phases(gpu, type(here))
    with on():
        there = set_up(plugins, name, device)
        with phases:
            run_pack(there, plugin, configs, Rules(budget, {}, 0, curves=CURVES), device, there.dtype)
    times = phases.times
    times[OUTSIDE] = ITERATIONS
    times["retraining step"] *= RETRAINING_STEPS
    return {phase: number for phase, number in times.items() if number}


Measure = Callable[[str, str, int], dict[str, Any]]
"""Of a problem, a solver and a number of trials."""


def main(measure: Measure, trials: str) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("problem", nargs="?", default="data_poisoning")
    parser.add_argument("--solvers", default="bsgm")
    parser.add_argument("--trials", default=trials)
    asked = parser.parse_args()
    quicken()
    if asked.problem == "mnist":
        SET_UPS["mnist"] = "data_poisoning", {}
    else:
        data_poisoning.BLOCK, data_poisoning.OWN_BLOCK = CLEAN_BLOCK, OWN_BLOCK
    here, plugins = set_up(Plugins([TOY]), asked.problem, CPU), Plugins()
    solvers = plugins.names("solver") if asked.solvers == "all" else asked.solvers.split(",")
    for solver in (name for name in solvers if not plugins.solver(name).needs.unmet(here)):
        for number in map(int, asked.trials.split(",")):
            line = {"problem": asked.problem, "solver": solver, "trials": number}
            sys.stdout.write(json.dumps(line | measure(asked.problem, solver, number)) + "\n")
            sys.stdout.flush()
