"""The audit behind `harness check SOLVER`: does a method's ledger tell the truth?

The solver runs on a small quadratic whose losses count the examples that flow through them, by kind, on a
path that never meets the ledger. Over random configurations: declared = charged = counted, the budget is
never exceeded, and a trial alone equals the same trial in a pack.
"""

import dataclasses
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from harness.budget import KINDS
from harness.errors import PluginError
from harness.pack import Result, Rules, run_pack
from harness.params import parameters
from harness.problem import Batch, Metric, Problem
from harness.solver import Solver
from harness.streams import generator

CPU, F64 = torch.device("cpu"), torch.float64


@final
@dataclasses.dataclass(kw_only=True)
class CountingQuadratic(Problem):
    """g_i = 1/2 y^T A y + y^T (B x + b_i), f_j = 1/2 |y - c_j|^2 + 1/20 |x|^2, and how many i and j were met.

    `seen[kind]` counts examples inside the losses themselves (a row drawn k times counts k times)."""

    label = "Counting quadratic"
    reference = "none: made for the audit"
    objective = "upper_loss"
    headline = "upper_loss"
    metric_names = {"upper_loss": Metric("upper loss", "f"), "x_norm": Metric("norm of x", "|x|")}

    def setup(self, data_dir: Path | None, data_seed: int, device: torch.device, dtype: torch.dtype) -> None:
        self.dim_x, self.dim_y, self.lower_examples, self.upper_examples = 4, 6, 23, 11
        draw = generator(data_seed, "audit")
        root = draw.normal(size=(self.dim_y, self.dim_y))
        self._a = torch.tensor(root @ root.T / 12 + 0.3 * np.eye(self.dim_y), dtype=dtype)
        self._b = torch.tensor(draw.normal(size=(self.dim_y, self.dim_x)), dtype=dtype)
        self._lower = torch.tensor(draw.normal(size=(self.lower_examples, self.dim_y)), dtype=dtype)
        self._upper = torch.tensor(draw.normal(size=(self.upper_examples, self.dim_y)), dtype=dtype)
        self.seen = dict.fromkeys(KINDS, 0)
        self._kind, self._draws = "", 0

    def initial(self, seed: int) -> tuple[Tensor, Tensor]:
        return torch.full((self.dim_x,), 0.5), torch.zeros(self.dim_y)

    def _count(self, rows: Tensor) -> None:
        if self._kind:
            self.seen[self._kind] += self._draws or len(rows)

    def _entering(self, kind: str, batch: Batch) -> None:
        self._kind = kind
        self._draws = 0 if batch.counts is None else int(batch.counts.sum())

    def lower_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        self._count(rows)
        return 0.5 * y @ self._a @ y + (self._b @ x) @ y + self._lower[rows] @ y

    def upper_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        self._count(rows)
        return 0.5 * ((y - self._upper[rows]) ** 2).sum(1) + 0.05 * (x * x).sum()

    def lower_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        self._entering("lower_gradient", batch)
        return super().lower_gradient(x, y, batch)

    def hessian_vector(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        self._entering("hessian_vector", batch)
        return super().hessian_vector(x, y, v, batch)

    def cross(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        self._entering("cross", batch)
        return super().cross(x, y, v, batch)

    def upper_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        self._entering("upper_gradient", batch)
        return super().upper_gradient(x, y, batch)

    def project(self, x: Tensor) -> Tensor:
        return x.clamp(-2, 2)

    def evaluate(self, x: Tensor) -> dict[str, float]:
        self._kind = ""
        y = torch.linalg.solve(self._a, -(self._b @ x + self._lower.mean(0)))
        loss = self.upper_loss(x, y, torch.arange(self.upper_examples)).mean()
        return {"upper_loss": float(loss), "x_norm": float(torch.linalg.vector_norm(x))}


def random_config(solver: type[Solver[Any]], number: int) -> dict[str, Any]:
    """Small random values for every declared parameter, a function of `number`.

    Shared parameters depend on number // 3 only, so that three neighbours can share a pack."""
    config: dict[str, Any] = {}
    for name, parameter in parameters(solver).items():
        draw = generator(number // 3 if parameter.kind == "shared" else number, name)
        low = int(parameter.low or 0)
        if parameter.kind == "real":
            config[name] = float(np.exp(draw.uniform(np.log(1e-3), np.log(0.3))))
        else:
            config[name] = low + int(draw.integers(0, 30 if parameter.kind == "shared" else 7))
    return config


def _run(
    problem: Problem, solver: type[Solver[Any]], configs: list[dict[str, Any]], budget: float
) -> list[Result]:
    rules = Rules(budget=budget, prices=dict.fromkeys(KINDS, 1.0), seed=5)
    return run_pack(problem, solver, configs, rules, CPU, F64)


def audit(solver: type[Solver[Any]], packs: int = 3) -> list[str]:
    """Verdicts, one line per check that holds; raises PluginError at the first that does not."""
    iterations = 0
    for block in range(packs):
        budget = float(generator(block, "budget").integers(1, 1500))
        configs = [random_config(solver, 3 * block + n) for n in range(3)]
        alone = []
        for config in configs:
            problem = CountingQuadratic()
            problem.setup(None, 0, CPU, F64)
            (result,) = _run(problem, solver, [config], budget)
            alone.append(result)
            iterations += result.upper_iterations
            charged = {kind: result.ledger[kind] for kind in KINDS}
            if charged != problem.seen:
                raise PluginError(f"{solver.label}: charged {charged}, counted {problem.seen} with {config}")
            if result.ledger["total"] > budget:
                raise PluginError(
                    f"{solver.label}: {result.ledger['total']:g} samples on a budget of {budget:g}"
                )
        problem = CountingQuadratic()
        problem.setup(None, 0, CPU, F64)
        for single, packed in zip(alone, _run(problem, solver, configs, budget), strict=True):
            same = single.ledger == packed.ledger and np.isclose(
                single.objective, packed.objective, rtol=1e-9
            )
            if not same:
                raise PluginError(
                    f"{solver.label}: alone {single.objective:.12g}, in a pack {packed.objective:.12g}"
                )
    if not iterations:
        raise PluginError(f"{solver.label}: no audited configuration could afford one upper iteration")
    return [
        f"declared = charged = counted over {3 * packs} random configurations, {iterations} upper iterations",
        "never above the budget",
        "a trial alone equals the same trial in a pack",
    ]
