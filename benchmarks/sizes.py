"""What the number of trials costs: the driver's pace and memory, and the time and memory of every reader.

    python -m benchmarks.sizes --sizes 1000,10000,100000 --executors made-up

Each size is a study of its own, made by `harness run`'s own functions in a process of its own. The executor
"made-up" has the results ready, with curves as real ones have them (5 kB of JSON a trial), so that what it
measures is the driver and the record alone; "inline" and "ray" run tiny trials.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import common
from harness.budget import KINDS
from harness.launch import Execution, Search, run_study
from harness.result import Result
from harness.rules import Rules
from harness.study import Executor, Study
from harness.worker import Context, Pack, make_context

SOLVERS = "soba,amigo"
POINTS = 20
BUDGET = 1e4
SIZES = ["upper_dim=2", "lower_dim=2"]


def made_up(study: Study) -> None:
    """An executor that has its results ready: what a driver costs."""
    while (pack := study.next_pack()) is not None:
        study.record(pack, results_of(pack))


def results_of(pack: Pack) -> list[Result]:
    found = []
    for number, config in zip(pack.numbers, pack.configs, strict=True):
        draw = random.Random(f"{pack.solver}/{number}")
        level = draw.lognormvariate(0, 1)
        curve = [_point(step, POINTS, level, draw) for step in range(POINTS + 1)]
        end = curve[-1]
        metrics = {name: end[name] for name in ("relative_error", "distance", "gradient")}
        found.append(
            Result(
                config=config,
                objective=metrics["relative_error"],
                metrics=metrics,
                ledger={name: end[name] for name in (*KINDS, "total")},
                upper_iterations=int(end["upper_iteration"]),
                evaluation_samples=1000,
                seconds=end["seconds"],
                evaluation_seconds=draw.random(),
                pack=len(pack.numbers),
                curve=curve,
            )
        )
    return found


def _point(step: int, steps: int, level: float, draw: random.Random) -> dict[str, float]:
    total = float(int(BUDGET ** (step / steps))) if step else 0.0
    ledger = {kind: float(int(total / len(KINDS))) for kind in KINDS}
    loss = level * (1 + 5 * draw.random() / (1 + step))
    metrics = {"relative_error": loss, "distance": draw.random(), "gradient": draw.random()}
    place = {"upper_iteration": int(total / 50), "seconds": total * draw.random() / 1e4}
    return place | ledger | {"total": total} | metrics


@dataclass(frozen=True)
class Clocked(Execution):
    """An execution that notes when results are recorded. ready: nothing runs, the results are made up."""

    ready: bool = False

    def executor_of(self, context: Context) -> Executor:
        run = made_up if self.ready else super().executor_of(context)

        def execute(study: Study) -> None:
            record, marks = study.record, [(time.perf_counter(), time.process_time(), 0)]

            def clocked(pack: Pack, results: Sequence[Result]) -> None:
                record(pack, results)
                marks.append((time.perf_counter(), time.process_time(), marks[-1][2] + len(results)))

            study.record = clocked  # type: ignore[method-assign]
            run(study)
            sys.stdout.write(json.dumps(pace(marks[1:])) + "\n")

        return execute


def pace(marks: list[tuple[float, float, int]]) -> dict[str, float]:
    """Trials a second in the first and the last tenth, and the driver's own seconds of a trial there."""
    counts = [count for _, _, count in marks]
    tenth = max(counts) / 10
    first, last = bisect_left(counts, tenth), bisect_left(counts, max(counts) - tenth)
    found = {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}
    for name, one, two in (("start", marks[0], marks[first]), ("end", marks[last], marks[-1])):
        wall, own, trials = (b - a for a, b in zip(one, two, strict=True))
        found |= {f"{name} pace": trials / wall, f"{name} own": own / trials}
    return found


def budget_of(executor: str) -> float:
    """Trials that run are as short as they can be."""
    return BUDGET if executor == "made-up" else 20.0


def drive(folder: Path, trials: int, executor: str, pack: int, workers: int) -> None:
    """Make a study of so many trials."""
    rules = Rules(budget=budget_of(executor), prices={}, seed=1)
    context = make_context("quadratic", SIZES, [], None, None, "cpu", rules, 0.0)
    search = Search(trials // len(SOLVERS.split(",")), SOLVERS, None, "random", None, False)
    kind = "ray" if executor == "ray" else "inline"
    execution = Clocked(kind, workers, None, str(pack), ready=executor == "made-up")
    run_study(context, search, execution, folder, dry_run=False)


# --- what reads it


def readers(folder: Path, trials: int, budget: float) -> dict[str, list[str]]:
    """Words of commands by name; the study is finished, so that nothing is left to run."""
    own = ["--solvers", SOLVERS, "--trials", str(trials // 2), "--budget", str(budget), "--seed", "1"]
    own += [word for size in SIZES for word in ("--set", size)]
    resumed = ["run", "quadratic", *own, "--executor", "inline", "--device", "cpu", "--out", str(folder)]
    return {
        "--version": ["--version"],
        "status": ["status", str(folder)],
        "run": resumed,
        "report": ["report", str(folder)],
    }


CHILD = """
import atexit, resource, sys
def say():
    used = resource.getrusage(resource.RUSAGE_SELF)
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    sys.stderr.write(f"{used.ru_utime + used.ru_stime} {peak.split()[1]}")
atexit.register(say)
from harness.cli import main
main()
"""
"""A command that ends with its CPU seconds and peak kB: Linux counts its parent's in a child's ru_maxrss."""


def reader(words: list[str]) -> dict[str, float]:
    """Wall seconds, seconds of its CPU, and peak MB of one command."""
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", CHILD, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    wall = time.perf_counter() - begun
    own, memory = map(float, done.stderr.splitlines()[-1].split()[-2:])
    return {"wall": wall, "own": own, "memory": memory / 1e3}


def sizes_of(folder: Path) -> dict[str, float]:
    """MB of each file of the record."""
    return {file.name: file.stat().st_size / 1e6 for file in sorted(folder.iterdir()) if file.is_file()}


def measure(folder: Path, trials: int, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    words = [f"--{name}={getattr(options, name)}" for name in ("executor", "pack", "workers")]
    command = [sys.executable, "-m", "benchmarks.sizes", *words, f"--sizes={trials}", f"--drive={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found = {"driver": json.loads(done.stdout.splitlines()[0]), "files": sizes_of(folder)}
    for name, asked in readers(folder, trials, budget_of(options.executor)).items():
        if name in options.readers.split(","):
            found[name] = reader(asked)
    return found


def main() -> None:
    parser = common.arguments(__doc__ or "")
    parser.add_argument("--sizes", default="1000,10000", help="numbers of trials")
    parser.add_argument("--executor", default="made-up", choices=("made-up", "inline", "ray"))
    parser.add_argument("--pack", type=int, default=8)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--readers", default="--version,status,run,report")
    parser.add_argument("--keep", type=Path, help="leave the studies in this folder")
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    if options.drive:
        return drive(options.drive, sizes[0], options.executor, options.pack, options.workers)
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for size in sizes:
            found[size] = measure((options.keep or Path(scratch)) / str(size), size, options)
            sys.stderr.write(f"{size}: {json.dumps(found[size])}\n")
    common.report("sizes", tables(found, options), options.out)


def tables(found: dict[int, dict[str, dict[str, float]]], options: argparse.Namespace) -> list[str]:
    drivers = [
        [
            f"{size:,}",
            *(f"{one['driver'][f'{part} pace']:,.0f}" for part in ("start", "end")),
            *(f"{one['driver'][f'{part} own'] * 1e3:.2f} ms" for part in ("start", "end")),
            f"{one['driver']['memory']:,.0f} MB",
            ", ".join(f"{name} {mb:,.1f}" for name, mb in one["files"].items()),
        ]
        for size, one in found.items()
    ]
    heads = ["trials", "a second, first tenth", "last tenth", "driver's own time a trial, first tenth"]
    heads += ["last tenth", "its memory", "files, MB"]
    readers = [
        [
            f"{size:,}",
            name,
            *(f"{one[name][part]:.1f} s" for part in ("wall", "own")),
            f"{one[name]['memory']:,.0f} MB",
        ]
        for size, one in found.items()
        for name in one
        if name not in ("driver", "files")
    ]
    asked = f"Executor {options.executor}, packs of {options.pack}."
    return [
        asked,
        common.table(heads, drivers),
        common.table(["trials", "command", "wall", "own time", "peak memory"], readers),
    ]


if __name__ == "__main__":
    main()
