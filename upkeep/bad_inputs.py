"""What the command line makes of bad input: one line, exit code 2, nothing written, no traceback, no hang.

python -m upkeep.bad_inputs [WORD] > the table of docs/results/robustness.md; WORD: these commands only
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import harness.cli
import harness.commands
import harness.launch
import reports.report  # noqa: F401 - once, for all children
from upkeep.algorithms import markdown

LIMIT = 60.0
"""Seconds that an answer may take."""
LONG, DIGITS = "a" * 20_000, "9" * 5_000
NOT_A_NUMBER = (
    *(
        "",
        " ",
        "abc",
        "nan",
        "-1",
        "-inf",
        "0x10",
        "1,5",
        "²",
        "1 2",
        "--",
        "%s",
        "[/red]",
        "[bold]",
        "\x1b[31m",
    ),
    *("\u202e", "\udcff", "🦄", "null", "1e", "1e400", "-" + DIGITS, LONG, "1;2", "$(date)", "½", "+-1"),
)
NOT_WHOLE = (*NOT_A_NUMBER, "1.5", "1e3", "inf", DIGITS)
NOT_A_NAME = (
    *(
        "abc",
        "-1",
        "²",
        "%s",
        "[/red]",
        "[red]",
        "\x1b[2J",
        "\u202e",
        "\udcff",
        "🦄",
        "null",
        "../..",
        "a b",
        LONG,
    ),
    *("$(date)", "a\nb", "a\tb", "\x7f", "__class__", "Quadratic", "quadratic/"),
)
NUMBERS = {"--budget": ("0", "1e308", "inf", DIGITS), "--trial-timeout": ("inf", DIGITS)}
WHOLE = {
    "--trials": ("0", "1e9", "1" + "0" * 30),
    "--seed": (str(2**32), "1" + "0" * 30),
    "--data-seed": (str(2**32), "1" + "0" * 30),
    "--search-seed": (str(2**32), "1" + "0" * 30),
    "--workers": ("0", "1" + "0" * 30),
    "--curves": (str(10**9), "1" + "0" * 30),
    "--pack": ("0", "1" + "0" * 30),
}
WORDS = {
    "--solvers": (",", "bsgm,bsgm", "bsgm;amigo", "bsgm,nope"),
    "--sampler": ("", "Random"),
    "--device": ("", "cuda:99", "gpu"),
    "--executor": ("", "Ray"),
    "--divergence": ("", "x1"),
    "--system-failure": ("", "stop"),
    "--retry": ("all", "Failed"),
    "--shard": ("", "1", "0/1", "2/1", "1/0", "1/2/3", "²/3", "-1/2", "1/" + DIGITS),
    "--set": ("dimension", "=1", "dim=1", "dataset", "lower_dim=" + DIGITS),
    "--price": (
        "hessian_vector",
        "hessian_vector=",
        "=1",
        "cross=-1",
        "cross=0",
        "cross=nan",
        "cross=inf",
        "cross=²",
    ),
    "--evaluate-at": ("0", "1.1", "-0.1", "nan", ",", "0.1;0.2", "²", DIGITS),
}
TOML = {
    "no TOML": "[bsgm",
    "binary": "\x00\x01",
    "deep": "a = " + "[" * 3_000 + "]" * 3_000,
    "deep tables": "[" + ".".join("a" * 3_000) + "]\nb = 1",
    "a number at the top": "bsgm = 1",
    "a list at the top": "bsgm = [1]",
    "a mistyped solver": "[bsgn]\nlower_steps = 1",
    "a mistyped parameter": "[bsgm]\nlower_stepz = 1",
    "a long name": f"[{LONG}]\na = 1",
    "markup": '["[/red]"]\na = 1',
    "control characters": '["\\u001b[31m"]\na = 1',
    "a number of 5000 digits": f"[bsgm]\nlower_steps = {DIGITS}",
    "a word for a count": '[bsgm]\nlower_steps = "many"',
    "a date": "[bsgm]\nlower_steps = 1979-05-27",
    "no end": "[bsgm]\nlower_steps = { low = 1 }",
    "upside down": "[bsgm]\nlower_steps = { low = 10, high = 1 }",
    "infinite": "[bsgm]\nlower_step_size = { low = 1e-3, high = inf, log = true }",
    "not a number": "[bsgm]\nlower_step_size = { low = nan, high = 1.0 }",
    "log of 0": "[bsgm]\nlower_step_size = { low = 0.0, high = 1.0, log = true }",
    "no choice": "[bsgm]\nlower_steps = { choices = [] }",
    "huge choices": "[bsgm]\nlower_steps = { choices = [" + "1," * 200_000 + "1e999] }",
    "tied to itself": '[bsgm]\nlower_steps = { tie = "lower_steps" }',
    "tied to nothing": '[bsgm]\nlower_steps = { tie = "nothing" }',
    "tied in a ring": '[bsgm]\nlower_steps = "= system_steps"\nsystem_steps = "= lower_steps"',
    "an unknown key": "[bsgm]\nlower_steps = { low = 1, high = 2, step = 1, colour = 2 }",
    "twice": "[bsgm]\nlower_steps = 1\nlower_steps = 2",
    "a list of tables": "[[bsgm]]\nlower_steps = 1",
}
CONFIGS = {
    "a mistyped option": "budgit = 1",
    "a word for a number": 'problem = "quadratic"\nbudget = "many"',
    "a list for a number": "budget = [1]",
    "a table for a number": "[budget]\na = 1",
    "a number of 5000 digits": f"trials = {DIGITS}",
    "not a number": "budget = nan",
    "a seed beyond": f"seed = {2**64}",
    "no TOML": "= 1",
    "binary": "\x00",
    "deep": "a = " + "[" * 3_000 + "]" * 3_000,
    "a date": "budget = 1979-05-27",
}


def cases(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """What is wrong, in two words, and the words of the command."""
    run = ["run", "quadratic", "--solvers", "bsgm", "--trials", "2", "--budget", "4000", "--dry-run"]
    run += ["--executor", "inline", "--out", str(folder / "new")]
    yield from _options(run)
    yield from _files(run, folder)
    yield from _names()
    yield from _places(run, folder)


def _options(run: list[str]) -> Iterator[tuple[str, list[str]]]:
    for common, options in ((NOT_A_NUMBER, NUMBERS), (NOT_WHOLE, WHOLE), (NOT_A_NAME, WORDS)):
        for option, more in options.items():
            yield from ((f"run {option}", [*run, f"{option}={value}"]) for value in (*common, *more))


def _files(run: list[str], folder: Path) -> Iterator[tuple[str, list[str]]]:
    bare = [word for word in run if word not in ("--trials", "2", "--budget", "4000")]  # these beat a file's
    for option, contents, words in (("--space", TOML, run), ("--config", CONFIGS, bare)):
        for name, text in contents.items():
            path = folder / f"{option}-{name.replace(' ', '_')}.toml"
            path.write_text(text, "utf-8")
            yield f"run {option}", [*words, f"{option}={path}"]


def _names() -> Iterator[tuple[str, list[str]]]:
    for name in NOT_A_NAME:
        yield from ((command, [command, name]) for command in ("run", "show", "check", "space"))
        yield "trial", ["trial", "quadratic", name, "--budget=100"]
        yield "trial values", ["trial", "quadratic", "bsgm", f"{name}=1", "--budget=100"]
        yield "reproduce", ["reproduce", name]
    for value in NOT_A_NUMBER:
        yield "trial values", ["trial", "quadratic", "bsgm", f"lower_step_size={value}", "--budget=100"]


def _places(run: list[str], folder: Path) -> Iterator[tuple[str, list[str]]]:
    for place in _no_studies(folder):
        yield from ((f"run {o}", [*run, f"{o}={place}"]) for o in ("--space", "--config"))
        yield (
            "run --plugin",
            [*run, "--solvers=mine", f"--plugin={place}"],
        )  # alone it breaks what needs it only
        commands = ("status", "report", "repair", "confirm", "compare")
        yield from ((command, [command, place]) for command in commands)
        yield "export", ["export", place, "--out", str(folder / "x.parquet")]
        yield "dashboard", ["dashboard", place, "--out", str(folder / "x.log")]
        yield "merge", ["merge", str(folder / "merged"), place]
        yield "replay", ["replay", place, "bsgm/0"]
    study = str(Path(__file__).parents[1] / "docs" / "results" / "table3")
    for name in NOT_A_NAME:
        yield "replay", ["replay", study, name]
        told = [f"--solvers={name}", f"--params={name}", f"--width={name}", f"--rename={name}=x"]
        yield from (("report", ["report", study, word, "--out", str(folder / "report")]) for word in told)


def _no_studies(folder: Path) -> list[str]:
    """Places that are no study, no table and no program."""
    (folder / "empty").mkdir()
    (folder / "file").write_text("no study", "utf-8")
    (folder / "bytes").write_bytes(bytes(range(256)))
    for name, text in {"broken": "{", "list": "[]", "other": '{"problem": 1}', "deep": "[" * 100_000}.items():
        (folder / name).mkdir()
        (folder / name / "study.json").write_text(text, "utf-8")
    names = (
        "empty",
        "file",
        "bytes",
        "broken",
        "list",
        "other",
        "deep",
        "missing",
        "miss\ning",
        "\x1b[31m",
        "[/red]",
    )
    return [*(str(folder / name) for name in names), "/proc/self/mem", "\udcff"]


def answer(words: Sequence[str], folder: Path) -> str:
    """ "" where the command answers as it should, else what it did instead. In a process of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reader)
            os.setsid()
            os.write(writer, _said(words, folder).encode("utf-8", "backslashreplace")[:4_000] or b".")
        finally:
            os._exit(0)
    os.close(writer)
    try:
        if not select.select([reader], [], [], LIMIT)[0]:
            return f"no answer within {LIMIT:g} s"
        told = os.read(reader, 5_000).decode()
        return "the process ended" if not told else "" if told == "." else told
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)


def _said(words: Sequence[str], folder: Path) -> str:
    out, complaint = (io.TextIOWrapper(io.BytesIO(), "ascii", "backslashreplace") for _ in range(2))
    sys.argv, sys.stdout, sys.stderr = ["harness", *words], out, complaint
    os.chdir(folder)
    before = sorted(folder.iterdir())
    try:
        harness.cli.main()
        code: object = 0
    except SystemExit as end:
        code = end.code
    except BaseException as error:  # noqa: BLE001 - that is what is looked for
        return f"a traceback: {type(error).__name__}: {str(error)[:200]}"
    complaint.flush()
    text = complaint.buffer.getvalue().decode()
    lines = text.splitlines()
    if code != 2:
        return f"exit code {code}: {text[-200:]!r}"
    if not lines or not lines[-1].startswith("error: ") or "Traceback" in text:
        return f"no line of an error: {text[-200:]!r}"
    if len(lines[-1]) > 1_500 or not lines[-1].isprintable():
        return f"a line of {len(lines[-1])} characters: {lines[-1][:100]!r}"
    return "" if sorted(folder.iterdir()) == before else "something was written"


def main() -> None:
    chosen = sys.argv[1] if len(sys.argv) > 1 else ""
    rows: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for what, words in cases(Path(scratch).resolve()):
            if not what.startswith(chosen):
                continue
            begun, said = time.monotonic(), answer(words, Path(scratch))
            row = rows.setdefault(what, [0, 0])
            row[0] += 1
            row[1] += not said
            if said:
                shown = " ".join(word if len(word) < 60 else f"{word[:40]}…({len(word)})" for word in words)
                sys.stderr.write(f"{shown!r}: {said} ({time.monotonic() - begun:.0f} s)\n")
    table = [[what, str(tried), str(right)] for what, (tried, right) in rows.items()]
    total = [sum(row[i] for row in rows.values()) for i in (0, 1)]
    sys.stdout.write(
        markdown(["input", "tried", "one line, exit 2"], [*table, ["all", *map(str, total)]]) + "\n"
    )


if __name__ == "__main__":
    main()
