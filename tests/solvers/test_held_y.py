"""The y that a method holds is what it found at the last x; some problems judge the current y."""

from typing import Any

import pytest
import torch
from torch import Tensor

from harness.check.convergence import ENOUGH, STILL, Convergence, Setting
from harness.plugins import Plugins

COLD = [name for name in Plugins().names("solver") if "y" not in Plugins().solver(name).warm_starts]


@pytest.mark.parametrize("name", COLD)
def test_at_a_still_x_it_is_the_lower_solution(name: str) -> None:
    """Of methods whose next upper iteration does not begin at it, so that no other check would see it; on
    full batches, but for the bias of penalties."""
    solver, seen = Plugins().solver(name), list[Tensor]()
    check = Convergence(solver)
    problem = check.problem

    def evaluate(x: Tensor, y: Tensor) -> dict[str, float]:
        seen.append(y)
        return {"error": 0.0, "x_max": 0.0}

    vars(problem)["evaluate"] = evaluate
    config: dict[str, Any] = check._config(Setting(held=False, raised=False), ENOUGH, STILL, rung=-1)
    check._pack([config], iterations=5)
    x0 = problem.initial(0)[0].double().unsqueeze(0)
    exact = problem.lower_solution(x0)[0]

    assert float((seen[0] - exact).norm() / exact.norm()) < (1e-6 if solver.bias is None else 0.02)
    assert float(exact.norm()) > 0.1 and torch.isfinite(seen[0]).all()
