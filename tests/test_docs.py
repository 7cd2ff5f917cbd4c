"""The two how-to pages, followed to the letter in an empty folder; pages that are made from the code."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import main
from harness.plugins import PLUGIN_KINDS, Plugins
from upkeep import algorithms, command_line, data_dictionary

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *DOCS.parent.glob("*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


@pytest.mark.parametrize(("name", "file"), [("solver", "my_method.py"), ("problem", "ridge.py")])
@pytest.mark.timeout(300)
def test_a_newcomer_can_follow_the_page(name: str, file: str, tmp_path: Path) -> None:
    page = (DOCS / f"adding-a-{name}.md").read_text("utf-8")
    (code,) = blocks(page, "python")
    (tmp_path / file).write_text(code, encoding="utf-8")
    commands = "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
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


def test_the_quarter_of_an_hour_can_be_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder with the baselines. The method is that of the page on adding one, and checked there."""
    page = (DOCS / "quarter-of-an-hour.md").read_text("utf-8")
    (code,) = blocks((DOCS / "adding-a-solver.md").read_text("utf-8"), "python")
    (space,) = blocks(page, "toml")
    (tmp_path / "my_method.py").write_text(code, encoding="utf-8")
    (tmp_path / "mine.toml").write_text(space, encoding="utf-8")
    (tmp_path / "baselines").symlink_to(DOCS.parent / "baselines")
    monkeypatch.chdir(tmp_path)
    commands = "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    assert [command.split()[1] for command in commands] == ["run", "report", "replay"] * 2
    for command in commands:
        monkeypatch.setattr("sys.argv", shlex.split(command, comments=True))
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code, command
    for name in ("quadratic", "stochastic_quadratic"):
        rows = (tmp_path / "runs" / name / "report" / "tables" / "best.md").read_text("utf-8")
        assert "MyMethod" in rows and "SOBA" in rows and rows.count("of 20") == 4


def test_the_page_for_notebooks_runs(tmp_path: Path) -> None:
    """All blocks, in their order, in one interpreter; `# → TEXT` is what the value of its line says."""

    def checked(line: str) -> str:
        value, _, said = line.partition("  # → ")
        return f"assert str(({value})) == {said!r}, ({value})" if said else line

    code = "\n".join(blocks((DOCS / "notebooks.md").read_text("utf-8"), "python"))
    lines = list(map(checked, code.splitlines()))
    assert sum(line.startswith("assert") for line in lines) >= 4
    run, surroundings = [sys.executable, "-c", "\n".join(lines)], os.environ | {"MPLBACKEND": "agg"}
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, env=surroundings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "figure.pdf").exists()


def test_the_page_of_algorithms_is_what_the_code_says(capsys: pytest.CaptureFixture[str]) -> None:
    algorithms.main()
    made = capsys.readouterr().out

    assert made == (DOCS / "algorithms.md").read_text("utf-8")
    assert len(set(re.findall(r"^\| `(\w+)` ", made, re.MULTILINE))) == len(Plugins().names("solver"))
    assert not re.search(r"\|  \|", made), "a solver whose docstring lacks a rule or a cost"


def test_the_readme_names_every_solver_and_problem() -> None:
    readme = (DOCS.parent / "README.md").read_text("utf-8")
    named = set(re.findall(r"`(\w+)`", readme))

    assert {name for kind in PLUGIN_KINDS for name in Plugins().names(kind)} <= named


def test_the_reference_of_the_command_line_is_what_the_code_says(capsys: pytest.CaptureFixture[str]) -> None:
    command_line.main()
    assert capsys.readouterr().out == (DOCS / "command-line.md").read_text("utf-8")


def test_the_data_dictionary_is_what_the_code_says(capsys: pytest.CaptureFixture[str]) -> None:
    data_dictionary.main()
    assert capsys.readouterr().out == (DOCS / "data.md").read_text("utf-8")


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as sites make them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", head).strip().lower()) for head in heads}


def broken_links(page: Path) -> list[str]:
    """Links to files or headings that are not there; what is in code is no link."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.DOTALL)
    found = []
    for link in LINK.findall(text):
        file, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", file):
            continue
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS.parent).as_posix())
def test_no_link_is_broken(page: Path) -> None:
    assert not broken_links(page)


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One\n[a](page.md#one) [b](gone.md) [c](#two) `[d](e.md)` ![f](g.png) [h](https://x.y)\n"
    )
    assert broken_links(page) == ["gone.md", "#two", "g.png"]


def test_every_page_is_in_the_site() -> None:
    site = (DOCS.parent / "mkdocs.yml").read_text("utf-8")
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    pages = {page for page in pages if not page.startswith("results/table3/")}  # tables of a report
    assert pages == set(re.findall(r"[\w/-]+\.md", site))


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=DOCS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "index.html").exists()
