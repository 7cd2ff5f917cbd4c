"""What is shown while a study runs."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from harness.cli import main
from harness.progress import Progress, share, tally_table
from harness.result import Tally
from harness.spec import StudySpec, read_spec
from harness.worker import Worker

WORDS = ["run", "quadratic", "--set", "upper_dim=6", "--set", "lower_dim=5", "--executor", "inline"]
WORDS += ["--device", "cpu", "--budget", "300", "--trials", "3", "--pack", "1", "--solvers", "bsgm,amigo"]


def run(out: Path, monkeypatch: pytest.MonkeyPatch) -> StudySpec:
    monkeypatch.setattr("sys.argv", ["harness", *WORDS, "--out", str(out)])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert not exit_.value.code
    return read_spec(out)


def printed(renderable: object) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO


def test_off_a_terminal_there_are_plain_lines_and_a_table_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("harness.progress.PLAIN_SECONDS", 0.0)
    run(tmp_path / "s", monkeypatch)
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if re.match(r"\d+:\d\d:\d\d  \d/6 trials, ", line)]
    assert lines and all("bsgm" in line and "amigo" in line for line in lines)
    assert "reading the data" in said
    assert "best Rel." in said and "↓" in said and re.search(r"^ *all +6/6 ", said, re.MULTILINE)


def test_samples_of_packs_in_flight_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = run(tmp_path / "s", monkeypatch)

    class Running:
        """A study of which one pack is under way."""

        stage = "workers start"
        tallies = {"bsgm": Tally(4), "amigo": Tally(4)}

        def __init__(self) -> None:
            self.spec = spec
            self.in_flight_samples = dict[str, float]

    study = Running()
    progress = Progress(study)  # type: ignore[arg-type]  # as much of a study as is shown
    assert "?" in progress.line() and "workers start" in progress.line()
    progress.begun -= 10.0
    study.in_flight_samples = lambda: {"bsgm": 600.0}  # type: ignore[assignment]
    left = progress.left()
    assert left["bsgm"] == pytest.approx(10.0, rel=0.1) and left["all"] == pytest.approx(30.0, rel=0.1)
    assert left["amigo"] != left["amigo"]
    table = printed(progress.table())
    assert "50%" in table and "25%" in table and "0:00:30" in table and "workers start" in table


def test_more_than_the_budget_is_never_shown() -> None:
    tally = Tally(2, in_flight=900.0)
    tally.states["completed"] = 1
    assert share(tally, 300.0) == 1.0 and share(Tally(2, in_flight=300.0), 300.0) == 0.5


def test_one_solver_needs_no_line_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = run(tmp_path / "s", monkeypatch)
    assert "all" not in printed(tally_table(spec, {"bsgm": Tally(3)}))
    assert "all" in printed(tally_table(spec, {"bsgm": Tally(3), "amigo": Tally(3)}))


def test_a_worker_tells_how_far_its_pack_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, float]] = []

    class Telling(Worker):
        def __init__(self, context: object, spent: object = None) -> None:
            super().__init__(context, lambda solver, samples: told.append((solver, samples)))  # type: ignore[arg-type]

    monkeypatch.setattr("harness.worker.PULSE", 0.0)
    monkeypatch.setattr("harness.watched.Worker", Telling)
    run(tmp_path / "s", monkeypatch)
    bsgm = [samples for solver, samples in told if solver == "bsgm"]
    assert 0 < max(bsgm) <= 300 and bsgm.count(0.0) == 3 and len(set(bsgm)) > 2
