"""Recipes: the smallest scale of each as a user calls it, and the verdicts they draw."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.cli import app
from harness.record import Record, load_record
from recipes import public_benchmark
from recipes.amigo_synthetic import METHODS as NINE
from recipes.amigo_synthetic import AmigoSynthetic, Verdict, below, claims, lowest, only, reached
from recipes.grazzi_meta_learning import claims as few_shot_claims
from recipes.reproduce import RECIPES

METHODS = ["AmIGO-CG", "AmIGO-GD", "AID-FP", "ITD"]
NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "cg_lowest", "gd_below_fp", "only_amigo"),
    [
        ([1, 2, 3, 4], True, True, False),
        ([2, 1, 3, NAN], False, True, False),
        ([1, 3, 2, NAN], True, False, False),
        ([1, 1, NAN, NAN], True, True, True),
        ([NAN, 1, 1, NAN], False, None, False),
        ([5, NAN, NAN, NAN], True, None, False),
        ([NAN, NAN, NAN, NAN], None, None, False),
        ([7, 7, 7, 7], None, None, False),
    ],
)
def test_verdicts_on_claims(
    values: list[float], cg_lowest: Verdict, gd_below_fp: Verdict, only_amigo: bool
) -> None:
    """A method that never got there (nan) is above all that did; nobody, or all the same, decides nothing."""
    row = pd.Series(values, METHODS, dtype=float)

    assert lowest(row, "AmIGO-CG") is cg_lowest
    assert below(row, "AmIGO-GD", "AID-FP") is gd_below_fp
    assert only(row, "AmIGO-CG", "AmIGO-GD") is only_amigo


def test_claims_take_the_best_of_the_grid_at_every_kappa() -> None:
    """AID-FP has the best first configuration, AmIGO the best of both; errors below 1e-20 are level."""
    best = dict.fromkeys(NINE.values(), (NAN, NAN))
    best |= {"AmIGO-CG": (40.0, 10.0), "AmIGO-GD": (40.0, 20.0), "AID-FP": (30.0, 30.0)}
    columns = ["samples_to_target", "seconds_to_target", "samples_to_deep"]
    table = pd.DataFrame(
        {"kappa_g": kappa, "method": method, "error_after_fixed": 1e-25, **dict.fromkeys(columns, value)}
        for kappa in (10.0, 1e4)
        for method, pair in best.items()
        for value in pair
    )
    found = dict(claims(table, AmigoSynthetic.scales["small"]))

    assert found["1(a): AmIGO-CG needs the fewest samples to 1e-6"] == {10.0: True, 1e4: True}
    assert found["1(b): after 0.5 s AmIGO-CG has the lowest error"] == {10.0: None, 1e4: None}
    assert found["1(a): AmIGO-GD needs less time to 1e-6 than AID-GD"] == {10.0: True, 1e4: True}
    assert found["1(c): at moderate kappa_g only AmIGO and AID-CG reach 1e-20"] == {10.0: False}


@pytest.mark.parametrize(
    ("ahead", "smaller_better", "warm", "overlap"),
    [
        ([2.0, 2.2, 1.8], True, [0.1, -0.1, 0.0], True),
        ([-2.0, -2.2, -1.8], False, [3.0, 3.1, 2.9], False),
        ([2.0, 0.0, -1.0], None, [-3.0, 3.0, 0.0], None),
        ([2.0], None, [3.0], None),
    ],
)
def test_one_method_is_ahead_of_another_where_the_seeds_agree(
    ahead: list[float], smaller_better: Verdict, warm: list[float], overlap: Verdict
) -> None:
    """Means alone decided once, of one seed, by a sixth of a point."""
    accuracy = {
        "BSGM, 8 tasks": np.array([60.0, 40.0, 50.0])[: len(ahead)],
        "BSGM, 16 tasks": np.array([60.0, 40.0, 50.0])[: len(ahead)] - ahead,
        "BSGM+WS, 8 tasks": np.array([60.0, 40.0, 50.0])[: len(ahead)] + warm,
        "BSGM+WS, 16 tasks": np.array([60.0, 40.0, 50.0])[: len(ahead)],
    }
    table = pd.DataFrame(
        {"what": what, "place": batch * len(ahead) + seed, "metric.test_accuracy": values[seed]}
        for batch, size in enumerate((8, 16))
        for what, values in accuracy.items()
        if what.endswith(f" {size} tasks")
        for seed in range(len(ahead))
    )
    first, _, last = few_shot_claims(table, (8, 16), len(ahead))

    assert first.holds is smaller_better and last.holds is overlap


def test_reached_is_the_first_point_at_or_below() -> None:
    curve = pd.DataFrame({"total": [1, 2, 3, 4], "relative_error": [1.0, 1e-6, 1e-5, 1e-9]})

    assert reached(curve, "total", 1e-6) == 2
    assert np.isnan(reached(curve, "total", 1e-10))


QUICK = ("amigo_newsgroups", "grazzi_meta_learning")  # grazzi_equilibrium runs below


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in RECIPES]
)
def test_the_smallest_scale_writes_figures_tables_and_verdicts(name: str, tmp_path: Path) -> None:
    """And a second run adds nothing: everything is recorded."""
    command = [
        str(Path(sys.executable).with_name("harness")),
        "reproduce",
        name,
        "--scale",
        "smoke",
        "--executor",
        "inline",
    ]
    first = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, timeout=280)
    assert first.returncode == 0, first.stderr
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    verdicts = re.findall(r"\| (holds|does not hold|cannot be told) \|", page)

    assert verdicts and len(verdicts) == first.stdout.count("\nholds:") + first.stdout.count(
        "\ndoes not hold:"
    ) + first.stdout.count("\ncannot be told:")
    assert all((tmp_path / name).stat().st_size > 1000 for name in re.findall(r"!\[.*?\]\((.*?)\)", page))
    assert " 0 failed" in first.stdout and not re.search(r" [1-9]\d* failed", first.stdout)


def test_a_recipe_goes_on_from_what_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An interrupted run, and the same command: the studies that were finished are not run again."""
    words = ["reproduce", "grazzi_equilibrium", "--scale", "smoke", "--executor", "inline"]
    app([*words, "--out", str(tmp_path)], standalone_mode=False)
    folders = [path.parent for path in sorted(tmp_path.glob("studies/*/study.json"))]
    before = [load_record(folder).trials for folder in folders]  # with their seconds
    app([*words, "--out", str(tmp_path)], standalone_mode=False)
    after = [load_record(folder).trials for folder in folders]

    assert len(before) == 6 and all(map(pd.DataFrame.equals, before, after))


def test_without_a_name_the_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    app(["reproduce"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()

    assert [line.split()[0] for line in lines] == list(RECIPES)
    with pytest.raises(Exception, match=r"the recipe: unknown value 'table9'"):
        app(["reproduce", "table9"], standalone_mode=False)


def _run(state: str, *losses: float) -> Record:
    """One trial of the public benchmark, a loss at each power of two."""
    steps = [0, *(2**n for n in range(len(losses) - 1))]
    curve = pd.DataFrame({"upper_iteration": steps, "metric.value_function": losses}) if losses else None
    return Record({}, pd.DataFrame({"state": [state]}), pd.DataFrame() if curve is None else curve)


def test_a_diverged_run_of_the_public_benchmark_has_no_value_after_its_end() -> None:
    """It was taken for its last point, the best of all before it left every finite number behind."""
    entry = public_benchmark.Entry("regularisation", "mrbo", [[2, 0.5, 0.4, 0.6], [8, 0.264, 0.264, 0.265]])
    right, lost = _run("completed", 0.56, 0.6, 0.5, 0.4, 0.264), _run("diverged", 0.56, 0.6, 0.5)
    none = _run("diverged")

    assert public_benchmark.claim(entry, [right, right, lost], np.inf).holds
    assert not public_benchmark.claim(entry, [right, lost, none], np.inf).holds
    rows = public_benchmark.lines(entry, [right, lost, none], np.inf)
    assert rows[0][3] == "0.500000 (0.500000 to 0.500000); 1 of 3 diverged"
    assert rows[1][3] == "0.264000; 2 of 3 diverged"
    assert public_benchmark.lines(entry, [none], np.inf)[1][3] == "1 of 1 diverged"
