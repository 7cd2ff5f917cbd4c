"""Search spaces: ties, and one clear line for every mistake."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.params import choice, count, real, shared
from harness.plugins import Plugins
from harness.space import SpaceFile, complete, find_space, shipped_text


@dataclass(frozen=True, kw_only=True)
class Toy:
    steps: int = count("steps")
    more: int = count("more steps")
    step_size: float = real("step size")
    batch: int = shared("batch", default=90)
    rule: str = choice("how", default="plain", choices=("plain", "normed"))
    restart: bool = choice("whether", default=False, choices=(False, True))


GOOD = """
[toy]
steps = { low = 10, high = 100 }
more = "= steps"
step_size = { low = 1e-4, high = 10 }
"""


SIZES = "upper_step_size = 1\nlower_step_size = 1\nsystem_step_size = 1\n"


def space(text: str) -> object:
    return SpaceFile("toy", "toy.toml", text).space("toy", Toy)


def test_ties_and_defaults_are_filled_in() -> None:
    found = SpaceFile("toy", "toy.toml", GOOD).space("toy", Toy)
    assert list(found.searched()) == ["steps", "step_size"]
    assert found.resolve({"steps": 12, "step_size": 0.1}) == {
        "steps": 12,
        "more": 12,
        "step_size": 0.1,
        "batch": 90,
        "rule": "plain",
        "restart": False,
    }
    typed = complete(found, Toy, {"steps": "12", "step_size": "1e-1", "more": "7"}, "toy")
    assert typed == {
        "steps": 12,
        "more": 7,
        "step_size": 0.1,
        "batch": 90,
        "rule": "plain",
        "restart": False,
    }


def test_a_choice_is_a_word_or_a_switch_fixed_or_searched() -> None:
    fixed = SpaceFile("toy", "toy.toml", GOOD + 'rule = "normed"\nrestart = true\n').space("toy", Toy)
    searched = SpaceFile("toy", "toy.toml", GOOD + 'rule = ["normed", "plain"]\n').space("toy", Toy)
    drawn = {"steps": 12, "step_size": 0.1}
    found = fixed.resolve(drawn)

    assert (found["rule"], found["restart"]) == ("normed", True)
    assert list(searched.searched()) == ["steps", "step_size", "rule"]
    assert searched.resolve(drawn | {"rule": "plain"})["rule"] == "plain"
    assert complete(fixed, Toy, {**drawn, "rule": "plain", "restart": "false"}, "toy")["restart"] is False
    with pytest.raises(HarnessError, match=r"rule must be one of \('plain', 'normed'\), but got 'odd'"):
        complete(fixed, Toy, {**drawn, "rule": "odd"}, "toy")
    with pytest.raises(HarnessError, match="restart must be bool, but got 'perhaps'"):
        complete(fixed, Toy, {**drawn, "restart": "perhaps"}, "toy")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("low = 10, high = 100 }", "low = 100, high = 10 }"), "low must be below high"),
        (("low = 10, high = 100 }", "low = 10, high = 10 }"), "low must be below high"),
        (("low = 1e-4", "low = 0"), "above 0 where log = true"),
        (("low = 1e-4", "low = nan"), "finite numbers"),
        (("low = 10, high = 100 }", "low = 0.5, high = 100 }"), "must be integers"),
        (("low = 10, high = 100 }", "low = 0, high = 100, log = false }"), "at least 1"),
        (("low = 10, high = 100 }", "low = 10, high = 100, lag = true }"), "low, high, log"),
        (('"= steps"', '"= stps"'), "unknown parameter 'stps'; did you mean 'steps'"),
        (("steps = { low = 10, high = 100 }", 'steps = "= more"'), "ties go in a circle"),
        (("step_size = ", "stepsize = "), "unknown parameter 'stepsize'; did you mean 'step_size'"),
        (("step_size = { low = 1e-4, high = 10 }", ""), "missing parameter 'step_size'"),
        (("step_size = { low = 1e-4, high = 10 }", "step_size = []"), "no choices"),
        (("step_size = { low = 1e-4, high = 10 }", "step_size = true"), "must be float"),
        (("[toy]", '[toy]\nrule = "norm"'), "rule must be one of ('plain', 'normed'), but got 'norm'"),
        (("[toy]", '[toy]\nrule = ["plain", "norm"]'), "but got 'norm'"),
        (("[toy]", "[toy]\nrule = 3"), "rule must be str, but got 3"),
        (("[toy]", "[toy]\nrestart = 1"), "restart must be bool, but got 1"),
        (("[toy]", "[toy]\nrule = { low = 1, high = 2 }"), "('plain', 'normed'), not a range"),
        (("[toy]", "[toy]\nrestart = { low = 0, high = 1 }"), "(False, True), not a range"),
        (("[toy]", "[toy"), "line 2"),
    ],
)
def test_every_mistake_is_one_clear_line(change: tuple[str, str], said: str) -> None:
    with pytest.raises(HarnessError) as error:
        space(GOOD.replace(*change, 1))
    assert said in str(error.value) and "\n" not in str(error.value) and "toy.toml" in str(error.value)


def test_a_missing_file_and_a_problem_without_space(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="cannot be read"):
        find_space("data_poisoning", tmp_path / "no.toml")
    with pytest.raises(HarnessError, match="--space FILE"):
        find_space("nowhere", None).space("toy", Toy)


def test_a_file_of_the_users_replaces_tables_and_adds_some(tmp_path: Path) -> None:
    own = tmp_path / "mine.toml"
    own.write_text("[bsgm]\nlower_steps = 3\nsystem_steps = 3\n" + SIZES + GOOD)
    shipped = find_space("quadratic", None)
    found = find_space("quadratic", own, [*shipped.solvers(), "toy"])
    bsgm = Plugins().solver("bsgm")

    assert set(found.solvers()) == {*shipped.solvers(), "toy"}
    assert not found.space("bsgm", bsgm).searched() and shipped.space("bsgm", bsgm).searched()
    amigo = Plugins().solver("amigo")
    assert found.space("amigo", amigo) == shipped.space("amigo", amigo)
    assert found.space("toy", Toy).entries
    own.write_text("[bsgn]\nlower_steps = 3\n")
    with pytest.raises(HarnessError, match=r"mine.toml: \[bsgn\] is no solver; did you mean 'bsgm'"):
        find_space("quadratic", own, shipped.solvers())


def test_a_solver_without_a_table_is_told_to_write_one_in_a_file_of_the_users() -> None:
    with pytest.raises(HarnessError) as error:
        find_space("quadratic", None).space("mine", Toy)
    assert "write [mine]" in str(error.value) and "file of yours" in str(error.value)
    assert "site-packages" not in str(error.value) and "search_spaces/" not in str(error.value)


def test_a_shipped_space_is_printed_as_it_is_written() -> None:
    whole, one = shipped_text("data_poisoning", ""), shipped_text("data_poisoning", "bsgm")
    assert one in whole and set(tomllib.loads(one)) == {"bsgm"}
    assert tomllib.loads(one)["bsgm"] == tomllib.loads(whole)["bsgm"]
    assert shipped_text("data_cleaning", "meha").startswith("# x moves by")
    with pytest.raises(HarnessError, match="did you mean 'data_poisoning'"):
        shipped_text("data_poisonning", "")


@pytest.mark.parametrize("problem", Plugins().names("problem"))
def test_what_is_printed_of_one_solver_is_all_that_is_its_own(problem: str) -> None:
    for solver, table in tomllib.loads(shipped_text(problem, "")).items():
        assert tomllib.loads(shipped_text(problem, solver)) == {solver: table}


def test_the_shipped_space_is_table_2() -> None:
    plugins, shipped = Plugins(), find_space("data_poisoning", None)
    searched = {name: set(shipped.space(name, plugins.solver(name)).searched()) for name in shipped.solvers()}
    sizes = {"upper_step_size", "lower_step_size"}
    assert searched["bsgm"] == searched["amigo"] == {"lower_steps", *sizes}
    assert searched["stocbio"] == {"lower_steps", "system_steps", "system_step_size", *sizes}
    assert searched["alset"] == {"system_steps", "system_step_size", *sizes}
    assert searched["alset_dagger"] == {"system_step_size", *sizes}
    assert searched["alset_dagger_det"] == sizes
    assert searched["bsgm_decreasing"] == {"lower_steps", "decay", *sizes}


def test_published_values_are_read_beside_the_ranges_and_may_lie_outside_them() -> None:
    found = SpaceFile("toy", "toy.toml", GOOD + "[toy.published]\nsteps = 7\nstep_size = 20\n").space(
        "toy", Toy
    )

    assert found.published == {"steps": 7, "step_size": 20.0} and list(found.searched()) == [
        "steps",
        "step_size",
    ]
    assert not SpaceFile("toy", "toy.toml", GOOD).space("toy", Toy).published


@pytest.mark.parametrize(
    ("published", "words"),
    [
        ("[toy.published]\nsteps = 7\n", "missing parameter 'step_size'"),
        ("[toy.published]\nsteps = 0\nstep_size = 1\n", "at least 1"),
        ("[toy.published]\nstop = 1\n", "unknown parameter 'stop'"),
        ("published = 3\n", "must be a table"),
    ],
)
def test_wrong_published_values_are_one_line(published: str, words: str) -> None:
    with pytest.raises(HarnessError, match=words):
        space(GOOD + published)
