"""A study that is interrupted, resumed or disturbed ends like one that was not."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from harness.book import Book
from harness.cli import main
from harness.data import data_folder
from harness.launch import Search, make_spec
from harness.params import check_values
from harness.plugins import Plugins
from harness.record import JOURNAL, Record, load_record
from harness.sizing import Packing
from harness.space import find_space
from harness.spec import NAME, StudySpec, differences, read_spec
from harness.study import Study
from harness.worker import make_context

TOY = Path(__file__).parent / "toy_plugin.py"
OLD = Path(__file__).parent / "old_study"
"""Recorded before curves had a file of their own, lines a seal and data poisoning a choice of balls."""
SPACE = """
[toy_solver]
steps = { low = 1, high = 30 }
step_size = { low = 1e-3, high = 1 }
"""
GRID = """
[toy_solver]
steps = [1, 5, 30]
step_size = [0.1, 0.5]
"""
TIMES = ["seconds", "evaluation_seconds", "pack"]


def arguments(out: Path, *more: str, space: str = SPACE) -> list[str]:
    file = out.parent / f"{out.name}.toml"
    file.write_text(space)
    given = {
        "--space": file,
        "--plugin": TOY,
        "--out": out,
        "--budget": 500,
        "--trials": 6,
        "--device": "cpu",
    }
    words = [str(word) for pair in given.items() for word in pair]
    return ["run", "toy_quadratic", "--executor", "inline", *words, *more]


def harness(monkeypatch: pytest.MonkeyPatch, words: Sequence[str]) -> int:
    monkeypatch.setattr("sys.argv", ["harness", *words])
    with pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


def same(left: Record, right: Record) -> None:
    a, b = (r.trials.sort_values("trial", ignore_index=True).drop(columns=TIMES) for r in (left, right))
    assert a.equals(b)
    assert left.curves.drop(columns="seconds").equals(right.curves.drop(columns="seconds"))


def test_a_study_is_recorded_as_reports_expect_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert harness(monkeypatch, arguments(tmp_path / "s")) == 0
    record = load_record(tmp_path / "s")
    assert list(record.trials["number"]) == list(range(6)) and set(record.trials["state"]) == {"completed"}
    assert {"param.steps", "metric.loss", "ledger.total", "objective", "seed"} <= set(record.trials)
    assert (record.trials["ledger.total"] <= 500).all() and record.spec["objective"] == "loss"


def test_a_resumed_study_equals_an_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert harness(monkeypatch, arguments(tmp_path / "whole", "--pack", "2")) == 0
    for cut in (40, 75, 95):
        part = tmp_path / f"part{cut}"
        assert harness(monkeypatch, arguments(part, "--pack", "2")) == 0
        journal = part / JOURNAL
        content = journal.read_bytes()
        journal.write_bytes(content[: len(content) * cut // 100])
        load_record(part)
        assert harness(monkeypatch, arguments(part, "--pack", "3")) == 0
        same(load_record(part), load_record(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("sampler", "space"),
    [("random", SPACE), ("sobol", SPACE), ("grid", GRID)],
    ids=["random", "sobol", "grid"],
)
def test_a_study_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str, space: str) -> None:
    def run(folder: str, trials: int) -> int:
        more = ["--trials", str(trials), "--sampler", sampler]
        return harness(monkeypatch, arguments(tmp_path / folder, *more, space=space))

    assert run("big", 6) == run("s", 2) == run("s", 6) == 0
    same(load_record(tmp_path / "s"), load_record(tmp_path / "big"))
    assert len(load_record(tmp_path / "s").trials[["param.steps", "param.step_size"]].drop_duplicates()) == 6


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_solvers_added_one_by_one_are_those_asked_for_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    words = ["run", "quadratic", "--set", "upper_dim=4", "--set", "lower_dim=3", "--sampler", sampler]
    words += ["--executor", "inline", "--device", "cpu", "--budget", "200", "--pack", "1", "--trials", "3"]

    def run(folder: str, solvers: str, *more: str) -> int:
        asked = [*words, "--out", str(tmp_path / folder), "--solvers", solvers, *more]
        return harness(monkeypatch, asked)

    assert run("grown", "soba") == run("grown", "amigo,soba") == run("grown", "ttsa") == 0
    assert run("whole", "soba,amigo,ttsa") == 0
    grown = read_spec(tmp_path / "grown")

    same(load_record(tmp_path / "grown"), load_record(tmp_path / "whole"))
    assert list(grown.solvers) == ["soba", "amigo", "ttsa"] and all(s.since for s in grown.solvers.values())
    assert run("grown", "soba", "--seed", "2") == 2  # another study
    assert run("grown", "soba") == 0 and read_spec(tmp_path / "grown") == grown


def test_a_sobol_study_does_not_grow_by_solvers_with_other_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "quadratic", "--set", "upper_dim=4", "--set", "lower_dim=3", "--sampler", "sobol"]
    words += ["--executor", "inline", "--device", "cpu", "--budget", "200", "--trials", "2", "--out"]
    words += [str(tmp_path / "s"), "--solvers"]

    assert harness(monkeypatch, [*words, "soba"]) == 0
    assert harness(monkeypatch, [*words, "saba"]) == 0  # the same names
    assert harness(monkeypatch, [*words, "ttsa"]) == 2
    assert "Sobol sequence" in capsys.readouterr().err


def test_the_published_configuration_is_trial_0_and_moves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = SPACE + "[toy_solver.published]\nsteps = 40\nstep_size = 0.125\n"
    names = ["param.steps", "param.step_size"]

    def drawn(folder: str, *more: str) -> list[list[float]]:
        assert harness(monkeypatch, arguments(tmp_path / folder, *more, space=space)) == 0
        return load_record(tmp_path / folder).trials.sort_values("number")[names].values.tolist()

    plain, asked = drawn("plain"), drawn("asked", "--published")
    part = tmp_path / "asked" / JOURNAL
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 3])

    assert asked == [[40, 0.125], *plain[1:]]
    assert (
        drawn("asked", "--published")
        == asked
        == drawn("sobol", "--published", "--sampler", "sobol")[:1] + plain[1:]
    )
    assert (
        harness(monkeypatch, arguments(tmp_path / "tpe", "--published", "--sampler", "tpe", space=space)) == 2
    )


def test_a_study_that_optunas_storage_opened_twice_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its second opening says once more that there is a study."""
    assert harness(monkeypatch, arguments(tmp_path / "s")) == 0
    first = load_record(tmp_path / "s")
    again = {"op_code": 0, "worker_id": "old", "study_name": "toy_quadratic/toy_solver", "directions": [1]}
    Book(tmp_path / "s" / JOURNAL).journal.append([again])

    same(first, load_record(tmp_path / "s"))


def test_published_configurations_alone_are_a_study_that_grows_into_a_tuned_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Solvers without one are left out, or named where they were asked for."""
    published = "[toy_solver.published]\nsteps = 40\nstep_size = 0.125\n"
    soba = "[soba]\nupper_step_size = { low = 0.01, high = 0.1 }\nlower_step_size = 0.1\n"
    (tmp_path / "s.toml").write_text(SPACE + published + soba)
    words = ["run", "toy_quadratic", "--plugin", str(TOY), "--executor", "inline", "--space"]
    words += [str(tmp_path / "s.toml"), "--budget", "60", "--seed", "3", "--out"]
    alone, whole = str(tmp_path / "alone"), str(tmp_path / "whole")
    assert harness(monkeypatch, [*words, alone, "--trials", "defaults"]) == 0
    first = load_record(tmp_path / "alone").trials
    assert first["trial"].tolist() == ["toy_solver/0"] and first["param.steps"].tolist() == [40]

    assert harness(monkeypatch, [*words, alone, "--trials", "3", "--published"]) == 0
    assert harness(monkeypatch, [*words, whole, "--trials", "3", "--published"]) == 0
    same(load_record(tmp_path / "whole"), load_record(tmp_path / "alone"))

    capsys.readouterr()
    assert harness(monkeypatch, [*words, alone, "--trials", "defaults", "--solvers", "soba"]) == 2
    assert "no published configuration of soba" in capsys.readouterr().err
    assert harness(monkeypatch, [*words, alone, "--trials", "some"]) == 2
    assert "or defaults, but got 'some'" in capsys.readouterr().err


def proposed_by_tpe(
    monkeypatch: pytest.MonkeyPatch, out: Path, trials: int, *more: str
) -> list[tuple[float, ...]]:
    """Run a tpe study on the quadratic problem, one trial at a time; its configurations."""
    words = ["run", "quadratic", "--set", "upper_dim=4", "--set", "lower_dim=3", "--solvers", "soba", *more]
    words += ["--sampler", "tpe", "--executor", "inline", "--pack", "1", "--device", "cpu", "--budget", "200"]
    assert harness(monkeypatch, [*words, "--trials", str(trials), "--out", str(out)]) == 0
    record = load_record(out).trials.sort_values("number")
    assert set(record["state"]) == {"completed"} and len(record) == trials
    return list(record.filter(like="_step_size").itertuples(index=False, name=None))


def test_tpe_learns_from_what_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = proposed_by_tpe(monkeypatch, tmp_path / "first", 16)
    assert first == proposed_by_tpe(monkeypatch, tmp_path / "again", 16)
    told_else = proposed_by_tpe(monkeypatch, tmp_path / "else", 16, "--set", "upper_condition=1e4")
    assert first[:10] == told_else[:10]  # Optuna's ten random trials
    assert first[10:] != told_else[10:]


def test_a_resumed_tpe_study_does_not_propose_its_first_configurations_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = proposed_by_tpe(monkeypatch, tmp_path / "s", 3)
    resumed = proposed_by_tpe(monkeypatch, tmp_path / "s", 16)
    assert resumed[:3] == begun and len(set(resumed)) == 16


def study_of(folder: Path, spec: StudySpec) -> Study:
    """Open for asking, on the digits: which configurations come depends on the specification only."""
    plugins = Plugins()
    plugin = plugins.problem("data_poisoning")
    problem = plugin(**check_values(plugin, {"dataset": "digits"}, "--set"))
    problem.setup(data_folder(None), spec.data_seed, torch.device("cpu"), problem.dtype)
    return Study(folder, spec, problem, {name: plugins.solver(name) for name in spec.solvers}, Packing(8))


def configurations(study: Study) -> dict[str, dict[str, object]]:
    packs = iter(study.next_pack, None)
    return {f"{p.solver}/{n}": c for p in packs for n, c in zip(p.numbers, p.configs, strict=True)}


def test_a_fresh_study_draws_the_configurations_that_were_recorded(tmp_path: Path) -> None:
    """With the defaults of parameters that there were not when they were recorded."""
    recorded = load_record(OLD).trials.set_index("trial").filter(like="param.").T
    drawn = configurations(study_of(tmp_path, read_spec(OLD)))
    assert set(drawn) == set(recorded) and len(drawn) == 180
    for trial, config in drawn.items():
        old = recorded[trial].dropna().rename(lambda name: name.removeprefix("param.")).to_dict()
        assert config == check_values(Plugins().solver(trial.split("/")[0]), old, trial)


def test_an_interrupted_trial_keeps_its_number_and_its_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.record.require_same", lambda *_: None)
    spec = read_spec(OLD).model_copy(update={"trials": 4})
    other = spec.model_copy(update={"search_seed": 5})
    for folder in ("s", "fresh"):
        (tmp_path / folder).mkdir()
    asked = configurations(study_of(tmp_path / "s", spec))
    assert asked == configurations(study_of(tmp_path / "s", other))
    assert asked != configurations(study_of(tmp_path / "fresh", other))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--budget", "600"], "budget: 500.0 → 600.0"),
        (["--trials", "2"], "may only grow"),
        (["--seed", "5"], "search_seed: 1 → 5"),
        (["--set", "size=4"], "options.size: 3 → 4"),
    ],
)
def test_another_study_in_the_folder_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    said: str,
) -> None:
    assert harness(monkeypatch, arguments(tmp_path / "s")) == 0
    capsys.readouterr()
    assert harness(monkeypatch, arguments(tmp_path / "s", *more)) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_kind_that_an_old_folder_lacks_has_price_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = ["--price", "hessian_vector=2"]
    assert harness(monkeypatch, arguments(tmp_path / "s", "--trials", "1", *two)) == 0
    file = tmp_path / "s" / NAME
    flat = json.loads(file.read_text())
    assert flat["budget"] == 500 and flat["seed"] == 1 and flat["divergence"] == "x0" and "rules" not in flat
    assert flat["prices"].pop("cross") == 1 and flat.pop("checksum")
    file.write_text(json.dumps(flat))
    assert harness(monkeypatch, arguments(tmp_path / "s", "--trials", "2", *two)) == 0
    assert json.loads(file.read_text())["prices"]["cross"] == 1
    assert harness(monkeypatch, arguments(tmp_path / "s", "--trials", "2")) == 2


def test_a_folder_older_than_an_option_or_a_parameter_has_its_default() -> None:
    """The study of Table 3 is older than the option `ball` and the parameter `upper_batch_size`."""
    old = read_spec(OLD)

    def asked(*options: str) -> list[str]:
        context = make_context("data_poisoning", options, [], None, 2, "cpu", old.rules, 0.0)
        plugins, file = Plugins(), find_space("data_poisoning", None)
        solvers = {name: plugins.solver(name) for name in old.solvers}
        search = Search(30, "", None, "random", 2, False)
        return differences(old, make_spec(context, search, plugins.problem("data_poisoning"), solvers, file))

    assert "ball" not in old.options and "upper_batch_size" not in old.solvers["bsgm"].space
    assert asked() == []
    assert asked("ball=l1") == ["options.ball: l2 → l1"]


def test_the_layout_of_recorded_studies_is_kept() -> None:
    old, read = json.loads((OLD / NAME).read_text()), read_spec(OLD).model_dump()
    assert set(read) == {*old, "source", "evaluate_at", "defaults"}
    assert read["budget"] == 2_000_000 and read["curves"] == 20


def test_solvers_and_their_order_make_no_other_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert harness(monkeypatch, arguments(tmp_path / "s", "--trials", "1")) == 0
    spec = read_spec(tmp_path / "s")
    (toy,) = spec.solvers.values()
    both = spec.model_copy(update={"solvers": {"other": toy, **spec.solvers}})
    swapped = both.model_copy(update={"solvers": dict(reversed(both.solvers.items()))})
    assert not differences(spec, both) and not differences(both, spec) and not differences(both, swapped)


CHOOSER = """
from tests.harness.toy_plugin import ToySolver as _Toy
import dataclasses
from harness.api import choice

@dataclasses.dataclass(frozen=True, kw_only=True)
class Chooser(_Toy):
    rule: str = choice("how", default="plain", choices=("plain", "turned"))

    def step(self, oracle, state):
        stepped = super().step(oracle, state)
        return stepped if self.rule == "plain" else dataclasses.replace(stepped, x=-stepped.x)
"""


def test_trials_share_a_pack_only_where_they_agree_on_every_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pack that mixed them would fail."""
    (tmp_path / "chooser.py").write_text(CHOOSER)
    space = SPACE.replace("toy_solver", "chooser") + 'rule = ["plain", "turned"]\n'
    plugin = ["--plugin", str(tmp_path / "chooser.py"), "--solvers", "chooser", "--trials", "9"]
    for folder, size in (("wide", "9"), ("alone", "1")):
        more = [*plugin, "--pack", size]
        assert harness(monkeypatch, arguments(tmp_path / folder, *more, space=space)) == 0
    wide, alone = (load_record(tmp_path / folder) for folder in ("wide", "alone"))
    sizes = wide.trials.groupby("param.rule")["pack"].agg(["min", "max", "size"])

    assert set(wide.trials["state"]) == {"completed"} and len(sizes) == 2 and sizes["size"].sum() == 9
    assert (sizes["min"] == sizes["size"]).all() and (sizes["max"] == sizes["size"]).all()
    assert wide.trials["pack"].max() > 1
    same(wide, alone)


def test_a_second_driver_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s").mkdir()
    with FileLock(tmp_path / "s" / ".lock"):
        assert harness(monkeypatch, arguments(tmp_path / "s")) == 2
    assert "another driver" in capsys.readouterr().err


def test_only_the_trial_at_fault_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert harness(monkeypatch, arguments(tmp_path / "good")) == 0
    bad = SPACE + "mischief = [0, 0, 1]\n"
    assert harness(monkeypatch, arguments(tmp_path / "bad", "--pack", "6", space=bad)) == 0
    good, record = load_record(tmp_path / "good").trials, load_record(tmp_path / "bad").trials
    failed = record["state"] == "failed"
    assert 0 < failed.sum() < 6
    assert set(record[failed]["reason"]) == {"ArithmeticError: made to raise (toy_plugin.py:77)"}
    assert record[~failed]["objective"].tolist() == good.loc[~failed, "objective"].tolist()


def test_a_trial_that_takes_too_long_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SPACE + "mischief = 2\n"
    assert (
        harness(monkeypatch, arguments(tmp_path / "s", "--trials", "1", "--trial-timeout", "0.3", space=slow))
        == 0
    )
    assert load_record(tmp_path / "s").trials["reason"].tolist() == ["TimeoutError: ran longer than 0.3 s"]


def test_ray_gives_the_same_numbers_and_survives_dying_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly = SPACE + "mischief = [0, 0, 2, 3]\n"
    on_ray = ["--executor", "ray", "--workers", "1", "--pack", "3", "--trial-timeout", "2"]
    assert harness(monkeypatch, arguments(tmp_path / "ray", *on_ray, space=deadly)) == 0
    assert harness(monkeypatch, arguments(tmp_path / "good")) == 0
    good, record = load_record(tmp_path / "good").trials, load_record(tmp_path / "ray").trials
    failed = record["state"] == "failed"
    assert 0 < failed.sum() < 6
    died, slow = "the worker died (killed, or out of memory), 3 times", "TimeoutError: ran longer than 2 s"
    assert set(record[failed]["reason"]) == {died, slow}
    assert record[~failed]["objective"].tolist() == good.loc[~failed, "objective"].tolist()
