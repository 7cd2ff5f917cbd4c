"""Samples per second and memory of the oracles of all problems: closed and derived, alone and in a pack, and
plain autograd."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import common
from benchmarks.common import times
from harness import derive
from harness.api import Batch, Problem
from problems.data_cleaning import DataCleaning
from problems.data_poisoning import DataPoisoning
from problems.distillation import Distillation
from problems.equilibrium import Equilibrium
from problems.meta_learning import MetaLearning
from problems.newsgroups import Newsgroups
from problems.quadratic import Quadratic
from problems.regularisation import Regularisation
from problems.stochastic_quadratic import StochasticQuadratic

CPU = torch.device("cpu")
DERIVATIVES = ("lower_gradient", "upper_gradient", "hessian_vector", "cross")
Point = tuple[Tensor, Tensor, Tensor]


class Plain:
    """One trial, as a script without a harness has it: losses, then torch.autograd."""

    def __init__(self, problem: Problem, point: Point, lower: Tensor, upper: Tensor) -> None:
        x, y, self.v = (value[0] for value in point)
        self.problem, self.rows, self.upper_rows = problem, lower, upper
        self.x, self.y = x.clone().requires_grad_(), y.clone().requires_grad_()

    def residual(self, graph: bool) -> Tensor:
        if self.problem.is_map():
            return self.y - self.problem.lower_map(self.x, self.y, self.rows).flatten()
        loss = self.problem.lower_loss(self.x, self.y, self.rows).mean()
        return torch.autograd.grad(loss, self.y, create_graph=graph)[0]

    def lower_gradient(self) -> object:
        return self.residual(graph=False)

    def hessian_vector(self) -> object:
        return torch.autograd.grad(self.residual(graph=True), self.y, self.v)

    def cross(self) -> object:
        return torch.autograd.grad(self.residual(graph=True), self.x, self.v)

    def upper_gradient(self) -> object:
        loss = self.problem.upper_loss(self.x, self.y, self.upper_rows).mean()
        return torch.autograd.grad(loss, (self.x, self.y), allow_unused=True)


def calls(
    source: object, problem: Problem, point: Point, lower: Batch, upper: Batch
) -> dict[str, Callable[[], object]]:
    """The four oracles of `source`: the problem itself, or `harness.derive` on its losses."""
    x, y, v = point
    arguments: dict[str, tuple[object, ...]] = {
        "lower_gradient": (x, y, lower),
        "upper_gradient": (x, y, upper),
        "hessian_vector": (x, y, v, lower),
        "cross": (x, y, v, lower),
    }
    first = () if source is problem else (problem,)
    return {kind: _call(getattr(source, kind), *first, *given) for kind, given in arguments.items()}


def _call(oracle: Callable[..., object], *arguments: object) -> Callable[[], object]:
    return lambda: oracle(*arguments)


def cases() -> dict[str, tuple[Problem, int]]:
    """Problems, not set up, with the size of a mini-batch."""
    return {
        "quadratic, deterministic": (Quadratic(), 1),
        "quadratic, noisy, batch 64": (Quadratic(samples=1000, noise=0.1), 64),
        "stochastic quadratic, batch 64": (StochasticQuadratic(), 64),
        "equilibrium on MNIST, batch 600": (Equilibrium(), 600),
        "data poisoning on MNIST, batch 90": (DataPoisoning(), 90),
        "data cleaning on MNIST, batch 64": (DataCleaning(), 64),
        "regularisation on ijcnn1, batch 64": (Regularisation(dataset="ijcnn1"), 64),
        "regularisation on covtype, batch 64": (Regularisation(dataset="covtype"), 64),
        "distillation on MNIST, batch 10": (Distillation(), 10),
        "20 newsgroups, batch 1000": (Newsgroups(), 1000),
        "meta-learning on Omniglot, 4 tasks": (MetaLearning(dataset="omniglot"), 4),
    }


def batch(problem: Problem, examples: int, size: int, draw: torch.Generator) -> Batch:
    rows = torch.randperm(examples, generator=draw)[:size].sort().values
    return Batch(rows, full=size == examples)


def measure(problem: Problem, size: int, pack: int, repeats: int) -> list[list[str]]:
    """Two rows per oracle, of samples a second and of megabytes. Closed forms meet two points in turn: what a
    problem remembers of the last point does not help it here."""
    draw = torch.Generator().manual_seed(3)
    lower = batch(problem, problem.lower_examples, size, draw)
    upper = lower if problem.by_example else batch(problem, problem.upper_examples, size, draw)
    width = problem.dim_y * (size if problem.by_example else 1)
    shapes = ((pack, problem.dim_x), (pack, width), (pack, width))
    x, y, v = (0.1 * torch.randn(shape, generator=draw, dtype=problem.dtype) for shape in shapes)
    point = (problem.project(problem.initial(1)[0].to(problem.dtype) + 0.1 * x), y, v)
    plain = Plain(problem, point, lower.rows, upper.rows)
    sides = {f"plain {kind}": common.timed(getattr(plain, kind), size) for kind in DERIVATIVES}
    peaks = {f"plain {kind}": common.peak_megabytes(getattr(plain, kind)) for kind in DERIVATIVES}
    for name, source in (("closed", problem), ("derived", derive)):
        for trials in (1, pack):
            here, there = (calls(source, problem, _copy(point, trials), lower, upper) for _ in range(2))
            for kind in DERIVATIVES:
                sides[f"{name} {trials} {kind}"] = common.timed(
                    _both(here[kind], there[kind]), 2 * size * trials
                )
                peaks[f"{name} {trials} {kind}"] = common.peak_megabytes(here[kind])
    found = common.medians(sides, repeats)
    lines = []
    for kind in DERIVATIVES:
        base = found[f"plain {kind}"]
        cells = [kind.replace("_", " "), f"{1 / base:,.0f}"]
        memory = ["MB", f"{peaks[f'plain {kind}']:,.1f}"]
        for name in ("closed", "derived"):
            for trials in (1, pack):
                seconds = found[f"{name} {trials} {kind}"]
                cells.append(f"{1 / seconds:,.0f} ({times(base / seconds)})")
                memory.append(f"{peaks[f'{name} {trials} {kind}']:,.1f}")
        lines += [cells, memory]
    return lines


def _copy(point: Point, trials: int) -> Point:
    x, y, v = (value[:trials].clone() for value in point)
    return x, y, v


def _both(one: Callable[[], object], two: Callable[[], object]) -> Callable[[], object]:
    return lambda: (one(), two())


def main() -> None:
    parser = common.arguments(__doc__ or "")
    parser.add_argument("--pack", type=int, default=8)
    options = parser.parse_args()
    common.one_thread()
    heads = ["oracle", "plain autograd", "closed, alone", f"closed, pack of {options.pack}"]
    heads += ["derived, alone", f"derived, pack of {options.pack}"]
    parts = [
        "Samples per second, all trials together, and how many times that is plain autograd of one trial "
        "after another. A sample of the quadratic is a full gradient where it is deterministic. No two calls "
        "in a row are at the same point, so what `equilibrium` keeps of a point is no help; `meta_learning` "
        "keeps the features of several, which the lower steps at an x share. MB: what the first call takes "
        "at its peak beyond what is held, its result among it, and once, in the first table, what PyTorch "
        "loads late."
    ]
    for name, (problem, size) in cases().items():
        problem.setup(options.data_dir and Path(options.data_dir), 1, CPU, problem.dtype)
        parts += [f"## {name}", common.table(heads, measure(problem, size, options.pack, options.repeats))]
    common.report("oracles", parts, options.out)


if __name__ == "__main__":
    main()
