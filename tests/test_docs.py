"""The two how-to pages, followed to the letter in an empty folder; pages that are made from the code."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from harness.plugins import PLUGIN_KINDS, Plugins
from recipes.algorithms import main

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


@pytest.mark.parametrize(("name", "file"), [("solver", "my_method.py"), ("problem", "ridge.py")])
@pytest.mark.timeout(300)
def test_a_newcomer_can_follow_the_page(name: str, file: str, tmp_path: Path) -> None:
    page = (DOCS / f"adding-a-{name}.md").read_text("utf-8")
    (code,) = blocks(page, "python")
    (tmp_path / file).write_text(code, encoding="utf-8")
    commands = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    assert [command.split()[1] for command in commands] == ["check", "trial"]
    for command in commands:
        words = shlex.split(command, comments=True)
        done = subprocess.run(
            [Path(sys.executable).with_name(words[0]), *words[1:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def test_the_page_of_algorithms_is_what_the_code_says(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    made = capsys.readouterr().out

    assert made == (DOCS / "algorithms.md").read_text("utf-8")
    assert len(set(re.findall(r"^\| `(\w+)` ", made, re.MULTILINE))) == len(Plugins().names("solver"))
    assert not re.search(r"\|  \|", made), "a solver whose docstring lacks a rule or a cost"


def test_the_readme_names_every_solver_and_problem() -> None:
    readme = (DOCS.parent / "README.md").read_text("utf-8")
    named = set(re.findall(r"`(\w+)`", readme))

    assert {name for kind in PLUGIN_KINDS for name in Plugins().names(kind)} <= named
