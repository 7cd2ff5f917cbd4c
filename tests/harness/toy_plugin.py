"""A tiny problem and a solver that misbehaves on demand, given to the harness as `--plugin FILE.py`."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from harness.api import (
    Cost,
    Metric,
    MiniBatch,
    Oracle,
    Place,
    Problem,
    Solver,
    State,
    count,
    option,
    real,
)


@dataclass(kw_only=True)
class ToyQuadratic(Problem):
    """g = mean ||y - x - a_i||^2 / 2, f = mean ||y - b_i||^2 / 2."""

    label = "toy"
    reference = "nobody"
    objective = "loss"
    headline = "norm"
    metric_names = {"loss": Metric("loss", "loss"), "norm": Metric("norm of x", "norm")}

    size: int = option("dimension", default=3)

    def setup(self, data_dir: Path | None, data_seed: int, device: torch.device, dtype: torch.dtype) -> None:
        self.dim_x = self.dim_y = self.size
        self.lower_examples, self.upper_examples = 20, 10
        made = torch.randn(30, self.size, generator=torch.Generator().manual_seed(data_seed), dtype=dtype)
        self.lower, self.upper = made[:20].to(device), made[20:].to(device)

    def initial(self, seed: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(self.size), torch.zeros(self.size)

    def lower_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return ((y - x - self.lower[rows]) ** 2).sum(1) / 2

    def upper_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return ((y - self.upper[rows]) ** 2).sum(1) / 2

    def evaluate(self, x: Tensor, y: Tensor) -> dict[str, float]:
        solution = x + self.lower.mean(0)
        return {"loss": float(((solution - self.upper) ** 2).mean()), "norm": float(x.norm())}


@dataclass(frozen=True, kw_only=True)
class ToySolver(Solver[State]):
    """Gradient steps on y; `mischief` makes a trial raise (1), sleep (2) or kill its process (3)."""

    label = "toy"
    reference = "nobody"

    steps: Tensor = count("steps", symbol="t")
    step_size: Tensor = real("step size", symbol="eta")
    mischief: Tensor = count("what goes wrong", default=0, low=0)

    def cost(self, place: Place) -> Cost:
        return Cost(lower_gradient=place.lower_samples(self.steps, 5))

    def init(self, oracle: Oracle) -> State:
        return State(x=oracle.x0, y=oracle.y0)

    def step(self, oracle: Oracle, state: State) -> State:
        if (self.mischief == 1).any():
            raise ArithmeticError("made to\nraise")
        if (self.mischief == 2).any():
            time.sleep(20)
        if (self.mischief == 3).any():
            os._exit(9)
        x = state.x

        def body(batch: MiniBatch, y: Tensor, x: Tensor, eta: Tensor) -> Tensor:
            return y - eta * oracle.lower_gradient(x, y, batch)

        y = oracle.loop("lower", self.steps, body, state.y, x, self.step_size, batch_size=5)
        return State(x=x - self.step_size * (y - x), y=y)
