"""Launches, waits and copies of methods on problems, by what they belong to, on the pretend device.

    python -m tests.gpu.counts [PROBLEM] [--solvers NAME,...|all] [--trials 1,8]

prints a line for each solver and number of trials, as JSON. PROBLEM: a set-up of `matrix.py`, data_poisoning
unless given, whose retraining then has as many blocks as MNIST's; or mnist, for data poisoning of its size.
"device": microseconds that an H100 would take, by the model of `pretend.py`.
"""

from tests.gpu import pretend  # isort: skip - before torch

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from harness.oracle import Oracle
from harness.params import parameters
from harness.plugins import Plugins
from harness.problem import Problem
from harness.rules import Rules
from harness.runner import Run, first_cost, run_pack
from problems import data_poisoning
from tests.gpu.matrix import CPU, RETRAINING_STEPS, SET_UPS, TOY, on, quicken, set_up

KINDS = ("launch", "wait", "copy")
COUNTS = {"lower_steps": 30, "system_steps": 30, "cross_batches": 20, "batch_size": 90, "upper_batch_size": 0}
REALS = {"upper_step_size": 1e5, "lower_step_size": 0.1, "system_step_size": 0.1}
ITERATIONS, CURVES = 6, 3
CLEAN_BLOCK, OWN_BLOCK = 48, 22  # 18 blocks of clean rows and 10 of a trial's own on a CPU, as MNIST has
OUTSIDE = "upper iteration, the rest"


class Phases:
    """While entered, what is counted on a device goes by these phases, a step of each loop among
    them. times: how often each was met."""

    def __init__(self, gpu: pretend.Gpu, problem: type[Problem]) -> None:
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


def counted(name: str, solver: str, trials: int) -> dict[str, Any]:
    """Of one of each phase; lines: what waits or copies where, in all."""
    plugins, gpu = Plugins([TOY]), pretend.Gpu()
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
    with on(gpu):
        there = set_up(plugins, name, pretend.DEVICE)
        with phases:
            run_pack(there, plugin, configs, Rules(budget, {}, 0, curves=CURVES), pretend.DEVICE, there.dtype)
    times = phases.times
    times[OUTSIDE] = ITERATIONS
    times["retraining step"] *= RETRAINING_STEPS
    table = {
        phase: {kind: round(gpu.counts[phase, kind] / number, 2) for kind in KINDS}
        for phase, number in times.items()
        if number
    }
    found = Counter({" ".join(what): number for what, number in gpu.waits.items() if what[0] != "other"})
    device = {phase: round(1e6 * gpu.seconds[phase] / number, 1) for phase, number in times.items() if number}
    line = {"problem": name, "solver": solver, "trials": trials, "device": device}
    return line | {"table": table, "lines": dict(found.most_common())}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("problem", nargs="?", default="data_poisoning")
    parser.add_argument("--solvers", default="bsgm")
    parser.add_argument("--trials", default="1,8")
    asked = parser.parse_args()
    quicken()
    if asked.problem == "mnist":
        SET_UPS["mnist"] = "data_poisoning", {}
    else:
        data_poisoning.BLOCK, data_poisoning.OWN_BLOCK = CLEAN_BLOCK, OWN_BLOCK
    here, plugins = set_up(Plugins([TOY]), asked.problem, CPU), Plugins()
    solvers = plugins.names("solver") if asked.solvers == "all" else asked.solvers.split(",")
    for solver in (name for name in solvers if not plugins.solver(name).needs.unmet(here)):
        for trials in map(int, asked.trials.split(",")):
            sys.stdout.write(json.dumps(counted(asked.problem, solver, trials)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
