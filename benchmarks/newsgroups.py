"""Derivatives of `newsgroups` in closed form, against torch.sparse and autograd; four sparse products."""

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks import common
from benchmarks.common import times
from harness.api import Batch
from problems._texts import GROUPS
from problems.newsgroups import Bags, Documents, Newsgroups

SIZES = (100, 1000, 4000)
HALF = 5657  # documents of each level
CALLS = 4  # timed together, on two mini-batches by turns


class Plain:
    """The published way: a sparse COO matrix of each mini-batch, made beforehand, and autograd."""

    def __init__(self, task: Newsgroups, x: Tensor, y: Tensor, v: Tensor, level: str, batch: Batch) -> None:
        every = task._train if level == "lower" else task._val
        documents = every.part(batch.rows)
        self.matrix, self.groups = coo(documents), documents.groups
        self.x = x.clone().requires_grad_()
        self.y, self.v = y.view(-1, GROUPS).clone().requires_grad_(), v.view(-1, GROUPS)

    def gradient(self, graph: bool) -> Tensor:
        loss = cross_entropy(torch.sparse.mm(self.matrix, self.y), self.groups)
        loss = loss + 0.5 * (self.y**2 * self.x.exp().unsqueeze(1)).mean()
        return torch.autograd.grad(loss, self.y, create_graph=graph)[0]

    def lower_gradient(self) -> object:
        return self.gradient(graph=False)

    def hessian_vector(self) -> object:
        return torch.autograd.grad(self.gradient(graph=True), self.y, self.v)

    def cross(self) -> object:
        return torch.autograd.grad(self.gradient(graph=True), self.x, self.v)

    def upper_gradient(self) -> object:
        return torch.autograd.grad(cross_entropy(torch.sparse.mm(self.matrix, self.y), self.groups), self.y)


def coo(documents: Documents) -> Tensor:
    words = documents.words
    places = torch.stack([words.owners(), words.columns]).long()
    shape = len(documents.groups), documents.features
    return torch.sparse_coo_tensor(places, words.values, shape, is_coalesced=True, check_invariants=False)


def csr(words: Bags, columns: int) -> Tensor:
    starts = torch.cat([words.starts, words.starts.new_tensor([len(words.columns)])])
    shape = len(words.starts), columns
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CSR "is in beta state"
        return torch.sparse_csr_tensor(starts, words.columns, words.values, shape, check_invariants=False)


def drawn(size: int, draw: torch.Generator) -> Batch:
    return Batch(torch.randperm(HALF, generator=draw)[:size].sort().values, full=size == HALF)


def derivatives(task: Newsgroups, size: int, packs: tuple[int, ...], repeats: int) -> list[list[str]]:
    """A row for each derivative. No mini-batch is met twice in a row, so every one is cut out anew."""
    draw = torch.Generator().manual_seed(1)
    x, y, v = (torch.randn(max(packs), n, generator=draw) for n in (task.dim_x, task.dim_y, task.dim_y))
    batches = drawn(size, draw), drawn(size, draw)
    sides: dict[str, Callable[[], float]] = {}
    kinds = {
        "lower_gradient": "lower",
        "hessian_vector": "lower",
        "cross": "lower",
        "upper_gradient": "upper",
    }

    def closed(kind: str, trials: int) -> Callable[[], object]:
        given = [value[:trials].clone() for value in ((x, y) if kind.endswith("gradient") else (x, y, v))]
        method = getattr(task, kind)
        return lambda: [method(*given, batches[n % 2]) for n in range(CALLS)]

    def plain(kind: str, level: str) -> Callable[[], object]:
        methods = [getattr(Plain(task, x[0], y[0], v[0], level, batch), kind) for batch in batches]
        return lambda: [methods[n % 2]() for n in range(CALLS)]

    for kind, level in kinds.items():
        sides[f"plain {kind}"] = common.timed(plain(kind, level), CALLS)
        for trials in packs:
            sides[f"{trials} {kind}"] = common.timed(closed(kind, trials), CALLS * trials)
    found = common.medians(sides, repeats)
    lines = []
    for kind in kinds:
        base = found[f"plain {kind}"]
        own = [found[f"{trials} {kind}"] for trials in packs]
        cells = [kind.replace("_", " "), f"{size}", f"{base * 1e3:.1f} ms"]
        lines.append(cells + [f"{seconds * 1e3:.1f} ms ({times(base / seconds)})" for seconds in own])
    return lines


def products(task: Newsgroups, size: int, repeats: int) -> list[list[str]]:
    """A Y and A^T R of one mini-batch that is cut out already, four ways."""
    draw = torch.Generator().manual_seed(1)
    documents = task._train.part(drawn(size, draw).rows)
    y, r = (torch.randn(n, GROUPS, generator=draw) for n in (task.dim_x, size))
    words, back, matrix = documents.words, documents.by_word, coo(documents)
    owners, columns = words.owners(), words.columns
    by_rows, by_features = csr(words, task.dim_x), csr(back, size)

    def added(into: int, targets: Tensor, table: Tensor, sources: Tensor) -> Tensor:
        rows = table.index_select(0, sources) * words.values.unsqueeze(1)
        return torch.zeros(into, GROUPS).index_add_(0, targets, rows)

    ways: dict[str, dict[str, Callable[[], object]]] = {
        "embedding_bag": {"A Y": lambda: words.times(y), "A^T R": lambda: back.times(r)},
        "torch.sparse CSR": {"A Y": lambda: by_rows @ y, "A^T R": lambda: by_features @ r},
        "torch.sparse COO": {"A Y": lambda: matrix @ y, "A^T R": lambda: matrix.t() @ r},
        "index_add": {
            "A Y": lambda: added(size, owners, y, columns),
            "A^T R": lambda: added(task.dim_x, columns, r, owners),
        },
    }
    sides = {
        f"{way} {name}": common.timed(run, 1) for way, runs in ways.items() for name, run in runs.items()
    }
    sides["cut"] = common.timed(lambda: task._train.part(drawn(size, draw).rows), 1)
    sides["sort"] = common.timed(lambda: words.transposed(task.dim_x), 1)
    found = common.medians(sides, repeats)
    lines = [[way, *(f"{found[f'{way} {name}'] * 1e3:.1f} ms" for name in ("A Y", "A^T R"))] for way in ways]
    return [
        *lines,
        ["cut out, sorted by feature", *(f"{found[name] * 1e3:.1f} ms" for name in ("cut", "sort"))],
    ]


def ready(data_dir: Path | None) -> Newsgroups:
    task = Newsgroups()
    task.setup(Path(data_dir) if data_dir else None, 0, torch.device("cpu"), torch.float32)
    return task


def main() -> None:
    parser = common.arguments(__doc__ or "")
    parser.add_argument("--pack", type=int, default=4)
    options = parser.parse_args()
    common.one_thread()
    task, packs = ready(options.data_dir), (1, options.pack)
    heads = [
        "derivative",
        "documents",
        "torch.sparse and autograd",
        "closed, alone",
        f"closed, pack of {packs[1]}",
    ]
    rows = [row for size in (*SIZES, HALF) for row in derivatives(task, size, packs, options.repeats)]
    parts = [
        "Per trial. The plain side has its sparse matrices made beforehand; ours cuts every mini-batch out "
        "anew, and sorts small ones by feature. 130 107 features, 20 groups; 5657 documents: a whole level.",
        common.table(heads, rows),
        "## Sparse products of 1000 documents",
        common.table(["way", "A Y", "A^T R"], products(task, 1000, options.repeats)),
    ]
    common.report("newsgroups", parts, options.out)


if __name__ == "__main__":
    main()
