"""The shipped spaces of problems whose tables are for large data: each fits its solver and runs."""

from typing import Any

import pytest
import torch

from harness.draws import GridDraws, RandomDraws, grid_size
from harness.plugins import Plugins
from harness.problem import Problem
from harness.rules import Rules
from harness.runner import first_cost, run_pack
from harness.solver import Solver
from harness.space import find_space
from problems.distillation import Distillation
from problems.meta_learning import MetaLearning
from problems.newsgroups import Newsgroups

PLUGINS = Plugins()
CPU = torch.device("cpu")
SPACES = {name: find_space(name, None) for name in ("newsgroups", "distillation", "meta_learning")}
PAPERS = {"amigo_cg", "amigo", "aid_gd", "aid_cg", "aid_cg_ws", "aid_fp", "aid_n", "itd", "reverse"} | {
    "stocbio_neumann",
    "bsa_ws",
    "ttsa",
}


@pytest.fixture(scope="module")
def problems() -> dict[str, Problem]:
    found: dict[str, Problem] = {
        "newsgroups": Newsgroups(dataset="drawn", features=40),
        "distillation": Distillation(dataset="digits"),
        "meta_learning": MetaLearning(
            dataset="digits", ways=2, shots=1, queries=1, channels=2, tasks=8, evaluation_tasks=2
        ),
    }
    for problem in found.values():
        problem.setup(None, 0, CPU, problem.dtype)
    return found


def solver_of(name: str) -> type[Solver[Any]]:
    found: type[Solver[Any]] = PLUGINS.solver(name)
    return found


NARROW = ("quadratic", "regularisation", "stochastic_quadratic")
"""Problems whose lower level is narrow enough for whole Hessians."""


@pytest.mark.parametrize("problem", PLUGINS.names("problem"))
def test_every_solver_that_is_defined_has_a_table(problem: str) -> None:
    task = PLUGINS.problem(problem)
    solvers = {name: solver_of(name).needs for name in PLUGINS.names("solver")}
    defined = {n for n, needs in solvers.items() if needs.dim_y is None or problem in NARROW}

    assert set(find_space(problem, None).solvers()) == {n for n in defined if not solvers[n].unmet(task)}


@pytest.mark.parametrize(
    ("problem", "method"), [(problem, method) for problem in SPACES for method in SPACES[problem].solvers()]
)
def test_every_table_fits_its_solver_and_runs(
    problem: str, method: str, problems: dict[str, Problem]
) -> None:
    """Two upper iterations of one draw, on small data."""
    solver, task = solver_of(method), problems[problem]
    space = SPACES[problem].space(method, solver)
    config = space.resolve(RandomDraws(3, space).draw(0))
    budget = 2 * float(first_cost(task, solver, [config], seed=0)[0])
    (result,) = run_pack(task, solver, [config], Rules(budget, {}, seed=0), CPU, task.dtype)

    assert result.state in ("completed", "diverged") and result.upper_iterations >= 1


@pytest.mark.parametrize(("problem", "most"), [("newsgroups", 32), ("distillation", 5)])
def test_the_papers_methods_have_its_grid(problem: str, most: int) -> None:
    """T, N, beta and the batch size on 20 Newsgroups, the upper step size of the distillation."""
    for method in sorted(PAPERS):
        space = SPACES[problem].space(method, solver_of(method))
        configs = [space.resolve(GridDraws(space).draw(n)) for n in range(grid_size(space))]
        given = {
            name: {config[name] for config in configs if name in config} or None
            for name in (
                "upper_step_size",
                "lower_step_size",
                "system_step_size",
                "batch_size",
                "upper_batch_size",
            )
        }

        assert grid_size(space) <= most
        if problem == "newsgroups":
            assert given["upper_step_size"] == given["lower_step_size"] == {100.0}
            assert given["batch_size"] == given["upper_batch_size"] == {100, 1000, 2000, 4000}
            assert given["system_step_size"] in (None, {0.5, 10.0})
            assert all(config["batch_size"] == config["upper_batch_size"] for config in configs)
        else:
            assert given["upper_step_size"] == {1, 0.1, 0.01, 0.001, 0.0001}
            assert given["lower_step_size"] == {0.1} and given["system_step_size"] in (None, {0.1})


def test_bsgm_on_few_shot_tasks_has_the_papers_values() -> None:
    for method in ("bsgm", "bsgm_ws"):
        space = SPACES["meta_learning"].space(method, solver_of(method))
        configs = [space.resolve(GridDraws(space).draw(n)) for n in range(grid_size(space))]

        assert {config.pop("batch_size") for config in configs} == {8, 16, 32}
        for config in configs:
            steps = {"upper_step_size": 0.2, "lower_step_size": 0.05, "system_step_size": 0.05}
            counts = {"lower_steps": 10, "system_steps": 10, "cross_batches": 1, "upper_batch_size": 0}
            assert config == steps | counts
