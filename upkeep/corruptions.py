"""Damage the record of a study in many ways, and see that it is never read as another.

    python -m upkeep.corruptions --rounds 400 --out docs/results/robustness.md

Each round copies the folder of a finished study, damages its journal, its points or its study.json
in one way at a random place, and reads it. The outcome is one of:

    refused     an error of one line; then `harness repair`, and what is read afterwards counts as well
    equal       the record as it was
    shorter     trials are missing at the end, as after a crash: the run command makes them again
    another     anything else was read: must never happen
    traceback   must never happen

With --finish N every N-th round also runs the study's command after the repair; the record must be equal.
"""

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from harness.errors import HarnessError
from harness.points import POINTS
from harness.record import JOURNAL, Record, load_record
from harness.repair import repair
from harness.spec import NAME

CLOCK = ["seconds", "evaluation_seconds", "pack"]
STUDY = (
    *("run", "quadratic", "--set", "upper_dim=4", "--set", "lower_dim=3", "--solvers", "soba,amigo,ttsa"),
    *("--trials", "4", "--budget", "300", "--executor", "inline", "--device", "cpu", "--pack", "2"),
)


def run(folder: Path) -> None:
    """Run or resume the study, in this process."""
    from harness.cli import app

    app([*STUDY, "--out", str(folder)], standalone_mode=False)


# --- ways to damage a file


def flip_bytes(content: bytes, draw: random.Random) -> bytes:
    """One to three bytes become others."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        changed[draw.randrange(len(changed))] ^= draw.randint(1, 255)
    return bytes(changed)


def change_digit(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    place = draw.choice([n for n, byte in enumerate(content) if chr(byte).isdigit()])
    changed[place] = draw.choice([digit for digit in b"0123456789" if digit != content[place]])
    return bytes(changed)


def _by_line(change: Callable[[list[bytes], random.Random], None]) -> Callable[[bytes, random.Random], bytes]:
    def changed(content: bytes, draw: random.Random) -> bytes:
        lines = content.splitlines(keepends=True)
        change(lines, draw)
        return b"".join(lines)

    changed.__name__ = change.__name__
    return changed


@_by_line
def delete_lines(lines: list[bytes], draw: random.Random) -> None:
    first = draw.randrange(len(lines))
    del lines[first : first + draw.choice((1, 1, 1, 2, 5))]


@_by_line
def double_line(lines: list[bytes], draw: random.Random) -> None:
    lines.insert(draw.randrange(len(lines)), draw.choice(lines))


@_by_line
def swap_lines(lines: list[bytes], draw: random.Random) -> None:
    one, two = draw.sample(range(len(lines)), 2)
    lines[one], lines[two] = lines[two], lines[one]


@_by_line
def cut_line(lines: list[bytes], draw: random.Random) -> None:
    place = draw.randrange(len(lines))
    lines[place] = lines[place][: draw.randrange(len(lines[place]))]


def cut_file(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def empty_block(content: bytes, draw: random.Random) -> bytes:
    """A block of zeros, as some file systems leave after a power failure."""
    place = draw.randrange(len(content))
    length = min(draw.choice((16, 512, 4096)), len(content) - place)
    return content[:place] + bytes(length) + content[place + length :]


WAYS = (flip_bytes, change_digit, delete_lines, double_line, swap_lines, cut_line, cut_file, empty_block)


# --- what is read


def read(folder: Path, whole: Record) -> str:
    try:
        found = load_record(folder)
    except HarnessError:
        return "refused"
    except Exception as error:  # noqa: BLE001 - what this recipe counts
        sys.stderr.write(f"{folder}: {type(error).__name__}: {error}\n")
        return "traceback"
    if found.spec != whole.spec:
        return "another"
    if found.trials.empty:
        return "shorter"
    trials, curves = (frame.set_index("trial") for frame in (found.trials, found.curves))
    wanted = whole.trials.set_index("trial").loc[trials.index, trials.columns]
    points = whole.curves.set_index("trial").loc[curves.index.unique(), curves.columns]
    # without the trials that lack a parameter its integers are no floats any more
    trials = trials.astype(wanted.dtypes, errors="ignore")
    same = trials.drop(columns=CLOCK).equals(wanted.drop(columns=CLOCK))
    if not (same and curves.drop(columns="seconds").equals(points.drop(columns="seconds"))):
        return "another"
    return "equal" if len(trials) == len(whole.trials) else "shorter"


def one_round(folder: Path, whole: Record, draw: random.Random, finish: bool) -> tuple[str, str, str]:
    """Damage a copy of a study; the way, what was read, and what was read after a repair (and the run command
    again, where it is asked for)."""
    way, name = draw.choice(WAYS), draw.choice((JOURNAL, JOURNAL, POINTS, NAME))
    file = folder / name
    file.write_bytes(way(file.read_bytes(), draw))
    first = read(folder, whole)
    if first != "refused":
        return f"{name}: {way.__name__}", first, ""
    try:
        repair(folder)
    except HarnessError:
        return f"{name}: {way.__name__}", first, "not repaired"
    after = read(folder, whole)
    if finish:
        run(folder)
        after = f"{after}, finished {read(folder, whole)}"
    return f"{name}: {way.__name__}", first, after


def rounds(
    number: int, seed: int, finish: int, scratch: Path
) -> tuple[Counter[tuple[str, str]], Counter[str]]:
    """Outcomes by way, and outcomes after a repair."""
    run(scratch / "whole")
    whole = load_record(scratch / "whole")
    draw = random.Random(seed)
    outcomes: Counter[tuple[str, str]] = Counter()
    repaired: Counter[str] = Counter()
    for place in range(number):
        folder = scratch / "damaged"
        shutil.copytree(scratch / "whole", folder)
        way, first, after = one_round(folder, whole, draw, bool(finish) and place % finish == 0)
        outcomes[way, first] += 1
        if after:
            repaired[after] += 1
        shutil.rmtree(folder)
    return outcomes, repaired


HEAD = """# Robustness of the record

`{command}`: a finished study of 3 methods, 4 trials each, damaged in one way at a time and read again.
*Refused* is an error of one line; *shorter* a study whose last trials are missing, as after a crash: the run
command makes them again. *Another* record and a *traceback* must never be. *Finished*: after the run command.

"""
OUTCOMES = ("refused", "equal", "shorter", "another", "traceback")


def table(outcomes: Counter[tuple[str, str]], repaired: Counter[str]) -> str:
    ways = sorted({way for way, _ in outcomes})
    lines = [f"| what was done | {' | '.join(OUTCOMES)} |", "|---|" + "--:|" * len(OUTCOMES)]
    for way in ways:
        lines.append(f"| {way.replace('_', ' ')} | {' | '.join(str(outcomes[way, o]) for o in OUTCOMES)} |")
    total = [sum(outcomes[way, outcome] for way in ways) for outcome in OUTCOMES]
    lines.append(f"| all | {' | '.join(map(str, total))} |")
    after = ", ".join(f"{number} {what}" for what, number in sorted(repaired.items()))
    return "\n".join([*lines, "", f"After `harness repair` of those refused: {after}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--finish", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        outcomes, repaired = rounds(options.rounds, options.seed, options.finish, Path(scratch))
    command = f"python -m upkeep.corruptions --rounds {options.rounds} --seed {options.seed}"
    text = HEAD.format(command=command) + table(outcomes, repaired) + "\n"
    sys.stdout.write(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    bad = sum(n for (_, outcome), n in outcomes.items() if outcome in ("another", "traceback"))
    raise SystemExit(bool(bad or any("another" in what or "traceback" in what for what in repaired)))


if __name__ == "__main__":
    main()
