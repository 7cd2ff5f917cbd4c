"""Bad input: exit code 2 and one line that says what to do."""

import json
from pathlib import Path

import pytest

from harness.cli import main
from harness.journal import sealed

TOY = str(Path(__file__).parent / "toy_plugin.py")
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
        ([*RUN, "--trials", "1"], "--budget"),
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
        ([*TRIAL, "steps=3", "step_size=1", "mischief=1"], "ArithmeticError: made to raise"),
        ([*TRIAL[:1], "equilibrium", *AMIGO_CG], NOT_DEFINED),
        (["run", "equilibrium", "--solvers", "amigo_cg", *RUN[4:], *NOWHERE], NOT_DEFINED),
        (["run", "equilibrium", "--solvers", "amigo_cg", *RUN[4:], *NOWHERE, "--dry-run"], NOT_DEFINED),
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
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1
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


def test_a_batch_larger_than_the_set_is_noted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "trial",
        "quadratic",
        "soba",
        "--set",
        "samples=50",
        "--set",
        "noise=0.1",
        "--set",
        "lower_dim=3",
    ]
    words += ["--set", "upper_dim=4", "--budget", "500", "upper_step_size=0.1", "lower_step_size=0.1"]
    monkeypatch.setattr("sys.argv", ["harness", *words, "batch_size=50", "upper_batch_size=51"])
    with pytest.raises(SystemExit) as ended:
        main()

    noted = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    assert not ended.value.code
    assert noted == [
        "note: soba: upper_batch_size 51 is more than the 50 upper examples: all of them are taken"
    ]
