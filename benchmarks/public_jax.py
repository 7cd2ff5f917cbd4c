"""The public bilevel benchmark's own JAX code, from a checkout of benchopt/benchmark_bilevel, on our data.

Its modules are imported as they are; only what would download is put in its place.
"""

import contextlib
import importlib
import importlib.util
import os
import pickle
import sys
import tempfile
import time
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from problems._images import read_levels
from problems.regularisation import read_covtype, read_ijcnn1

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")


def objective(
    checkout: Path, dataset: str, data_dir: Path | None, precision: str = "float32"
) -> dict[str, Any]:
    """What its solvers are given: the losses, their sizes, the start; and its `metrics`.

    dataset: "mnist", "ijcnn1" or "covtype". Raises ImportError where benchopt, JAX or jaxopt is missing."""
    if str(checkout.resolve()) not in sys.path:
        sys.path.append(str(checkout.resolve()))
    jax: Any = importlib.import_module("jax")
    jax.config.update("jax_enable_x64", precision == "float64")
    jax.config.update("jax_threefry_partitionable", False)  # its start was drawn so
    stub: Any = types.ModuleType("libsvmdata")
    stub.fetch_libsvm = lambda name: _ijcnn1(name, data_dir)
    sys.modules["libsvmdata"] = stub
    module: Any = importlib.import_module(f"datasets.{dataset}")
    if dataset == "covtype":
        module.fetch_covtype = lambda **_: _covtype(data_dir)
    with _beside(_mnist(data_dir) if dataset == "mnist" else None):
        data = module.Dataset.get_instance().get_data()
    found: Any = importlib.import_module("objective").Objective.get_instance()
    found.set_data(**data)
    return {**found.get_objective(), "metrics": found.metrics}


class Epoch(NamedTuple):
    """seconds: that its upper iterations took. x, y: the variables after them."""

    seconds: float
    x: np.ndarray
    y: np.ndarray


def run(
    checkout: Path,
    name: str,
    parameters: Mapping[str, Any],
    given: dict[str, Any],
    iterations: int,
    epochs: int,
) -> list[Epoch]:
    """So many upper iterations of one of its solvers, so many times; the first time compiles, too."""
    spec = importlib.util.spec_from_file_location(f"public_{name}", checkout / "solvers" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)  # `solvers` is ours
    spec.loader.exec_module(module)
    solver = module.Solver.get_instance(**parameters, eval_freq=iterations)
    solver.set_objective(**{key: value for key, value in given.items() if key != "metrics"})
    found: list[Epoch] = []
    begun = 0.0

    def callback() -> bool:
        """Called before every epoch, and in the end."""
        nonlocal begun
        x = np.asarray(solver.outer_var) if begun else np.empty(0)  # waits for it
        if begun:
            found.append(Epoch(time.perf_counter() - begun, x, np.asarray(solver.inner_var)))
        begun = time.perf_counter()
        return len(found) < epochs

    solver.run(callback)
    return found


def _ijcnn1(name: str, data_dir: Path | None) -> tuple[np.ndarray, np.ndarray]:
    features, labels = read_ijcnn1(data_dir)[name.endswith("test")]
    return features, 2.0 * labels - 1


def _covtype(data_dir: Path | None) -> tuple[np.ndarray, np.ndarray]:
    features, labels = read_covtype(data_dir)
    return features, labels + 1


def _mnist(data_dir: Path | None) -> dict[str, np.ndarray]:
    parts, _ = read_levels("mnist", data_dir, np.random.RandomState(0))
    names = ("training_images", "training_labels", "test_images", "test_labels")
    return dict(zip(names, parts, strict=True))


@contextlib.contextmanager
def _beside(mnist: dict[str, np.ndarray] | None) -> Iterator[None]:
    """In a folder with the file that it looks for."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        if mnist is not None:
            Path(folder, "mnist.pkl").write_bytes(pickle.dumps(mnist))
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def array(start: Tensor) -> Any:
    """One of our starts as its solvers have theirs."""
    jnp: Any = importlib.import_module("jax.numpy")
    return jnp.asarray(start.numpy().ravel())
