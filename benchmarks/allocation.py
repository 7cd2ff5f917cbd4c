"""What it is worth that a worker keeps the memory it frees.

Upper iterations of SOBA on data poisoning, whose x has seven million entries, in packs, in a process that
keeps freed memory and in one that gives it back.
"""

import argparse
import json
import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor

import torch

from benchmarks import common
from harness.plugins import Plugins
from harness.rules import Rules
from harness.runner import run_pack
from harness.worker import keep_freed_memory

PACKS = (1, 4, 8)


def seconds(arguments: str) -> float:
    """Of an upper iteration of a pack, in a process of its own."""
    given = json.loads(arguments)
    common.one_thread()
    if given["keeps"]:
        keep_freed_memory()
    task, iterations = common.problem(given["data_dir"]), given["iterations"]
    size = {"batch_size": common.BATCH, "upper_batch_size": common.BATCH}
    config = {"upper_step_size": 1e5, "lower_step_size": 0.1, "upper_decay": 0.0, "lower_decay": 0.0} | size
    rules = Rules(4 * common.BATCH * iterations, {}, seed=1, divergence="worst", curves=0)
    results = run_pack(
        _unscored(task),
        Plugins().solver("soba"),
        [config] * given["trials"],
        rules,
        torch.device("cpu"),
        task.dtype,
    )
    return float(sum(result.seconds for result in results)) / iterations


def _unscored(task):  # type: ignore[no-untyped-def]
    """Without the retraining."""
    task.evaluate_pack = lambda x, y: [dict.fromkeys(task.metric_names, 0.0) for _ in x]
    return task


def main() -> None:
    parser = common.arguments(__doc__ or "")
    parser.add_argument("--iterations", type=int, default=20)
    options: argparse.Namespace = parser.parse_args()
    rows = []
    for trials in PACKS:
        found: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(options.repeats):
            for keeps, times in found.items():
                given = {"keeps": keeps, "trials": trials, "iterations": options.iterations}
                given["data_dir"] = str(options.data_dir)
                spawn = multiprocessing.get_context("spawn")
                with ProcessPoolExecutor(1, mp_context=spawn) as process:
                    times.append(process.submit(seconds, json.dumps(given)).result())
        kept, given_back = (1000 * statistics.median(found[keeps]) for keeps in (True, False))
        rows.append([trials, f"{given_back:.0f} ms", f"{kept:.0f} ms", f"{given_back / kept:.1f}×"])
    heads = ["pack", "upper iteration, memory given back", "kept", "ratio"]
    note = (
        f"The median of {options.repeats} processes of {options.iterations} upper iterations each, by turns."
    )
    common.report("allocation", [common.table(heads, rows), note], options.out)


if __name__ == "__main__":
    main()
