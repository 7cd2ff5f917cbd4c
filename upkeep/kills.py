"""Kill a study's driver, workers, Ray and machines at random moments, again and again; compare its record.

    python -m upkeep.kills --rounds 20 --out docs/results/kills.md
    python -m upkeep.kills --rounds 20 --cluster

Each round starts a study in a fresh folder and disturbs it at random moments, in one of several ways at a
time. In one process: SIGKILL or SIGINT (Ctrl-C) to the driver. With a Ray of its own, every other round:
SIGKILL to one of its workers, to Ray's raylet or its gcs_server as well; a driver whose Ray was killed must
end by itself, with exit code 2. On a cluster, pretended on this machine (upkeep/machines.py; Linux): the
driver, its workers, and one of the two nodes switched off, for which another joins.

A study whose driver is gone is started again with the same command. Its record must in the end equal that of
an uninterrupted study, number for number, but for the clock. A pack whose worker was killed runs again in
halves, and a product of matrices may round otherwise in a pack of another size: this much, and no more, is
let through (`ROUNDING`). The folder of a round that differs is kept.
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
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd

from harness.record import JOURNAL, load_record
from upkeep.machines import Machine, begin_network, child, pretend

CLOCK = ["seconds", "evaluation_seconds", "pack"]
ENDS = 60.0
"""Seconds after which a driver whose Ray was killed counts as hung."""
HARNESS = (sys.executable, "-c", "from harness.cli import main; main()")
STUDY = (
    *("run", "quadratic", "--set", "upper_dim=4", "--set", "lower_dim=3", "--solvers", "soba,amigo,ttsa"),
    *("--trials", "32", "--seed", "3", "--pack", "2"),
)
ROUNDING = 1e-12
"""Of a float, relative to the larger of itself and 1."""
AGAIN = 5
MOST = 2.0
"""Seconds after a result at which a study is hit, at most."""
DRIVER = {"driver killed": signal.SIGKILL, "driver interrupted": signal.SIGINT}
WORKER = "ray::PackTrainable"
"""What Ray calls the process of an actor of that class."""


class OneProcess:
    """Where a study runs, and the ways to disturb it there. scratch: where its folders are. study: words of
    the command."""

    name, where = "inline", "in one process"
    words: Sequence[str] = ("--executor", "inline")
    ways: Sequence[str] = tuple(DRIVER)

    def __init__(self, scratch: Path, study: Sequence[str]) -> None:
        self.scratch, self._study = scratch, study

    def start(self, folder: Path) -> subprocess.Popen[bytes]:
        with (folder / "log").open("ab") as file:
            return subprocess.Popen(self._command(folder / "study"), stdout=file, stderr=file)

    def _command(self, out: Path) -> list[str]:
        return [*HARNESS, *self._study, *self.words, "--out", str(out)]

    def driver(self, begun: subprocess.Popen[bytes]) -> int:
        """The process of what `start` began."""
        return begun.pid

    def disturb(self, way: str, begun: subprocess.Popen[bytes], draw: random.Random) -> bool:
        """Whether somebody was hit."""
        os.kill(self.driver(begun), DRIVER[way])
        begun.wait()
        return True


class OwnRay(OneProcess):
    """A Ray that the driver starts, with two workers."""

    name, where = "ray", "by turns on Ray with two workers"
    words = ("--workers", "2")
    servers = {"raylet killed": "raylet", "gcs_server killed": "gcs_server"}
    ways = (*DRIVER, "worker killed", *servers)

    def disturb(self, way: str, begun: subprocess.Popen[bytes], draw: random.Random) -> bool:
        if way in DRIVER:
            return super().disturb(way, begun, draw)
        found = descendants(begun, self.servers.get(way, WORKER))
        if found:
            os.kill(draw.choice(found), signal.SIGKILL)
        if found and way in self.servers and begun.wait(ENDS) not in (0, 2):
            raise SystemExit(f"{way}: the driver ended with exit code {begun.returncode}")
        return bool(found)


class Cluster(OneProcess):
    """A head, where the driver is, and two nodes with a worker each."""

    name, where = "cluster", "on a cluster of two nodes"
    words = ("--address", "auto", "--workers", "2")
    ways = (*DRIVER, "worker killed", "node switched off")

    def __init__(self, scratch: Path, study: Sequence[str]) -> None:
        begin_network()
        self._numbers = count(2)
        self._machines = scratch
        self._head = self._machine()
        super().__init__(self._head.folder, study)
        self._head.ray(0)
        self._nodes = [self._node(), self._node()]

    def _machine(self) -> Machine:
        number = next(self._numbers)
        return Machine(number, self._machines / f"machine-{number}")

    def _node(self) -> Machine:
        machine = self._machine()
        machine.ray(1, self._head.address)
        return machine

    def start(self, folder: Path) -> subprocess.Popen[bytes]:
        seen = Path("/tmp") / folder.relative_to(self.scratch)
        return self._head.run(self._command(seen / "study"), folder / "log")

    def driver(self, begun: subprocess.Popen[bytes]) -> int:
        return child(begun.pid)

    def disturb(self, way: str, begun: subprocess.Popen[bytes], draw: random.Random) -> bool:
        if way in DRIVER:
            return super().disturb(way, begun, draw)
        node = draw.choice(self._nodes)
        if way == "node switched off":
            node.forget()
            self._nodes.remove(node)
            self._nodes.append(self._node())
            return True
        found = node.processes(WORKER)
        if found:
            os.kill(draw.choice(found), signal.SIGKILL)
        return bool(found)


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


def descendants(driver: subprocess.Popen[bytes], name: str = WORKER) -> list[int]:
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


def one_round(site: OneProcess, folder: Path, draw: random.Random) -> tuple[Counter[str], list[int]]:
    """Disturb one study until it is done; what was done to it, and after how many recorded trials."""
    done: Counter[str] = Counter()
    moments = []
    begun = site.start(folder)
    for _ in range(draw.randint(3, 6)):
        way, before = draw.choice(site.ways), told(folder / "study")
        early = draw.random() < 0.2
        while not early and begun.poll() is None and told(folder / "study") == before:
            time.sleep(0.5)  # one in five may hit the start; the others something recorded
        time.sleep(draw.uniform(0, MOST))
        before = told(folder / "study")
        if begun.poll() is None and site.disturb(way, begun, draw):
            done[way] += 1
            moments.append(before)
        if begun.poll() is not None:
            begun = site.start(folder)
    for _ in range(AGAIN):  # Ray does not start at once on a machine that is very busy
        if begun.wait() == 0:
            return done, moments
        begun = site.start(folder)
    raise SystemExit((folder / "log").read_text()[-2000:])


def undisturbed(scratch: Path, study: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    whole = scratch / "whole"
    whole.mkdir()
    if OneProcess(scratch, study).start(whole).wait() != 0:
        raise SystemExit((whole / "log").read_text()[-2000:])
    return numbers(whole / "study")


HEAD = """# Kills

`python -m upkeep.kills {words}`: a study of 3 methods, 32 trials each, {where}.

{equal} of {rounds} disturbed studies ended with the record of the undisturbed one, {trials} trials and
{points} points of curves compared (*equal*: to the last bit; *equal to*: the largest relative difference of
a number). {kills} times something was killed or interrupted: {what}.

| round | executor | what was done | trials recorded at each moment | journal lines | record |
|--:|---|---|---|--:|---|
"""


def play(options: argparse.Namespace, scratch: Path) -> bool:
    """Whether the record of every round is that of the undisturbed study."""
    draw = random.Random(options.seed)
    study = [*STUDY, "--device", options.device, "--budget", str(options.budget)]
    wanted = undisturbed(scratch, study)
    kinds = (Cluster,) if options.cluster else (OneProcess, OwnRay)
    sites = [kind(scratch, study) for kind in kinds]
    total: Counter[str] = Counter()
    rows: list[str] = []
    different = 0
    for place in range(options.rounds):
        site = sites[place % len(sites)]
        folder = site.scratch / f"round-{place}"
        folder.mkdir()
        done, moments = one_round(site, folder, draw)
        same, word = verdict(numbers(folder / "study"), wanted)
        if not same:
            sys.stderr.write(f"kept: {shutil.copytree(folder, tempfile.mkdtemp() + '/round')}\n")
        different += not same
        total += done
        lines = (folder / "study" / JOURNAL).read_bytes().count(b"\n")
        rows.append(f"| {place + 1} | {site.name} | {_said(done)} | {moments} | {lines} | {word} |")
        sys.stderr.write(rows[-1] + "\n")
        if options.out:
            head = HEAD.format(
                words=f"--rounds {options.rounds} --seed {options.seed} --device {options.device} "
                + f"--budget {options.budget}"
                + " --cluster" * options.cluster,
                where=" and ".join(site.where for site in sites),
                equal=len(rows) - different,
                rounds=len(rows),
                trials=len(wanted[0]),
                points=len(wanted[1]),
                kills=sum(total.values()),
                what=_said(total),
            )
            options.out.write_text(head + "\n".join(rows) + "\n", encoding="utf-8")
    return different == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and ways")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; workers share one GPU")
    parser.add_argument("--budget", type=int, default=4000, help="samples of a trial")
    parser.add_argument("--cluster", action="store_true", help="on pretended machines, switched off as well")
    parser.add_argument("--out", type=Path, help="written anew after every round")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cluster and not options.inside:
        pretend("upkeep.kills", sys.argv[1:])
    # a shell's background job ignores Ctrl-C, and so would what it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as scratch:
        raise SystemExit(not play(options, Path(scratch)))


def _said(done: Counter[str]) -> str:
    return ", ".join(f"{number} × {way}" for way, number in sorted(done.items()))


if __name__ == "__main__":
    main()
