"""What a study takes where nothing is said, and study files."""

from datetime import datetime
from pathlib import Path

import pytest

from harness.cli import main
from harness.plugins import Plugins
from harness.record import load_record
from harness.spec import read_spec

TOY = Path(__file__).parent / "toy_plugin.py"
SPACE = "[toy_solver]\nsteps = 3\nstep_size = { low = 1e-3, high = 1 }\n"


def harness(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["harness", *map(str, words)])
    with pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


def test_every_shipped_problem_has_a_budget_and_trials_of_its_own() -> None:
    plugins = Plugins()
    for name in plugins.names("problem"):
        problem = plugins.problem(name)
        assert {"default_budget", "default_trials"} <= set(vars(problem)), name
        assert problem.default_budget >= 1 and problem.default_trials >= 1


def test_what_is_not_given_is_taken_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(SPACE)
    words = ["run", "toy_quadratic", "--plugin", TOY, "--space", "s.toml", "--executor", "inline"]
    assert harness(monkeypatch, *words, "--budget", 200, "--curves", 0) == 0
    out = Path("runs") / f"toy_quadratic-{datetime.now():%Y-%m-%d}"
    said = capsys.readouterr().err
    assert f"taken: --trials 20 --out {out}" in said and "--budget" not in said
    spec = read_spec(out)
    assert (spec.trials, spec.rules.budget) == (20, 200)


def test_a_saved_study_is_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also from another folder; what stands on the command line beats the file."""
    folder, elsewhere = tmp_path / "mine", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "s.toml").write_text(SPACE)
    (folder / "toy.py").write_text(TOY.read_text("utf-8"))
    monkeypatch.chdir(folder)
    settings = ["--plugin", "toy.py", "--space", "s.toml", "--set", "size=2", "--price", "lower_gradient=2"]
    settings += ["--budget", "300", "--trials", "2", "--seed", "4", "--divergence", "last", "--published"]
    words = ["run", "toy_quadratic", *settings, "--executor", "inline", "--out"]
    assert harness(monkeypatch, *words, folder / "direct") == 0
    assert harness(monkeypatch, *words, "unused", "--save-config", folder / "study.toml") == 0
    assert not (folder / "unused").exists()

    monkeypatch.chdir(elsewhere)
    again = ["run", "--config", folder / "study.toml", "--executor", "inline", "--out"]
    assert harness(monkeypatch, *again, "again") == 0
    left, right = (read_spec(path) for path in (folder / "direct", elsewhere / "again"))
    since = {"toy_solver": left.solvers["toy_solver"].model_copy(update={"since": ""})}
    assert left.model_copy(update={"solvers": since}) == right.model_copy(update={"solvers": since})
    assert (
        load_record(folder / "direct")
        .trials["objective"]
        .equals(load_record(Path("again")).trials["objective"])
    )

    assert harness(monkeypatch, *again, "more", "--trials", "3", "--seed", "5") == 0
    assert (read_spec(Path("more")).trials, read_spec(Path("more")).rules.seed) == (3, 5)
    assert read_spec(Path("more")).data_seed == 5
    capsys.readouterr()
    monkeypatch.chdir(folder)
    assert harness(monkeypatch, *words, "unused", "--save-config", folder / "study.toml") == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('problm = "x"\n', "unknown key 'problm'; did you mean 'problem'"),
        ("problem = \n", "not valid TOML"),
        ('problem = "toy_quadratic"\ntrials = "many"\nplugin = ["toy.py"]\n', "--trials"),
        ('problem = "toy_quadratic"\nset = 3\n', "set must be a table"),
        ('problem = "toy_quadratic"\nplugin = "toy.py"\n', "plugin must be a list"),
        ('problem = "quadratic"\nbudget = [1]\n', "budget must be one value"),
    ],
)
def test_a_bad_study_file_is_one_line(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study.toml").write_text(text)
    assert harness(monkeypatch, "run", "--config", tmp_path / "study.toml") == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1
    assert harness(monkeypatch, "run", "--config", tmp_path / "none.toml") == 2
    assert "cannot be read" in capsys.readouterr().err
