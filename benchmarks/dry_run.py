"""What `harness run --dry-run` says a study will take, against what it took, by solver."""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import common
from harness.record import load_record

METHODS = "amigo,bsgm,soba"
STUDIES: dict[str, list[str]] = {
    "quadratic": ["quadratic", "--budget", "2000"],
    "data_poisoning, digits": ["data_poisoning", "--set", "dataset=digits", "--budget", "100000"],
    "data_cleaning, digits": ["data_cleaning", "--set", "dataset=digits", "--budget", "100000"],
    "stochastic_quadratic": ["stochastic_quadratic", "--budget", "100000"],
    "regularisation, breast_cancer": [
        "regularisation",
        "--set",
        "dataset=breast_cancer",
        "--budget",
        "100000",
    ],
    "distillation, digits": ["distillation", "--set", "dataset=digits", "--budget", "100000"],
    "equilibrium, digits": ["equilibrium", "--set", "dataset=digits", "--budget", "20000"],
    "newsgroups, drawn": ["newsgroups", "--set", "dataset=drawn", "--budget", "100000"],
    "meta_learning, digits": ["meta_learning", "--set", "dataset=digits", "--budget", "5000"],
    "data_poisoning, MNIST": ["data_poisoning", "--budget", "30000"],
}
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
DURATION = r"([\d.]+(?:e[+-]?\d+)?) (s|min|h)"


def harness(words: list[str]) -> tuple[str, float]:
    """What the command prints, and its wall seconds."""
    command = [sys.executable, "-c", "from harness.cli import main; main()", *words]
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stderr[-2000:]}")
    return done.stdout, time.perf_counter() - begun


def predicted(plan: str) -> dict[str, float]:
    """Seconds of all trials of each solver, from the printed plan."""
    rows = re.findall(rf"^ *(\w+) +\d+ +[\d,]+ +{DURATION} +{DURATION} *$", plan, re.MULTILINE)
    return {name: float(number) * UNITS[unit] for name, _, _, number, unit in rows}


def measure(words: list[str], trials: int) -> list[list[object]]:
    common_words = ["--solvers", METHODS, "--seed", "1", "--device", "cpu", "--executor", "inline"]
    common_words += ["--curves", "0"]
    with tempfile.TemporaryDirectory() as folder:
        asked = ["run", *words, *common_words, "--out", f"{folder}/s"]
        asked += ["--trials", str(trials)]
        plan, _ = harness([*asked, "--dry-run"])
        harness(asked)
        found = load_record(Path(folder) / "s").trials
    found["taken"] = found["seconds"] + found["evaluation_seconds"]
    taken = found.groupby("solver")["taken"].sum()
    diverged = (found["state"] == "diverged").groupby(found["solver"]).sum()
    busy = float(re.search(r"([\d.]+) times what", plan)[1])  # type: ignore[index]  # as the plan says
    said = {name: busy * seconds for name, seconds in predicted(plan).items()}
    rows: list[list[object]] = [
        [
            name,
            f"{said[name]:.3g} s",
            f"{taken[name]:.3g} s",
            f"{said[name] / taken[name]:.2f}",
            diverged[name],
        ]
        for name in said
    ]
    total, all_taken = sum(said.values()), taken.sum()
    ratio = f"**{total / all_taken:.2f}**"
    return [*rows, ["all", f"{total:.3g} s", f"{all_taken:.3g} s", ratio, diverged.sum()]]


def main() -> None:
    parser = common.arguments(__doc__ or "")
    parser.add_argument("--trials", type=int, default=4, help="of each solver")
    parser.add_argument("--only", default="", help="studies whose name contains this")
    options = parser.parse_args()
    rows: list[list[object]] = []
    for name, words in STUDIES.items():
        if options.only in name:
            data = ["--data-dir", str(options.data_dir)] if options.data_dir else []
            rows += [[name, *row] for row in measure([*words, *data], options.trials)]
            sys.stderr.write(common.table([], [row for row in rows if row[0] == name]) + "\n")
    heads = ["study", "solver", "plan", "truth", "plan / truth", "diverged"]
    note = (
        "Truth: seconds of search and evaluation of all trials as recorded, executor inline, no curves. A "
        f"diverged trial ends early, which no plan knows. {options.trials} trials of each solver."
    )
    common.report("dry_run", [common.table(heads, rows), note], options.out)


if __name__ == "__main__":
    main()
