"""(e) What Ray, Optuna and the record cost in a study of 30 trials, and (f) two workers against one."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import common
from harness.record import load_record


def run(out: Path, workers: int, options: list[str]) -> float:
    """Wall seconds of one `harness run`."""
    command = [
        sys.executable,
        "-c",
        "from harness.cli import main; main()",
        "run",
        "data_poisoning",
        "--out",
        str(out),
        *options,
    ]
    begun = time.perf_counter()
    done = subprocess.run(
        [*command, "--workers", str(workers), "--executor", "ray", "--device", "cpu"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return time.perf_counter() - begun


def measure(folder: Path, workers: int, trials: int, options: list[str]) -> dict[str, float]:
    """Start-up is the wall time of the same study with one trial per worker less the time they worked."""
    wall = run(folder / f"{workers}", workers, [*options, "--trials", str(trials)])
    found = load_record(folder / f"{workers}").trials
    worked = float((found["seconds"] + found["evaluation_seconds"]).sum())
    short = run(folder / f"{workers}-start", workers, [*options, "--trials", str(workers)])
    few = load_record(folder / f"{workers}-start").trials
    busy = (few["seconds"] + few["evaluation_seconds"]).max()
    start = short - float(busy)
    return {"wall": wall, "worked": worked, "start": start, "after": wall - start, "states": len(found)}


def main() -> None:
    parser = common.arguments(__doc__ or "")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--solver", default="bsgm")
    parser.add_argument("--budget", type=float, default=2e6)
    parser.add_argument("--pack", default="1", help="trials per pack")
    options = parser.parse_args()
    flags = ["--solvers", options.solver, "--budget", str(options.budget), "--pack", options.pack]
    flags += ["--set", f"dataset={options.dataset}", "--seed", "1"]
    if options.data_dir:
        flags += ["--data-dir", str(options.data_dir)]
    with tempfile.TemporaryDirectory() as folder:
        found = {w: measure(Path(folder), w, options.trials, flags) for w in (1, 2)}
    rows = [
        [
            w,
            f"{f['wall']:.1f} s",
            f"{f['start']:.1f} s",
            f"{f['worked']:.1f} s",
            f"{100 * (1 - f['worked'] / (w * f['after'])):.1f} %",
        ]
        for w, f in found.items()
    ]
    heads = ["workers", "wall", "of it start-up", "seconds of trials", "overhead of the worker time"]
    note = (
        f"`harness run data_poisoning {' '.join(flags[:8])} …`, {options.trials} trials, executor Ray. "
        "Overhead: 1 − seconds of trials (search and evaluation) / (workers × wall after start-up); target ≤ "
        "5 %. It includes workers that have nothing left to do at the end. Start-up: the wall time of the "
        "same command with one trial per worker, less the time of the longest of them."
    )
    one, two = found[1], found[2]
    gain = (
        f"Two workers against one: {one['after'] / two['after']:.2f}× after start-up, "
        f"{one['wall'] / two['wall']:.2f}× with it; target ≥ 1.8×. CPUs: {os.cpu_count()}; seconds of trials "
        f"grew by a factor {two['worked'] / one['worked']:.2f} where two ran side by side."
    )
    common.report("study", [common.table(heads, rows), note, gain], options.out)


if __name__ == "__main__":
    main()
