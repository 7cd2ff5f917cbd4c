"""The two how-to pages, followed to the letter in an empty folder."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

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
