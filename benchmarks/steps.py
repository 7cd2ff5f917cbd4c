"""(a), (d) One stochastic step: ours alone and in a pack, the published way, and a JAX scan."""

import importlib.metadata
import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks import common, jax_steps
from benchmarks.common import BATCH, microseconds, times
from harness.api import Batch, Oracle, lower_sgd, system_sgd
from harness.budget import KINDS, Accountant
from harness.meter import Meter
from harness.streams import Streams
from problems._linear import add_product, wide_product
from problems.data_poisoning import DataPoisoning

STEP_SIZE = 0.09


def oracle(task: DataPoisoning, trials: int, iteration: int) -> Oracle:
    """An oracle at an upper iteration, whose accountant grants all that the benchmark needs; every step is
    still charged."""
    streams = Streams(1, task.lower_examples, task.upper_examples, torch.device("cpu"))
    accountant = Accountant(trials, 1e15, dict.fromkeys(KINDS, 1.0))
    accountant.open(slice(None), np.full((len(KINDS), trials), 10**12))
    meter = Meter(task, streams, accountant, task.initial(1))
    meter.begin(iteration)
    return Oracle.of(meter)


def _pieces(task: DataPoisoning, x: Tensor, y: Tensor, rows: list[Tensor]) -> dict[str, Callable[[], float]]:
    """The two parts of a lone lower step that take time."""
    w, batches = y.view(1, task.classes, -1), [Batch(drawn) for drawn in rows]
    gathered = [task._parts(x, batch) for batch in batches[:50]]

    def gather() -> None:
        for batch in batches:
            task._parts(x, batch)

    def products() -> None:
        for parts in gathered:
            total = torch.zeros_like(w)
            for images, _, _ in parts:
                add_product(total, wide_product(w, images), images)

    return {"gather": common.timed(gather, len(rows)), "products": common.timed(products, len(gathered))}


def main() -> None:
    parser = common.arguments(__doc__ or "")
    parser.add_argument("--steps", type=int, default=500, help="steps per timing, published way 1/100")
    parser.add_argument("--pack", type=int, default=16)
    options = parser.parse_args()
    common.one_thread()
    task = common.problem(options.data_dir)
    n, steps = options.pack, options.steps
    x = common.attack(task, n)
    y = 0.01 * torch.randn(n, task.dim_y, generator=torch.Generator().manual_seed(2))
    published = common.Published(task, x[0])
    w, few = y[0].view(task.classes, -1), max(1, steps // 100)
    stream = Streams(1, task.lower_examples, task.upper_examples, torch.device("cpu"))
    rows = [stream.batch(0, "lower", "lower", i, BATCH).rows for i in range(steps)]

    def published_lower() -> None:
        at = w
        for i in range(few):
            at = published.lower_step(at, rows[i], STEP_SIZE)

    def published_system() -> None:
        v = w
        for i in range(few):
            v = published.system_step(w, v, w, rows[i], STEP_SIZE)

    iterations = itertools.count(1)  # fresh permutations, as in a search

    def lower(trials: int) -> None:
        door = oracle(task, trials, next(iterations))
        count, size = torch.full((trials,), steps), torch.full((trials, 1), STEP_SIZE)
        lower_sgd(door, x[:trials], y[:trials], count, size, BATCH)

    def system(trials: int) -> None:
        door = oracle(task, trials, next(iterations))
        count, size = torch.full((trials,), steps), torch.full((trials, 1), STEP_SIZE)
        at = y[:trials]
        system_sgd(door, x[:trials], at, at, at, count, size, BATCH)

    machine = common.Machine(task)
    sides = {
        **machine.sides,
        **_pieces(task, x[:1], y[:1], rows),
        "published": common.timed(published_lower, few),
        "alone": common.timed(lambda: lower(1), steps),
        "pack": common.timed(lambda: lower(n), steps * n),
        "published hvp": common.timed(published_system, few),
        "hvp alone": common.timed(lambda: system(1), steps),
        "hvp pack": common.timed(lambda: system(n), steps * n),
    }
    try:
        sides |= jax_steps.sides(task, x, y, np.stack([row.numpy() for row in rows[:steps]]), STEP_SIZE)
    except ImportError:
        pass
    found = common.medians(sides, options.repeats)
    common.report("steps", _tables(task, found, machine, options.pack), options.out)


def _tables(task: DataPoisoning, found: dict[str, float], machine: common.Machine, n: int) -> list[str]:
    product = 2 * BATCH * task.dim_y
    row = 4 * BATCH * task.pixels
    poisoned = row * len(task._poison.images) / task.lower_examples
    floors = {
        "alone": machine.floor(found, 2 * product, row + poisoned),
        "pack": machine.floor(found, 2 * product, row / n + poisoned),
        "hvp alone": machine.floor(found, 3 * product, row + poisoned),
        "hvp pack": machine.floor(found, 3 * product, row / n + poisoned),
    }
    packed = f"in a pack of {n}, per configuration"
    lines = []
    for kind, prefix, targets in (("lower step", "", ("400×", "1000×")), ("system step", "hvp ", ("", ""))):
        base = found[f"published {prefix}".strip()]
        lines.append([kind, "published way", microseconds(base), "", "", ""])
        for key, label, target in (("alone", "alone", targets[0]), ("pack", packed, targets[1])):
            ours = found[prefix + key]
            floor = microseconds(floors[prefix + key])
            lines.append([kind, f"ours, {label}", microseconds(ours), times(base / ours), target, floor])
    against = common.table(["what", "how", "time", "faster", "target", "floor"], lines)
    rate = 2 * product / found["products"] / 1e9
    where = (
        f"Of a lower step alone, {microseconds(found['gather'])} go into gathering its images and "
        f"{microseconds(found['products'])} into its products ({rate:.0f} GFLOP/s)."
    )
    parts = [machine.say(found), against, where]
    if "jax alone" not in found:
        return [*parts, "JAX is not installed here, so (d) was not measured: `pip install jax`."]
    pairs = [
        ("lower step alone", "jax alone", "alone", "1×"),
        (f"{packed}, `vmap`", "jax vmap", "pack", "2.5×"),
        (f"{packed}, wide products by hand in JAX", "jax wide", "pack", ""),
        (f"JAX alone against ours {packed}", "jax alone", "pack", ""),
    ]
    body = [
        [what, microseconds(found[j]), microseconds(found[o]), times(found[j] / found[o]), target]
        for what, j, o, target in pairs
    ]
    version = importlib.metadata.version("jax")

    note = (
        f"Against JAX {version}, `jit` of a `lax.scan` over the steps, the same mathematics: gather "
        f"{BATCH} rows, add the perturbation of the poisoned ones, softmax gradient, update. Our side also "
        "draws the mini-batches, charges every step and enters Python at each; JAX gets them ready made."
    )
    return [*parts, note, common.table(["what", "JAX", "ours", "JAX / ours", "target"], body)]


if __name__ == "__main__":
    main()
