"""Kill a study's driver and workers at random moments, again and again, and compare its record.

    python -m recipes.kills --rounds 20 --out docs/results/kills.md

Each round starts a study on Ray in a fresh folder and disturbs it at random moments, in one of three ways
at a time: SIGKILL to the driver, SIGKILL to one of its workers, SIGINT (Ctrl-C) to the driver. A study
whose driver is gone is started again with the same command. Its record must in the end equal that of an
uninterrupted study, number for number, but for the clock.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pandas as pd

from harness.record import JOURNAL, load_record

CLOCK = ["seconds", "evaluation_seconds", "pack"]
WAYS = ("driver killed", "worker killed", "driver interrupted")
STUDY = (
    *("run", "data_poisoning", "--set", "dataset=digits", "--solvers", "bsgm,amigo,alset", "--trials", "16"),
    *("--budget", "2000000", "--seed", "3", "--pack", "4", "--workers", "2", "--device", "cpu"),
)


def start(out: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from harness.cli import main; main()", *STUDY, "--out", str(out)]
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file)


def numbers(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Trials and curves of a record without what depends on the clock and on the pack."""
    record = load_record(folder)
    trials = record.trials.drop(columns=CLOCK).sort_values("trial", ignore_index=True)
    curves = record.curves.drop(columns="seconds").sort_values(
        ["trial", "upper_iteration"], ignore_index=True
    )
    return trials, curves


def told(folder: Path) -> int:
    try:
        return len(load_record(folder).trials)
    except Exception:  # noqa: BLE001 - the driver may be writing, or have written nothing yet
        return 0


def workers(driver: subprocess.Popen[bytes]) -> list[int]:
    """The actors of this driver: descendants that Ray has named after the Tune trial."""
    listing = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(maxsplit=2) for line in listing.stdout.splitlines()]
    parents = {int(pid): int(parent) for pid, parent, *_ in rows}

    def descends(pid: int) -> bool:
        return pid == driver.pid or (pid in parents and descends(parents[pid]))

    return [int(pid) for pid, _, *args in rows if args and "Trainable" in args[0] and descends(int(pid))]


def disturb(way: str, driver: subprocess.Popen[bytes], draw: random.Random) -> bool:
    """Whether somebody was hit."""
    if driver.poll() is not None:
        return False
    if way == "worker killed":
        found = workers(driver)
        if found:
            os.kill(draw.choice(found), signal.SIGKILL)
        return bool(found)
    driver.send_signal(signal.SIGKILL if way == "driver killed" else signal.SIGINT)
    driver.wait()
    return True


def one_round(folder: Path, length: float, draw: random.Random) -> tuple[Counter[str], list[int]]:
    """Disturb one study until it is done; what was done to it, and after how many recorded trials."""
    done: Counter[str] = Counter()
    moments = []
    driver = start(folder / "study", folder / "log")
    for _ in range(draw.randint(3, 5)):
        way, before = draw.choice(WAYS), told(folder / "study")
        early = draw.random() < 0.2
        while not early and driver.poll() is None and told(folder / "study") == before:
            time.sleep(0.2)  # one in five may hit the start; the others something recorded
        time.sleep(draw.uniform(0, 0.2) * length)
        before = told(folder / "study")
        if disturb(way, driver, draw):
            done[way] += 1
            moments.append(before)
        if driver.poll() is not None:
            driver = start(folder / "study", folder / "log")
    if driver.wait() != 0:
        raise SystemExit((folder / "log").read_text()[-2000:])
    return done, moments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and ways")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    total: Counter[str] = Counter()
    rows, equal = [], 0
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        whole.mkdir()
        begun = time.monotonic()
        if start(whole / "study", whole / "log").wait() != 0:
            raise SystemExit((whole / "log").read_text()[-2000:])
        length = time.monotonic() - begun
        wanted = numbers(whole / "study")
        for place in range(options.rounds):
            folder = Path(scratch) / str(place)
            folder.mkdir()
            done, moments = one_round(folder, length, draw)
            found = numbers(folder / "study")
            same = all(a.equals(b) for a, b in zip(found, wanted, strict=True))
            equal += same
            total += done
            what = ", ".join(f"{number} × {way}" for way, number in sorted(done.items()))
            lines = (folder / "study" / JOURNAL).read_bytes().count(b"\n")
            rows.append(f"| {place + 1} | {what} | {moments} | {lines} | {'equal' if same else 'DIFFERS'} |")
            sys.stderr.write(rows[-1] + "\n")
    text = "\n".join(
        [
            "# Kills",
            "",
            f"`python -m recipes.kills --rounds {options.rounds} --seed {options.seed}`: a study of 3 "
            f"methods, 16 trials each, on Ray with 2 workers ({length:.0f} s when undisturbed).",
            "",
            f"{equal} of {options.rounds} disturbed studies ended with the record of the undisturbed one, "
            f"{len(wanted[0])} trials and {len(wanted[1])} points of curves compared exactly. In all: "
            + ", ".join(f"{number} × {way}" for way, number in sorted(total.items()))
            + ".",
            "",
            "| round | what was done | trials recorded at each moment | journal lines | record |",
            "|--:|---|---|--:|---|",
            *rows,
        ]
    )
    sys.stdout.write(text + "\n")
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    raise SystemExit(equal != options.rounds)


if __name__ == "__main__":
    main()
