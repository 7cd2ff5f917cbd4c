"""What the public bilevel benchmark's own code reaches, with its sampler and with another: L(x) on ijcnn1,
the test error of the current classifier on MNIST.

Its sampler goes through one fixed cut of the training set into batches, epoch by epoch and from upper
iteration to upper iteration, for lower steps, system and cross product alike (the batch at the end of an
epoch twice). Ours draws each phase of each upper iteration from a permutation of its own. So the same code
is run with batches drawn independently of each other: of 782 batches, ten without replacement are nearly
that.

Needs a checkout of benchopt/benchmark_bilevel, and JAX, jaxopt and benchopt.
"""

import argparse
import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import common, public_jax
from harness.problem import Problem
from problems._images import CLASSES
from problems.data_cleaning import DataCleaning
from problems.regularisation import Regularisation

RUNS: tuple[tuple[str, str, dict[str, float], tuple[int, ...]], ...] = (
    ("ijcnn1", "amigo", {"step_size": 0.125, "outer_ratio": 0.1, "n_inner_steps": 10}, (8192, 24576)),
    (
        "ijcnn1",
        "mrbo",
        {"step_size": 0.5, "outer_ratio": 10**-1.5, "n_shia_steps": 10, "eta": 0.5},
        (32, 32768),
    ),
    (
        "mnist",
        "mrbo",
        {"step_size": 1.0, "outer_ratio": 1e-6, "n_shia_steps": 10, "eta": 0.5},
        (64, 192, 640),
    ),
    ("mnist", "fsla", {"step_size": 10**0.5, "outer_ratio": 1e-5}, (96, 960, 3200)),
    ("mnist", "ttsa", {"step_size": 1.0, "outer_ratio": 1e-4, "n_hia_steps": 10}, (32, 320, 960)),
    (
        "mnist",
        "bsa",
        {"step_size": 10**-0.5, "outer_ratio": 1e-4, "n_inner_steps": 10, "n_hia_steps": 10},
        (32, 96, 320),
    ),
)
PROBLEMS: dict[str, tuple[type[Problem], str]] = {
    "ijcnn1": (Regularisation, "value_function"),
    "mnist": (DataCleaning, "test_error"),
}
"""Ours, and what it is judged by."""


def independent(n_samples: int = 10, batch_size: int = 1, key: Any = None) -> tuple[Any, dict[str, Any]]:
    """In place of the benchmark's `init_sampler`: any batch, every time."""
    jax: Any = importlib.import_module("jax")
    batches = -(-n_samples // batch_size)

    def sampler(state: dict[str, Any]) -> tuple[Any, Any, float, dict[str, Any]]:
        now, later = jax.random.split(state["key"])
        batch = jax.random.randint(now, (), 0, batches)
        return batch_size * batch, batch, batch_size / n_samples, {"key": later}

    return sampler, {"key": key}


def main() -> None:
    parser = common.arguments(__doc__ or "")
    parser.add_argument("--checkout", type=Path, required=True, help="of benchopt/benchmark_bilevel")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--data", choices=list(PROBLEMS), nargs="*", default=list(PROBLEMS))
    solvers = list(dict.fromkeys(name for _, name, *_ in RUNS))
    parser.add_argument("--solvers", choices=solvers, nargs="*", default=solvers)
    options = parser.parse_args()
    starts = {data: _given(options, data) for data in options.data}
    engine: Any = importlib.import_module("benchmark_utils.stochastic_jax_solver")
    samplers = {"the benchmark's": engine.init_sampler, "independent": independent}
    rows = []
    for data, name, parameters, iterations in RUNS:
        if data not in options.data or name not in options.solvers:
            continue
        for words, sampler in samplers.items():
            engine.init_sampler = sampler
            found = [
                _values(options, data, name, parameters, iterations, *starts[data], s + 1)
                for s in range(options.seeds)
            ]
            for place, count in enumerate(iterations):
                reached = [by_count[place] for by_count in found]
                values = ", ".join(f"{value:.6g}" for value in reached)
                rows.append(
                    [data, name, count, words, PROBLEMS[data][1], f"{np.nanmedian(reached):.6g}", values]
                )
    heads = ["data", "solver", "upper iterations", "batches", "metric", "median", "by seed"]
    common.report("public_values", [common.table(heads, rows)], options.out)


def _given(options: argparse.Namespace, data: str) -> tuple[dict[str, Any], Problem]:
    """What its solvers are given, from the start of the published runs; and our problem, to judge by."""
    given = public_jax.objective(options.checkout, data, options.data_dir)
    task = PROBLEMS[data][0](dataset=data)  # type: ignore[call-arg]  # both have this option
    task.setup(options.data_dir, 1, torch.device("cpu"), torch.float64)
    for name, start in zip(("outer_var0", "inner_var0"), task.initial(1), strict=True):
        given[name] = public_jax.array(start)
    return given, task


def _values(
    options: argparse.Namespace,
    data: str,
    name: str,
    parameters: dict[str, float],
    iterations: tuple[int, ...],
    given: dict[str, Any],
    task: Problem,
    seed: int,
) -> list[float]:
    """The metric at these upper iterations; nan where a variable, or a penalty exp(x), is not finite."""
    step = math.gcd(*iterations)
    given_as = {**parameters, "batch_size": 64, "random_state": seed}
    epochs = public_jax.run(options.checkout, name, given_as, given, step, iterations[-1] // step)
    found = []
    for count in iterations:
        epoch = epochs[count // step - 1]
        x, y = (torch.from_numpy(v.astype(np.float64)).ravel() for v in (epoch.x, epoch.y))
        if not ((x.exp() if data == "ijcnn1" else x).isfinite().all() and y.isfinite().all()):
            found.append(math.nan)
            continue
        if data == "mnist":
            y = y.view(-1, CLASSES).T.ravel()  # theirs goes pixel by pixel, ours class by class
        (judged,) = task.evaluate_pack(x.unsqueeze(0), y.unsqueeze(0))
        found.append(judged[PROBLEMS[data][1]])
    return found


if __name__ == "__main__":
    main()
