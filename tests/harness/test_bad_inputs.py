"""Some of upkeep/bad_inputs.py, and what its children cannot tell: the rest runs there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from harness.errors import LONGEST, one_line
from harness.progress import tally_table
from harness.spec import read_spec
from upkeep.bad_inputs import answer, cases

TABLE3 = Path(__file__).parents[2] / "docs" / "results" / "table3"


def test_an_error_is_one_line_that_no_terminal_obeys() -> None:
    assert one_line("a\nb \x1b[31m\u202e") == "a b �[31m�"
    assert len(one_line("x" * 50_000)) < LONGEST + 10


@pytest.mark.parametrize(
    "option",
    [
        *("--budget=1e308", "--curves=1000000000", "--pack=²", "--pack=" + "9" * 5_000, "--seed=4294967296"),
        *("--trials=1" + "0" * 30, "--workers=1" + "0" * 30, "--data-seed=-1", "--shard=²/3"),
    ],
)
def test_numbers_beyond_bounds_are_refused_at_once(option: str, tmp_path: Path) -> None:
    words = ["run", "quadratic", "--solvers", "bsgm", "--dry-run", "--executor", "inline", option]
    assert answer([*words, "--out", str(tmp_path / "new")], tmp_path) == ""


@pytest.mark.parametrize("kind", ["run --space", "run --config"])
def test_tables_that_are_none_are_refused(kind: str, tmp_path: Path) -> None:
    chosen = [words for what, words in cases(tmp_path) if what == kind][::4]
    assert len(chosen) > 5
    assert [(words[-1][-60:], said) for words in chosen if (said := answer(words, tmp_path))] == []


def test_what_is_wrong_is_seen(tmp_path: Path) -> None:
    assert answer(["list"], tmp_path).startswith("exit code None")


def test_markup_in_a_label_is_shown_as_it_is() -> None:
    spec = read_spec(TABLE3)
    metrics = {name: told | {"label": "[/red]", "short": "[/red]"} for name, told in spec.metrics.items()}
    odd = spec.model_copy(update={"metrics": metrics})
    console = Console(record=True, width=200)
    console.print(tally_table(odd, {}))
    assert "[/red]" in console.export_text()


def test_a_terminal_that_lacks_letters_gets_others(tmp_path: Path) -> None:
    """Its name has letters that such a terminal cannot show, in a table and in an error."""
    program = Path(sys.executable).with_name("harness")
    env = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    told = [
        subprocess.run([program, *words], capture_output=True, cwd=tmp_path, env=env, check=False)
        for words in (["show", "bsgm"], ["show", "†é"])
    ]
    assert [done.returncode for done in told] == [0, 2]
    assert all((done.stdout + done.stderr).isascii() and b"Traceback" not in done.stderr for done in told)
