"""What the public bilevel benchmark's own code reaches on ijcnn1, with its sampler and with another.

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
from problems.regularisation import Regularisation

RUNS: tuple[tuple[str, dict[str, float], tuple[int, ...]], ...] = (
    ("amigo", {"step_size": 0.125, "outer_ratio": 0.1, "n_inner_steps": 10}, (8192, 24576)),
    ("mrbo", {"step_size": 0.5, "outer_ratio": 10**-1.5, "n_shia_steps": 10, "eta": 0.5}, (32768,)),
)


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
    options = parser.parse_args()
    given, task = _given(options)
    engine: Any = importlib.import_module("benchmark_utils.stochastic_jax_solver")
    samplers = {"the benchmark's": engine.init_sampler, "independent": independent}
    rows = []
    for name, parameters, iterations in RUNS:
        for words, sampler in samplers.items():
            engine.init_sampler = sampler
            found = [
                _values(options, name, parameters, iterations, given, task, s + 1)
                for s in range(options.seeds)
            ]
            for place, count in enumerate(iterations):
                rows.append([name, count, words, ", ".join(f"{values[place]:.6f}" for values in found)])
    heads = ["solver", "upper iterations", "batches", "L(x), by seed"]
    common.report("public_values", [common.table(heads, rows)], options.out)


def _given(options: argparse.Namespace) -> tuple[dict[str, Any], Regularisation]:
    """What its solvers are given, from the start of the published runs; and our problem, to judge by."""
    given = public_jax.objective(options.checkout, "ijcnn1", options.data_dir)
    task = Regularisation(dataset="ijcnn1")
    task.setup(options.data_dir, 1, torch.device("cpu"), torch.float64)
    for name, start in zip(("outer_var0", "inner_var0"), task.initial(1), strict=True):
        given[name] = public_jax.array(start)
    return given, task


def _values(
    options: argparse.Namespace,
    name: str,
    parameters: dict[str, float],
    iterations: tuple[int, ...],
    given: dict[str, Any],
    task: Regularisation,
    seed: int,
) -> list[float]:
    """L(x) at these upper iterations."""
    step = math.gcd(*iterations)
    given_as = {**parameters, "batch_size": 64, "random_state": seed}
    epochs = public_jax.run(options.checkout, name, given_as, given, step, iterations[-1] // step)
    found = []
    for count in iterations:
        x = torch.from_numpy(epochs[count // step - 1].x.astype(np.float64)).unsqueeze(0)
        (judged,) = task.evaluate_pack(x, torch.zeros(1, task.dim_y, dtype=torch.float64))
        found.append(judged["value_function"])
    return found


if __name__ == "__main__":
    main()
