"""Bad input: exit code 2 and one line that says what to do."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.errors import HarnessError
from harness.journal import sealed
from harness.shadow import require_clear

TOY = str(Path(__file__).parent / "toy_plugin.py")
RAISES = next(
    n for n, line in enumerate(Path(TOY).read_text("utf-8").splitlines(), 1) if "raise Arith" in line
)
RUN = [
    "run",
    "toy_quadratic",
    "--plugin",
    TOY,
    "--executor",
    "inline",
    "--out",
    "{dir}/s",
    "--space",
    "{dir}/s.toml",
]
TRIAL = ["trial", "toy_quadratic", "toy_solver", "--plugin", TOY, "--budget", "500"]
AMIGO_CG = ["amigo_cg", "--budget", "500", "lower_steps=2", "system_steps=2", "cross_batches=1"]
AMIGO_CG += ["upper_step_size=0.1", "lower_step_size=0.1", "--data-dir", "{dir}/nowhere"]
NOWHERE = ["--trials", "1", "--budget", "10", "--data-dir", "{dir}/nowhere"]
NOT_DEFINED = (
    "AmIGO-CG is not defined for Equilibrium model: its lower level is a fixed-point map, not a loss"
)


def harness(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> int:
    monkeypatch.setattr("sys.argv", ["harness", *words])
    with pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*RUN, "--trials", "0", "--budget", "10"], "--trials must be"),
        ([*RUN, "--trials", "1", "--budget", "-1"], "--budget must be"),
        ([*RUN, "--trials", "1", "--budget", "inf"], "--budget must be"),
        ([*RUN, "--trials", "1", "--budget", "nan"], "--budget must be"),
        ([*RUN, "--trials", "1", "--budget", "ten"], "--budget"),
        (
            [*RUN, "--trials", "1", "--budget", "10", "--executor", "ray", "--workers", "0"],
            "--workers must be",
        ),
        (
            [*RUN, "--trials", "1", "--budget", "10", "--executor", "ray", "--workers", "1"]
            + ["--address", "127.0.0.1:1"],
            "no Ray cluster answers",
        ),
        ([*RUN, "--trials", "1", "--budget", "10", "--pack", "0"], "--pack must be"),
        ([*RUN, "--trials", "1", "--budget", "10", "--seed", "-1"], "--seed must be"),
        ([*RUN, "--trials", "1", "--budget", "10", "--sampler", "sobal"], "did you mean 'sobol'"),
        ([*RUN, "--trials", "1", "--budget", "10", "--device", "tpu"], "--device"),
        ([*RUN, "--trials", "1", "--budget", "10", "--set", "sise=3"], "did you mean 'size'"),
        ([*RUN, "--trials", "1", "--budget", "10", "--set", "size"], "NAME=VALUE"),
        ([*RUN, "--trials", "1", "--budget", "10", "--price", "cros=2"], "did you mean 'cross'"),
        ([*RUN, "--trials", "1", "--budget", "10", "--price", "cross=0"], "--price cross must be"),
        ([*RUN, "--trials", "1", "--budget", "10", "--price", "cross=two"], "--price cross must be a number"),
        ([*RUN, "--trials", "1", "--budget", "10", "--divergence", "first"], "--divergence: unknown value"),
        ([*RUN, "--trials", "1", "--budget", "10", "--system-failure", "stop"], "--system-failure: unknown"),
        ([*RUN, "--trials", "1", "--budget", "10", "--curves", "-1"], "--curves must be"),
        ([*RUN, "--trials", "1", "--budget", "10", "--trial-timeout", "-1"], "--trial-timeout must be"),
        ([*RUN, "--trials", "1", "--budget", "10", "--solvers", "toy_slover"], "did you mean 'toy_solver'"),
        ([*RUN, "--trials", "1", "--budget", "1e308", "--dry-run"], "too fine to count"),
        ([*RUN, "--trials", "1", "--budget", "10", "--curves", "1000000000"], "--curves must be at most"),
        ([*RUN, "--trials", "1", "--budget", "10", "--seed", str(2**32)], "--seed must be an integer from 0"),
        ([*RUN, "--trials", "1", "--budget", "10", "--data-seed", str(2**70)], "--data-seed must be"),
        ([*RUN, "--trials", "1", "--budget", "10", "--search-seed", str(2**70)], "--search-seed must be"),
        ([*RUN, "--trials", "9" * 5000, "--budget", "10"], "--trials"),
        ([*RUN, "--trials", "1", "--budget", "10", "--pack", "\u00b2"], "--pack must be"),
        ([*RUN, "--trials", "1", "--budget", "10", "--space", "{dir}/deep.toml"], "is not valid TOML"),
        ([*RUN, "--trials", "1", "--budget", "10", "--space", "{dir}/digits.toml"], "is not valid TOML"),
        ([*RUN, "--trials", "1", "--budget", "10", "--space", "{dir}/mistyped.toml"], "did you mean 'toy_so"),
        ([*RUN, "--trials", "1", "--budget", "10", "--colour", "red"], "--colour"),
        (
            ["run", "toy_quadratik", *RUN[2:], "--trials", "1", "--budget", "10"],
            "did you mean 'toy_quadratic'",
        ),
        ([*TRIAL, "steps=3"], "missing parameter 'step_size'"),
        ([*TRIAL, "steps=3", "step_size=a"], "step_size must be float"),
        ([*TRIAL, "steps=3", "stepsize=1"], "did you mean 'step_size'"),
        (
            [*TRIAL, "steps=3", "step_size=1", "mischief=1"],
            f"ArithmeticError: made to raise (toy_plugin.py:{RAISES})",
        ),
        ([*TRIAL[:1], "equilibrium", *AMIGO_CG], NOT_DEFINED),
        (["run", "equilibrium", "--solvers", "amigo_cg", *RUN[2:], *NOWHERE], NOT_DEFINED),
        (["run", "equilibrium", "--solvers", "amigo_cg", *RUN[2:], *NOWHERE, "--dry-run"], NOT_DEFINED),
        (["status", "{dir}/nowhere"], "is not a study"),
        (["report", "{dir}/nowhere"], "is not a study"),
        (["show", "bsgn"], "did you mean 'bsgm'"),
        (["lst"], "lst"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "s.toml").write_text(
        "[toy_solver]\nsteps = 3\nstep_size = { low = 1e-3, high = 1 }\n"
        "[amigo_cg]\nlower_steps = 2\nsystem_steps = 2\nupper_step_size = 0.1\nlower_step_size = 0.1\n"
    )
    (tmp_path / "deep.toml").write_text("a = " + "[" * 50_000)
    (tmp_path / "digits.toml").write_text("a = " + "9" * 5000)
    (tmp_path / "mistyped.toml").write_text("[toy_slover]\nsteps = 3\nstep_size = 0.1\n")
    assert harness(monkeypatch, [word.replace("{dir}", str(tmp_path)) for word in words]) == 2
    *before, error = capsys.readouterr().err.splitlines()
    assert said in error and error.startswith("error: ") and all("Ray starts" in line for line in before)
    assert said != NOT_DEFINED or not (tmp_path / "s").exists()


def test_a_trial_prints_one_json_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert harness(monkeypatch, [*TRIAL, "steps=3", "step_size=0.1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["config"] == {"steps": 3, "step_size": 0.1, "mischief": 0}
    assert found["ledger"]["lower_gradient"] == found["ledger"]["total"] == 495
    assert found["state"] == "completed" and {"metrics", "evaluation_samples", "upper_iterations"} <= set(
        found
    )


def test_a_recorded_trial_replays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.toml").write_text("[toy_solver]\nsteps = 3\nstep_size = { low = 1e-3, high = 1 }\n")
    words = [word.replace("{dir}", str(tmp_path)) for word in [*RUN, "--trials", "3", "--budget", "100"]]
    assert harness(monkeypatch, words) == 0
    replay = ["replay", str(tmp_path / "s"), "--plugin", str(TOY)]
    assert harness(monkeypatch, [*replay, "toy_solver/2"]) == 0
    journal = tmp_path / "s" / "journal.log"
    edited = journal.read_text().replace('"lower_gradient":90', '"lower_gradient":91')
    bare = [{k: v for k, v in json.loads(line).items() if k != "seal"} for line in edited.splitlines()]
    journal.write_bytes(b"".join(sealed(entry, number) for number, entry in enumerate(bare, start=1)))
    assert harness(monkeypatch, [*replay, "toy_solver/2"]) == 1
    assert "lower_gradient" in capsys.readouterr().out
    assert harness(monkeypatch, ["status", str(tmp_path / "s")]) == 0
    assert harness(monkeypatch, [*replay, "toy_solver/9"]) == 2


def test_a_batch_larger_than_the_set_is_refused_where_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Of a shipped search space, whose numbers are for another data set, it is only said."""
    said = "upper_batch_size 64 is more than the 50 upper examples"
    problem = ["quadratic"]
    for option in ("samples=50", "noise=0.1", "lower_dim=3", "upper_dim=4"):
        problem += ["--set", option]
    typed = ["upper_step_size=0.1", "lower_step_size=0.1", "batch_size=50", "upper_batch_size=64"]
    assert harness(monkeypatch, ["trial", *problem, "soba", "--budget", "500", *typed]) == 2
    assert capsys.readouterr().err.endswith(f"error: soba: {said}; give at most so many\n")

    run = ["run", *problem, "--solvers", "soba", "--trials", "1", "--budget", "500", "--executor", "inline"]
    assert harness(monkeypatch, [*run, "--out", str(tmp_path / "s")]) == 0
    assert f"note: soba: {said}: all of them are taken\n" in capsys.readouterr().out
    own = tmp_path / "own.toml"
    own.write_text(
        "[soba]\nupper_step_size = 1\nlower_step_size = 0.1\nbatch_size = 9\nupper_batch_size = [8, 64]\n"
    )
    assert harness(monkeypatch, [*run, "--space", str(own), "--out", str(tmp_path / "t")]) == 2
    assert capsys.readouterr().err.endswith(f"error: {own} [soba]: {said}; give at most so many\n")
    assert not (tmp_path / "t").exists()


def test_debug_shows_where_it_happened(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TRIAL, "steps=3", "step_size=1", "mischief=1"]
    for debugging in (["--debug", *words], [*words, "--debug"]):
        assert harness(monkeypatch, debugging) == 2
        said = capsys.readouterr().err
        assert f'toy_plugin.py", line {RAISES}' in said and said.rstrip().splitlines()[-1].startswith(
            "error: "
        )


def test_pdb_opens_where_a_trial_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def look(traceback: Any) -> None:
        while traceback.tb_next:
            traceback = traceback.tb_next
        opened.append(Path(traceback.tb_frame.f_code.co_filename).name)

    monkeypatch.setattr("harness.commands.post_mortem", look)
    assert harness(monkeypatch, [*TRIAL, "steps=3", "step_size=1", "--pdb"]) == 0 and not opened
    assert harness(monkeypatch, [*TRIAL, "steps=3", "step_size=1", "mischief=1", "--pdb"]) == 2
    assert opened == ["toy_plugin.py"]


def test_a_plugin_that_cannot_be_imported_says_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for text, said in (("import os\n\n1 / 0\n", "(mine.py:3)"), ("x = 1\nx = = 2\n", "(mine.py:2)")):
        (tmp_path / "mine.py").write_text(text)
        assert (
            harness(monkeypatch, ["trial", "quadratic", "mine", "--plugin", str(tmp_path / "mine.py")]) == 2
        )
        assert said in capsys.readouterr().err


def test_the_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import harness as package

    assert harness(monkeypatch, ["--version"]) == 0
    assert capsys.readouterr().out == f"bilevel-harness {package.__version__}\n"
    assert package.__version__ == version("bilevel-harness")


def test_a_solver_is_shown_with_its_usual_ranges(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert harness(monkeypatch, ["show", "bsgm"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "data_poisoning upper_step_size 1000 to 1e+09;" in said
    assert "system_steps = lower_steps;" in said and "upper_batch_size 0" not in said

    assert harness(monkeypatch, ["show", "toy_solver", "--plugin", TOY]) == 0
    assert "usual" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["solvers", "reports"])
def test_a_folder_in_the_way_is_named_in_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", "from harness.cli import main; main()", "list"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / name} is imported as '{name}'")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["solvers/__init__.py", "optuna.py"])
def test_what_would_stand_in_the_way_of_workers_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    for harmless in (name, "helpers.py", "types.py"):
        (tmp_path / harmless).write_text("")
    with pytest.raises(
        HarnessError, match=f"would be imported as '{Path(name).parts[0].removesuffix('.py')}'"
    ):
        require_clear(tmp_path)
    (tmp_path / name).unlink()
    require_clear(tmp_path)
    require_clear(Path(__file__).parents[2])
