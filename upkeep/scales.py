"""Curvatures and hypergradients along a plain descent of y, by which the ranges of two search spaces go.

    python -m upkeep.scales newsgroups|distillation [--data-dir FOLDER]

At x0, after so many full lower steps of the papers' size: the largest curvature of g, the norms of y, d_y g,
d_y f, z after 50 conjugate-gradient steps and the hypergradient with it; and the norm of the hypergradient
with z = -N beta d_y f, which is what N short steps of size beta on z = 0 give. A Markdown table on stdout.
"""

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from harness.api import Batch, Problem
from harness.plugins import Plugins

CPU = torch.device("cpu")
SOLVE, POWER = 50, 60  # steps of conjugate gradients and of the power method


@dataclass(frozen=True)
class Papers:
    """lower: the papers' step size of y. system: N times beta. marks: lower steps at which to look."""

    lower: float
    system: float
    marks: tuple[int, ...]


SETTINGS = {
    "newsgroups": Papers(100, 10 * 0.5, (0, 10, 100, 300, 600)),
    "distillation": Papers(0.1, 10 * 0.1, (0, 10, 100, 1000)),
}


class Level:
    """The derivatives of one problem on all examples."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.lower = Batch(torch.arange(problem.lower_examples), full=True)
        self.upper = Batch(torch.arange(problem.upper_examples), full=True)

    def curvature(self, x: Tensor, y: Tensor) -> float:
        v, size = torch.randn(y.shape, generator=torch.Generator().manual_seed(0)), 0.0
        for _ in range(POWER):
            v = v / torch.linalg.vector_norm(v)
            product = self.problem.hessian_vector(x, y, v, self.lower)
            size, v = float((v * product).sum()), product
        return size

    def solution(self, x: Tensor, y: Tensor, f_y: Tensor) -> Tensor:
        z, r = torch.zeros_like(y), -f_y
        p = r
        for _ in range(SOLVE):
            product = self.problem.hessian_vector(x, y, p, self.lower)
            length = (r * r).sum() / (p * product).sum()
            z, left = z + length * p, r - length * product
            r, p = left, left + (left * left).sum() / (r * r).sum() * p
            if not r.any():
                break
        return z

    def row(self, x: Tensor, y: Tensor, gradient: Tensor, short: float) -> list[float]:
        f_y = self.problem.upper_gradient(x, y, self.upper)[1]
        z = self.solution(x, y, f_y)
        solved, cut = (self.problem.cross(x, y, value, self.lower) for value in (z, -short * f_y))
        norms = [float(torch.linalg.vector_norm(value)) for value in (y, gradient, f_y, z, solved)]
        return [self.curvature(x, y), *norms, float(solved.abs().max()), float(torch.linalg.vector_norm(cut))]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("problem", choices=SETTINGS)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("HARNESS_DATA"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    problem: Problem = Plugins().problem(options.problem)()
    problem.setup(Path(options.data_dir) if options.data_dir else None, 0, CPU, torch.float32)
    papers, level = SETTINGS[options.problem], Level(problem)
    x, y = (value.float().unsqueeze(0) for value in problem.initial(1))
    heads = [
        "lower steps",
        "curvature",
        "y",
        "d_y g",
        "d_y f",
        "z",
        "h",
        "largest entry of h",
        "h, z cut short",
    ]
    sys.stdout.write("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|\n")
    for step in range(max(papers.marks) + 1):
        gradient = problem.lower_gradient(x, y, level.lower)
        if step in papers.marks:
            found = level.row(x, y, gradient, papers.system)
            sys.stdout.write(f"| {step} | " + " | ".join(f"{value:.2g}" for value in found) + " |\n")
            sys.stdout.flush()
        y = y - papers.lower * gradient


if __name__ == "__main__":
    main()
