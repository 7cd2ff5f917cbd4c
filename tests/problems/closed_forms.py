"""Closed forms against the derivatives derived from the losses; whether the data sets are there."""

import os

import pytest
import torch
from torch import Tensor

from harness import derive
from harness.batch import Batch
from harness.problem import Problem

F64 = torch.float64

needs_data = pytest.mark.skipif(
    not os.environ.get("HARNESS_DATA"), reason="needs the data sets: set HARNESS_DATA to their folder"
)


def batches(examples: int, size: int, trials: int, seed: int) -> list[Batch]:
    """Some examples, all, some drawn with counts, all drawn with counts."""
    draw = torch.Generator().manual_seed(seed)
    some, every = torch.randperm(examples, generator=draw)[:size].sort().values, torch.arange(examples)
    few, many = (torch.randint(0, 3, (trials, n), generator=draw) for n in (size, examples))
    few[:, 0] = many[:, 0] = 1
    return [Batch(some), Batch(every, full=True), Batch(some, counts=few), Batch(every, many, full=True)]


def normal(trials: int, size: int, seed: int) -> Tensor:
    return torch.randn(trials, size, generator=torch.Generator().manual_seed(seed), dtype=F64)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def assert_closed_forms(
    problem: Problem, x: Tensor, y: Tensor, v: Tensor, lower: Batch, upper: Batch
) -> None:
    """All of them, to 1e-10 in float64."""
    close(problem.lower_gradient(x, y, lower), derive.lower_gradient(problem, x, y, lower))
    close(problem.hessian_vector(x, y, v, lower), derive.hessian_vector(problem, x, y, v, lower))
    close(problem.cross(x, y, v, lower), derive.cross(problem, x, y, v, lower))
    close(problem.lower_value(x, y, lower), derive.lower_value(problem, x, y, lower))
    close(problem.upper_value(x, y, upper), derive.upper_value(problem, x, y, upper))
    joint = zip(
        problem.joint_lower_gradient(x, y, lower),
        derive.joint_lower_gradient(problem, x, y, lower),
        strict=True,
    )
    above = zip(problem.upper_gradient(x, y, upper), derive.upper_gradient(problem, x, y, upper), strict=True)
    for found, expected in [*joint, *above]:
        close(found.expand_as(expected), expected)


def assert_dense_forms(problem: Problem, x: Tensor, y: Tensor, lower: Batch) -> None:
    """The matrices equal those put together from products, column by column."""
    close(problem.hessian(x, y, lower), Problem.hessian(problem, x, y, lower))
    close(problem.cross_matrix(x, y, lower), Problem.cross_matrix(problem, x, y, lower))
