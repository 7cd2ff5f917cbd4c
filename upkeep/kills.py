"""Kill a study's driver, workers and Ray at random moments, again and again, and compare its record.

    python -m upkeep.kills --rounds 20 --out docs/results/kills.md

Each round starts a study in a fresh folder and disturbs it at random moments, in one of five ways at a time:
SIGKILL to the driver, to one of its workers, to Ray's raylet or its gcs_server; SIGINT (Ctrl-C) to the
driver. A driver whose Ray was killed must end by itself, with exit code 2. A study whose driver is gone is
started again with the same command. Its record must in the end equal that of an uninterrupted study, number
for number, but for the clock. A pack whose worker was killed runs again in halves, and a product of matrices
may round otherwise in a pack of another size: this much, and no more, is let through (`ROUNDING`). One round
in two runs in one process, without Ray: there only the driver can be hit. The folder of a round that differs
is kept.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from harness.record import JOURNAL, load_record

CLOCK = ["seconds", "evaluation_seconds", "pack"]
SERVERS = {"raylet killed": "raylet", "gcs_server killed": "gcs_server"}
WAYS = ("driver killed", "worker killed", "driver interrupted", *SERVERS)
ENDS = 60.0
"""Seconds after which a driver whose Ray was killed counts as hung."""
STUDY = (
    *("run", "quadratic", "--set", "upper_dim=4", "--set", "lower_dim=3", "--solvers", "soba,amigo,ttsa"),
    *("--trials", "32", "--budget", "10000", "--seed", "3", "--pack", "2"),
)
EXECUTORS = {"inline": ("--executor", "inline"), "ray": ("--workers", "2")}
ROUNDING = 1e-12
"""Of a float, relative to the larger of itself and 1."""
AGAIN = 5
MOST = 2.0
"""Seconds after a result at which a study is hit, at most."""


def start(folder: Path, executor: str, device: str) -> subprocess.Popen[bytes]:
    words = [*STUDY, *EXECUTORS[executor], "--device", device, "--out", str(folder / "study")]
    command = [sys.executable, "-c", "from harness.cli import main; main()", *words]
    with (folder / "log").open("ab") as file:
        # a shell's background job ignores SIGINT, and so would what it starts
        heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        return subprocess.Popen(command, stdout=file, stderr=file, preexec_fn=heeds)


def numbers(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Trials and curves of a record without what depends on the clock and on the pack."""
    record = load_record(folder)
    trials = record.trials.drop(columns=CLOCK).sort_values("trial", ignore_index=True)
    curves = record.curves.drop(columns="seconds").sort_values(
        ["trial", "upper_iteration"], ignore_index=True
    )
    return trials, curves


def difference(found: pd.DataFrame, wanted: pd.DataFrame) -> float:
    """The largest relative difference of two floats; infinite where anything else differs."""
    if list(found) != list(wanted) or len(found) != len(wanted):
        return np.inf
    floats = [name for name in wanted if wanted[name].dtype.kind == "f" and found[name].dtype.kind == "f"]
    if not found.drop(columns=floats).equals(wanted.drop(columns=floats)):
        return np.inf
    a, b = found[floats].to_numpy(), wanted[floats].to_numpy()
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        gaps = np.abs(a - b) / np.maximum(1.0, np.abs(b))
    return float(np.nan_to_num(np.where(same, 0.0, gaps), nan=np.inf).max(initial=0.0))


def verdict(found: tuple[pd.DataFrame, ...], wanted: tuple[pd.DataFrame, ...]) -> tuple[bool, str]:
    largest = max(difference(*pair) for pair in zip(found, wanted, strict=True))
    if largest > ROUNDING:
        return False, "DIFFERS"
    return True, "equal" if largest == 0 else f"equal to {largest:.0e}"


def told(folder: Path) -> int:
    try:
        return len(load_record(folder).trials)
    except Exception:  # noqa: BLE001 - the driver may be writing, or have written nothing yet
        return 0


def workers(driver: subprocess.Popen[bytes]) -> list[int]:
    """The actors of this driver, which Ray has named after the class."""
    return descendants(driver, "ray::PackTrainable")


def descendants(driver: subprocess.Popen[bytes], name: str) -> list[int]:
    """Those whose program is called so."""
    listing = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(maxsplit=2) for line in listing.stdout.splitlines()]
    parents = {int(pid): int(parent) for pid, parent, *_ in rows}

    def descends(pid: int) -> bool:
        return pid == driver.pid or (pid in parents and descends(parents[pid]))

    return [
        int(pid)
        for pid, _, args in rows
        if Path(args.split()[0]).name.startswith(name) and descends(int(pid))
    ]


def disturb(way: str, driver: subprocess.Popen[bytes], draw: random.Random) -> bool:
    """Whether somebody was hit."""
    if driver.poll() is not None:
        return False
    if way == "worker killed" or way in SERVERS:
        found = descendants(driver, SERVERS[way]) if way in SERVERS else workers(driver)
        if found:
            os.kill(draw.choice(found), signal.SIGKILL)
        if found and way in SERVERS and driver.wait(ENDS) not in (0, 2):
            raise SystemExit(f"{way}: the driver ended with exit code {driver.returncode}")
        return bool(found)
    driver.send_signal(signal.SIGKILL if way == "driver killed" else signal.SIGINT)
    driver.wait()
    return True


def one_round(
    folder: Path, executor: str, device: str, draw: random.Random
) -> tuple[Counter[str], list[int]]:
    """Disturb one study until it is done; what was done to it, and after how many recorded trials."""
    done: Counter[str] = Counter()
    moments = []
    ways = WAYS if executor == "ray" else [way for way in WAYS if way.startswith("driver")]
    driver = start(folder, executor, device)
    for _ in range(draw.randint(6, 9)):
        way, before = draw.choice(ways), told(folder / "study")
        early = draw.random() < 0.2
        while not early and driver.poll() is None and told(folder / "study") == before:
            time.sleep(0.2)  # one in five may hit the start; the others something recorded
        time.sleep(draw.uniform(0, MOST))
        before = told(folder / "study")
        if disturb(way, driver, draw):
            done[way] += 1
            moments.append(before)
        if driver.poll() is not None:
            driver = start(folder, executor, device)
    for _ in range(AGAIN):  # Ray does not start at once on a machine that is very busy
        if driver.wait() == 0:
            return done, moments
        driver = start(folder, executor, device)
    raise SystemExit((folder / "log").read_text()[-2000:])


HEAD = """# Kills

`python -m upkeep.kills --rounds {asked} --seed {seed} --device {device}`: a study of 3 methods, 32 trials
each, on Ray with 2 workers and in one process by turns.

{equal} of {rounds} disturbed studies ended with the record of the undisturbed one, {trials} trials and
{points} points of curves compared (*equal*: to the last bit; *equal to*: the largest relative difference of
a number). {kills} times something was killed or interrupted: {what}.

| round | executor | what was done | trials recorded at each moment | journal lines | record |
|--:|---|---|---|--:|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and ways")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; workers share one GPU")
    parser.add_argument("--out", type=Path, help="written anew after every round")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    total: Counter[str] = Counter()
    rows, equal = [], 0
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        whole.mkdir()
        if start(whole, "inline", options.device).wait() != 0:
            raise SystemExit((whole / "log").read_text()[-2000:])
        wanted = numbers(whole / "study")
        for place in range(options.rounds):
            folder = Path(scratch) / str(place)
            folder.mkdir()
            executor = list(EXECUTORS)[place % len(EXECUTORS)]
            done, moments = one_round(folder, executor, options.device, draw)
            same, word = verdict(numbers(folder / "study"), wanted)
            if not same:
                sys.stderr.write(f"kept: {shutil.copytree(folder, tempfile.mkdtemp() + '/round')}\n")
            equal += same
            total += done
            lines = (folder / "study" / JOURNAL).read_bytes().count(b"\n")
            rows.append(f"| {place + 1} | {executor} | {_said(done)} | {moments} | {lines} | {word} |")
            sys.stderr.write(rows[-1] + "\n")
            head = HEAD.format(
                asked=options.rounds,
                seed=options.seed,
                device=options.device,
                equal=equal,
                rounds=len(rows),
                trials=len(wanted[0]),
                points=len(wanted[1]),
                kills=sum(total.values()),
                what=_said(total),
            )
            if options.out:
                options.out.write_text(head + "\n".join(rows) + "\n", encoding="utf-8")
    raise SystemExit(equal != options.rounds)


def _said(done: Counter[str]) -> str:
    return ", ".join(f"{number} × {way}" for way, number in sorted(done.items()))


if __name__ == "__main__":
    main()
