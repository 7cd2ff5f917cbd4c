"""What the tests of a rule need: a problem whose every derivative depends on x, on y and on the batch, its
derivatives by hand in NumPy, one trial, with nothing of ours but the mini-batches, and a run of a solver."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from harness.batch import Level
from harness.budget import Accountant
from harness.check import CPU, F64
from harness.meter import Meter
from harness.oracle import Oracle
from harness.params import check_values
from harness.problem import Problem
from harness.recall import ByBatch
from harness.result import Metric
from harness.solver import Solver
from harness.streams import Streams, generator

Rows = np.ndarray
LOWER, UPPER, DIM_X, DIM_Y = 23, 11, 4, 6
X0, Y0 = np.full(DIM_X, 0.5), np.full(DIM_Y, 0.1)


@final
@dataclasses.dataclass(kw_only=True)
class Crooked(Problem):
    """g_i = 1/2 y^T A_i y + y^T (B_i x + b_i) + |x|^2 |y|^2 / 20 + sum y^4 / 12 (convex),
    f_j = 1/2 |y - c_j|^2 + e_j^T x + |x|^2 / 20."""

    label, reference, objective, headline = "Crooked", "none: made for the tests", "x0", "x0"
    metric_names = {f"x{i}": Metric(f"x{i}", f"x{i}") for i in range(DIM_X)}

    def setup(self, data_dir: Path | None, data_seed: int, device: torch.device, dtype: torch.dtype) -> None:
        self.dim_x, self.dim_y, self.lower_examples, self.upper_examples = DIM_X, DIM_Y, LOWER, UPPER
        draw = generator(data_seed, "crooked")
        root = draw.normal(size=(LOWER, DIM_Y, DIM_Y))
        arrays = {
            "a": np.einsum("iab,icb->iac", root, root) / 12 + 0.3 * np.eye(DIM_Y),
            "b": draw.normal(size=(LOWER, DIM_Y, DIM_X)),
            "lower": draw.normal(size=(LOWER, DIM_Y)),
            "upper": draw.normal(size=(UPPER, DIM_Y)),
            "e": 0.3 * draw.normal(size=(UPPER, DIM_X)),
        }
        self.a, self.b, self.lower, self.upper, self.e = (
            torch.tensor(v, dtype=dtype) for v in arrays.values()
        )

    def initial(self, seed: int) -> tuple[Tensor, Tensor]:
        return torch.tensor(X0), torch.tensor(Y0)

    def lower_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        linear = (self.b[rows] @ x + self.lower[rows]) @ y
        return (
            0.5 * (self.a[rows] @ y) @ y + linear + 0.05 * (x * x).sum() * (y * y).sum() + (y**4).sum() / 12
        )

    def upper_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return 0.5 * ((y - self.upper[rows]) ** 2).sum(1) + self.e[rows] @ x + 0.05 * (x * x).sum()

    def project(self, x: Tensor) -> Tensor:
        return x.clamp(-2, 2)

    def evaluate(self, x: Tensor, y: Tensor) -> dict[str, float]:
        return {f"x{i}": float(v) for i, v in enumerate(x)}


def crooked() -> Crooked:
    problem = Crooked()
    problem.setup(None, 0, CPU, F64)
    return problem


def trajectory(
    solver: type[Solver[Any]], configs: list[dict[str, Any]], seed: int, iterations: int
) -> Iterator[tuple[Any, np.ndarray]]:
    """State and ledger after each upper iteration."""
    full = [check_values(solver, config, solver.label) for config in configs]
    settled, problem = solver.pack(full, CPU, F64), crooked()
    accountant = Accountant(len(configs), 1e9, {})
    streams = Streams(seed, LOWER, UPPER, CPU)
    meter = Meter(problem, streams, accountant, problem.initial(0), settled.size_of("lower"))
    oracle = Oracle.of(meter)
    state = settled.init(oracle)
    tables = {name: meter.place.parts(level, settled.size_of(level)) for name, level in solver.tables.items()}
    memory = ByBatch(state, tables)
    for s in range(iterations):
        meter.begin(s)
        accountant.open(meter.live, settled.cost(meter.place).table(len(configs)))
        met = {name: meter.place.part(level, settled.size_of(level)) for name, level in solver.tables.items()}
        state = settled.step(oracle, memory.recall(state, meter.live, met))
        memory.keep(state, meter.live, met)
        accountant.close()
        yield state, accountant.ledger


def last_state(solver: type[Solver[Any]], configs: list[dict[str, Any]], seed: int, iterations: int) -> Any:
    *_, (state, _) = trajectory(solver, configs, seed, iterations)
    return state


class ByHand:
    """The problem's derivatives by hand; a test adds the rule of a paper."""

    def __init__(self, config: dict[str, Any], seed: int) -> None:
        problem = crooked()
        self.a, self.b, self.lower, self.upper, self.e = (
            v.numpy() for v in (problem.a, problem.b, problem.lower, problem.upper, problem.e)
        )
        self.c, self.seed, self.streams = config, seed, Streams(seed, LOWER, UPPER, CPU)

    def rows(
        self, s: int, phase: str, step: int = 0, level: Level = "lower", nest: tuple[int, ...] = ()
    ) -> Rows:
        """Example numbers of a mini-batch; a batch size of 0, or none, is all of them."""
        size = self.c.get("upper_batch_size" if level == "upper" else "batch_size") or None
        return self.streams.batch(s, level, phase, step, size, nest).rows.numpy()

    def upper_rows(self, s: int, phase: str = "epochs", step: int = 0) -> Rows:
        return self.rows(s, phase, step, "upper")

    def cross_rows(self, s: int) -> np.ndarray:
        return np.concatenate([self.rows(s, "cross", j) for j in range(self.c["cross_batches"])])

    def g(self, x: np.ndarray, y: np.ndarray, rows: Rows) -> float:
        bent = 0.05 * (x @ x) * (y @ y) + (y**4).sum() / 12
        linear = self.b[rows].mean(0) @ x + self.lower[rows].mean(0)
        return float(0.5 * y @ self.a[rows].mean(0) @ y + linear @ y + bent)

    def g_x(self, x: np.ndarray, y: np.ndarray, rows: Rows) -> np.ndarray:
        return np.asarray(self.b[rows].mean(0).T @ y + 0.1 * (y @ y) * x)

    def g_y(self, x: np.ndarray, y: np.ndarray, rows: np.ndarray) -> np.ndarray:
        mean_a, mean_b = self.a[rows].mean(0), self.b[rows].mean(0)
        return np.asarray(mean_a @ y + mean_b @ x + self.lower[rows].mean(0) + 0.1 * (x @ x) * y + y**3 / 3)

    def g_yy(self, x: np.ndarray, y: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self.a[rows].mean(0) + 0.1 * (x @ x) * np.eye(DIM_Y) + np.diag(y**2))

    def g_xy(self, x: np.ndarray, y: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self.b[rows].mean(0).T + 0.2 * np.outer(x, y))

    def f(self, x: np.ndarray, y: np.ndarray, rows: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray]:
        return self.e[rows].mean(0) + 0.1 * x, y - self.upper[rows].mean(0)

    def f_value(self, x: np.ndarray, y: np.ndarray, rows: np.ndarray | slice) -> float:
        misfits = ((y - self.upper[rows]) ** 2).sum(1) / 2
        return float((misfits + self.e[rows] @ x).mean() + 0.05 * (x @ x))

    def descend(self, s: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        for i in range(self.c["lower_steps"]):
            y = y - self.c["lower_step_size"] * self.g_y(x, y, self.rows(s, "lower", i))
        return y

    def project(self, x: np.ndarray, d: np.ndarray, decay: float = 1.0) -> np.ndarray:
        return np.asarray(np.clip(x - self.c["upper_step_size"] * decay * d, -2, 2))
