"""Whole reports: every file there, numbers right, hostile words harmless, partial studies welcome."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest

from harness.budget import KINDS
from harness.record import Record
from reports import data, figures, latex, page, statistics, tables
from reports.report import write_report
from reports.table import Table
from reports.view import View

FIGURES = ("distribution", "tuning", "samples_to_target", "best_at_budget", "curves", "parameters", "maps")
TABLES = ("best", "pairs", "targets", "outcomes", "configurations", "sensitivity", "ledger", "spaces")


class Page(HTMLParser):
    """The ids, inner links, outer references and tags of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.outer: list[str] = []
        self.tags: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src") and value:
                inner = value.startswith("#")
                self.links += [unquote(value[1:])] if inner else []
                self.outer += [value[:40]] if not inner and not value.startswith("data:") else []


@pytest.fixture(scope="module")
def out(record: Record, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    assert write_report(record, folder, top=3) == folder / "index.html"
    return folder


def narrowed(record: Record, trials: pd.DataFrame, curves: pd.DataFrame) -> Record:
    """A study of two solvers: enough for a partial report, and quick to draw."""
    solvers = {name: record.spec["solvers"][name] for name in ("bsgm", "alset_dagger_det")}
    frames = {"trials": trials, "curves": curves, "evaluations": record.evaluations.head(0)}
    chosen = {n: frame[frame["solver"].isin(solvers)] if len(frame) else frame for n, frame in frames.items()}
    return replace(record, spec={**record.spec, "solvers": solvers}, **chosen)


def test_every_file_is_there(out: Path) -> None:
    expected = {f"figures/{name}.{kind}" for name in FIGURES for kind in ("pdf", "svg", "png")}
    expected |= {f"tables/{name}.{kind}" for name in TABLES for kind in ("md", "csv", "tex")}
    expected |= {"data/trials.parquet", "data/curves.parquet", "index.html"}
    assert {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} == expected


def test_data_survives_and_says_what_it_is_of(out: Path, record: Record) -> None:
    read = pd.read_parquet(out / "data" / "trials.parquet")
    pd.testing.assert_frame_equal(read[list(record.trials)], record.trials, check_dtype=False)
    assert set(read["problem"]) == {"data_poisoning"} and set(read["budget"]) == {2_000_000}
    assert json.loads(read["options"][0]) == record.spec["options"]
    assert dict(zip(read["solver"], read["label"], strict=True))["alset_dagger"] == "ALSET†"
    assert (read["outcome"] == read["state"]).all()


def test_what_did_not_fit_is_in_the_data(record: Record, tmp_path: Path) -> None:
    still = record.trials["trial"] == "bsgm/4"
    moved = record.trials["upper_iterations"].mask(still, 0)
    data.write_data(replace(record, trials=record.trials.assign(upper_iterations=moved)), tmp_path)
    read = pd.read_parquet(tmp_path / "trials.parquet").set_index("trial")
    assert read["state"]["bsgm/4"] == "completed" and read["outcome"]["bsgm/4"] == "did not fit"


def test_every_column_of_the_data_is_described(out: Path) -> None:
    for name, (_, meanings) in data.FILES.items():
        columns = set(pd.read_parquet(out / "data" / name))
        assert not {column for column in columns if not data.described(column, meanings)}
        assert {column for column in meanings if not column[-1].isupper()} <= columns
    assert not data.described("surprise", data.TRIALS) and not data.described("surprise.x", data.TRIALS)
    assert all(f"`{kind}`" in data.TRIALS["ledger.KIND"] for kind in KINDS)


def test_top_k_against_hand_computation(out: Path, record: Record) -> None:
    best = pd.read_csv(out / "tables" / "best.csv").set_index("solver")
    trials = record.trials[record.trials["solver"] == "bsgm"].sort_values("objective").head(3)
    row = best.loc["bsgm"]
    assert row["best_trial"] == trials["trial"].iloc[0]
    assert row["top_trials"].split() == trials["trial"].tolist()
    assert row["val_accuracy best"] == trials["objective"].min()
    assert row["test_accuracy best"] == trials["metric.test_accuracy"].iloc[0]
    assert row["test_accuracy mean"] == pytest.approx(trials["metric.test_accuracy"].sum() / 3)
    assert row["test_accuracy std"] == pytest.approx(np.std(trials["metric.test_accuracy"], ddof=1))
    assert (row["averaged"], row["trials"]) == (3, 30)
    assert best["val_accuracy best"].is_monotonic_increasing


def test_outcomes_add_up(out: Path, record: Record) -> None:
    outcomes = pd.read_csv(out / "tables" / "outcomes.csv")
    assert (outcomes[["completed", "diverged", "failed"]].sum(axis=1) == outcomes["trials"]).all()
    assert outcomes["trials"].sum() == len(record.trials)
    ran = (outcomes["completed"] - outcomes["did not fit"]) / outcomes["trials"]
    np.testing.assert_allclose(outcomes["ran"], ran)
    start = record.evaluations.query("share == 0")["metric.val_accuracy"].median()
    better = (
        record.trials.assign(better=record.trials["objective"] < start).groupby("solver")["better"].mean()
    )
    assert outcomes["beats x0"].tolist() == pytest.approx(better[list(record.spec["solvers"])].tolist())
    assert (outcomes["beats x0"] < outcomes["ran"]).any()


def test_ledger_adds_up(out: Path) -> None:
    ledger = pd.read_csv(out / "tables" / "ledger.csv")
    kinds = [f"ledger.{kind}" for kind in KINDS]
    np.testing.assert_allclose(ledger[kinds].sum(axis=1), ledger["ledger.total"])


def test_page_stands_alone_and_its_links_arrive(out: Path, record: Record) -> None:
    read = Page((out / "index.html").read_text(encoding="utf-8"))
    assert read.outer == []
    assert len(read.ids) == len(set(read.ids))
    assert set(read.links) <= set(read.ids)
    assert {f"trial-{trial}" for trial in record.trials["trial"]} <= set(read.ids)


def test_trials_can_be_brushed_and_solvers_hidden(out: Path, record: Record) -> None:
    """What the page's script works on; looked at in a browser by hand."""
    source = (out / "index.html").read_text(encoding="utf-8")
    pressed = re.findall(r'aria-pressed="true" data-solver="(\w+)" data-colour="(#\w+)"', source)
    assert [name for name, _ in pressed] == list(record.spec["solvers"])
    assert dict(pressed)["bsgm"] == "#009E73"
    heads = re.findall(r'<th scope="col" data-axis="(\w*)"><button type="button">(.*?)</button>', source)
    scales = {heading: scale for scale, heading in heads}
    assert "Val loss" in scales
    assert (scales["Val ↓ (objective)"], scales["α"], scales["Outcome"], scales["b"]) == (
        "linear",
        "log",
        "",
        "",
    )
    assert source.count('data-solver="bsgm"') == 1 + 30


def test_the_page_of_many_trials_is_thinned(record: Record, tmp_path: Path) -> None:
    many = pd.concat([record.trials.assign(number=lambda t, i=i: t["number"] + 30 * i) for i in range(60)])
    many["trial"] = many["solver"] + "/" + many["number"].astype(str)
    view = View.of(
        replace(record, trials=many.reset_index(drop=True), evaluations=record.evaluations.head(0))
    )
    table = tables.best(view, 10)
    source = page.render(view, [table], [], tmp_path)
    assert len(source) < 4e6 and "of 10800 trials" in source
    read = Page(source)
    assert set(read.links) - {"figures"} <= set(read.ids)


def test_trials_that_escaped_leave_the_axes_to_the_others(record: Record, tmp_path: Path) -> None:
    """Objectives of 1e230 happen: methods that do not diverge in time. They are crosses on the edge."""
    trials, curves = record.trials.copy(), record.curves.copy()
    escaped = trials["trial"].isin(["bsgm/3", "alset_dagger_det/4"])
    trials.loc[escaped, ["objective", "metric.val_accuracy", "metric.test_accuracy"]] = 1e230
    last = curves["trial"].isin(["bsgm/3"]) & (curves["upper_iteration"] > 3)
    curves.loc[last, ["metric.val_accuracy", "metric.test_accuracy"]] = 1e230
    study = narrowed(record, trials, curves)
    view = View.of(study)
    best, quartile = np.quantile(view.trials["objective"].dropna(), [0, 0.75], method="inverted_cdf")
    assert view.ceiling("val_accuracy") == quartile + 1000 * (quartile - best)
    with figures.house_style():
        for picture in figures.all_figures(view):
            limits = [axes.get_ylim() for axes in picture.figure.axes if axes.get_ylabel() != ""]
            assert np.abs(limits).max(initial=0) < 1e6, picture.name
    assert write_report(study, tmp_path).exists()


def test_reasons_and_labels_are_escaped_in_html(out: Path) -> None:
    source = (out / "index.html").read_text(encoding="utf-8")
    assert "<script>alert" not in source
    assert "&lt;script&gt;alert" in source
    assert Page(source).tags.count("script") == 1


def test_latex_escapes_labels(record: Record) -> None:
    solvers = {**record.spec["solvers"], "bsgm": {**record.spec["solvers"]["bsgm"], "label": "A_1 & 50 % #"}}
    view = View.of(replace(record, spec={**record.spec, "solvers": solvers}))
    written = latex.table(tables.outcomes(view), view.conditions)
    assert r"$A_{\mathrm{1}}$ \& 50 \% \#" in written
    assert r"\toprule" in written and r"\textbf{" in written
    assert "†" not in written


def test_figures_are_reproducible(record: Record, tmp_path: Path) -> None:
    view = View.of(narrowed(record, record.trials, record.curves))
    for folder in (tmp_path / "first", tmp_path / "again"):
        folder.mkdir()
        with figures.house_style():
            figures.write_figure(figures.tuning(view), folder)
    for kind in ("pdf", "svg", "png"):
        name = f"tuning.{kind}"
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize(
    "case",
    ["bare", "one", "failed", "one solver failed", "unscored", "did not fit", "one metric", "no metric"],
)
def test_partial_studies_are_reported(case: str, record: Record, tmp_path: Path) -> None:
    trials, curves = record.trials, record.curves
    metrics = ["metric.val_accuracy", "metric.test_accuracy"]
    match case:
        case "bare":
            trials, curves = pd.DataFrame(), pd.DataFrame()
        case "one":
            trials, curves = trials[trials["trial"] == "bsgm/4"], curves.head(0)
        case "failed":
            trials = trials.assign(state="failed", objective=np.nan, upper_iterations=0)
        case "one solver failed":
            lost = trials["solver"] == "bsgm"
            trials = trials.assign(objective=trials["objective"].mask(lost, np.nan))
            trials.loc[lost, ["state", "ledger.total"]] = ["failed", np.nan]
            curves = curves[curves["solver"] != "bsgm"]
        case "unscored":
            odd = trials["number"] % 2 == 1
            trials = trials.assign(objective=trials["objective"].mask(odd, np.inf))
        case "did not fit":
            trials = trials.assign(upper_iterations=0, **{"ledger.total": 0})
            curves = curves[curves["upper_iteration"] == 0]
        case "no metric":
            trials, curves = trials.drop(columns=metrics), curves.drop(columns=metrics)
    study = narrowed(record, trials, curves)
    if case == "one metric":
        study = replace(study, spec={**study.spec, "headline": "val_accuracy"})
    if case in ("bare", "did not fit", "one solver failed"):
        assert write_report(study, tmp_path).exists()
    else:  # all but the files, which take most of the time
        view = View.of(study)
        assert all(latex.table(table) for table in tables.all_tables(view, top=10))
        with figures.house_style():
            drawn = {picture.name for picture in figures.all_figures(view)}
            assert drawn == set(FIGURES) - {"best_at_budget", "curves", "maps"}


def test_a_top_larger_than_the_study_says_so(record: Record) -> None:
    one = record.trials[record.trials["trial"] == "bsgm/4"]
    table = tables.best(View.of(narrowed(record, one, record.curves.head(0))), top=10)
    counted = next(column for column in table.columns if column.heading == "n")
    assert counted.cells == ["1 of 1", "0 of 0"]


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_the_best_of_a_column_is_bold(record: Record, better: str) -> None:
    metrics = record.spec["metrics"]
    told = {**metrics, "test_accuracy": {**metrics["test_accuracy"], "better": better}}
    table = tables.best(View.of(replace(record, spec={**record.spec, "metrics": told})), top=10)
    column = next(
        column
        for column in table.columns
        if column.heading == f"Test {'↓' if better == 'lower' else '↑'}, best"
    )
    finite = [float(value) for value in column.keys if np.isfinite(value)]
    wanted = min(finite) if better == "lower" else max(finite)
    assert [value for value, bold in zip(column.keys, column.bold, strict=True) if bold] == [wanted]
    assert f"test accuracy (%), {better} is better" in table.caption


def test_choices_are_searched_and_wide_scales_are_logarithmic(record: Record) -> None:
    grid = {"lower_steps": {"choices": [1, 10, 1000]}, "system_steps": {"choices": [2, 3]}, "batch_size": {}}
    solvers = {"bsgm": {**record.spec["solvers"]["bsgm"], "space": grid}}
    view = View.of(replace(record, spec={**record.spec, "solvers": solvers}))
    assert view.searched("bsgm") == ["lower_steps", "system_steps"]
    assert [view.drawn_on_log("bsgm", name) for name in view.searched("bsgm")] == [True, False]

    assert view.scale("val_accuracy") == "linear"
    tiny = record.trials.assign(**{"metric.val_accuracy": record.trials["metric.val_accuracy"] * 1e-9})
    assert View.of(narrowed(record, tiny, record.curves)).scale("val_accuracy") == "log"


def test_import_is_light() -> None:
    heavy = "{'matplotlib', 'seaborn', 'torch', 'optuna', 'ray'}"
    code = f"import sys, reports, reports.report; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def column(table: Table, heading: str) -> list[str]:
    return next(c.cells for c in table.columns if c.heading == heading)


def test_a_failed_trial_is_no_business_of_other_solvers(record: Record) -> None:
    """One solver's worst trial made worse moves no number of another, which has a failed trial of its own."""
    worst = record.trials["objective"].mask(record.trials["trial"] == "alset/4", 9900.0)
    spoilt = replace(record, trials=record.trials.assign(objective=worst))
    for solver in ("bsgm", "stocbio"):
        values = [View.of(r).draws(solver)["objective"] for r in (record, spoilt)]
        before, after = (statistics.best_of_n_mean(v, np.arange(1, len(v) + 1)) for v in values)
        np.testing.assert_array_equal(before, after)
        assert np.isinf(before[0]) and np.isfinite(before[1:]).all()


def test_n_counts_what_is_averaged(record: Record) -> None:
    """A trial without the headline metric, and failed trials without a ledger, are not in n."""
    best_bsgm = record.trials[record.trials["solver"] == "bsgm"].sort_values("objective")["trial"].iloc[0]
    missing = record.trials["metric.test_accuracy"].mask(record.trials["trial"] == best_bsgm)
    lost = record.trials.assign(**{"metric.test_accuracy": missing})
    failed = lost["state"] == "failed"
    lost.loc[failed, [c for c in lost if c.startswith("ledger.")]] = np.nan
    view = View.of(replace(record, trials=lost))
    table = tables.best(view, top=3)
    assert dict(zip(column(table, "Solver"), column(table, "n"), strict=True))["BSGM"] == "2/3 of 30"
    assert dict(
        zip(column(tables.ledger(view), "Solver"), column(tables.ledger(view), "n"), strict=True)
    ) == {view.label(s): "30 of 30" if s == "amigo" else "29 of 30" for s in view.solvers}


def test_what_is_no_evaluation_is_not_drawn(record: Record) -> None:
    """The cheap metrics of this problem judge the lower variable of the moment; where they equal the final
    evaluation, as on other problems, they are drawn."""
    bare = replace(record, evaluations=record.evaluations.head(0))
    view = View.of(bare)
    assert view.along == "" and "--evaluate-at" in view.facts["along the budget"]
    assert all(points["number"].is_unique for points in view.judged.values())
    curves = record.curves.merge(record.trials[["trial", "objective", "metric.test_accuracy"]], on="trial")
    exact = curves.assign(
        **{
            "metric.val_accuracy": curves["objective"],
            "metric.test_accuracy": curves["metric.test_accuracy_y"],
        }
    )
    assert View.of(replace(bare, curves=exact.drop(columns=["objective"]))).along == "curves"


def test_best_at_budget_ranks_as_the_table_does(record: Record) -> None:
    """At the whole budget it is the table's best trial, diverged trials included in the pool."""
    view = View.of(record)
    assert view.along == "evaluations"
    for solver in view.solvers:
        columns = "metric.val_accuracy", "metric.test_accuracy"
        chosen = statistics.best_at_budget(view.judged[solver], *columns, np.array([2e6]))
        best = statistics.top(view.of_solver(solver), 1)
        assert chosen["number"].tolist() == best["number"].tolist()
        assert chosen["headline"].tolist() == best["metric.test_accuracy"].tolist()


@pytest.mark.parametrize(("sampler", "paired"), [("tpe", False), ("grid", False), ("sobol", True)])
def test_dependent_trials_have_no_band_and_no_unbiased_estimate(
    record: Record, sampler: str, paired: bool
) -> None:
    view = View.of(replace(record, spec={**record.spec, "sampler": sampler}))
    with figures.house_style():
        caption = figures.tuning(view).caption
    assert "unbiased mean" not in caption and "no independent draws" in caption
    assert ("common draws" in view.conditions) == paired
    assert ("Wilcoxon" in tables.pairs(view).caption) == paired
    assert "[" not in "".join(column(tables.outcomes(view), "Ran"))


def test_common_draws_are_disclosed(record: Record) -> None:
    assert "common draws" in tables.best(View.of(record), 10).caption
    assert "30 of" in View.of(record).facts["draws"] or "of upper_step_size" in View.of(record).facts["draws"]


def test_a_published_configuration_is_no_draw(record: Record) -> None:
    solvers = {**record.spec["solvers"], "bsgm": {**record.spec["solvers"]["bsgm"], "published": {"a": 1}}}
    view = View.of(replace(record, spec={**record.spec, "solvers": solvers}))
    assert len(view.draws("bsgm")) == 29 and len(view.draws("amigo")) == 30


def test_importance_finds_the_parameter_that_decides(record: Record) -> None:
    trials = record.trials.assign(objective=np.abs(np.log10(record.trials["param.upper_step_size"]) - 6))
    data = tables.sensitivity(View.of(replace(record, trials=trials))).data.set_index("solver")
    shares = data.loc["bsgm", ["lower_steps", "upper_step_size", "lower_step_size"]].astype(float)
    assert shares.idxmax() == "upper_step_size" and shares.sum() == pytest.approx(1)
    tied = record.trials.assign(
        objective=record.trials["objective"].where(record.trials["number"] == 0, 99.0)
    )
    told = tables.sensitivity(View.of(replace(record, trials=tied))).data
    assert told[["upper_step_size", "lower_step_size"]].isna().all(axis=None)
    every = trials["objective"].to_numpy()
    near = every.min() + 0.25 * (np.quantile(every, 0.5, method="inverted_cdf") - every.min())
    own = trials[(trials["solver"] == "amigo") & (trials["trial"] != trials.loc[every.argmin(), "trial"])]
    assert data.loc["amigo", "near"] == pytest.approx((own["objective"] <= near).mean())


def test_legends_of_long_labels_stay_inside(record: Record) -> None:
    named = {n: {**s, "label": f"{s['label']} (somebody et al.)"} for n, s in record.spec["solvers"].items()}
    with figures.house_style():
        figure = figures.distribution(View.of(replace(record, spec={**record.spec, "solvers": named}))).figure
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1


def test_figures_show_the_solvers_of_the_best_trials_and_say_so(record: Record) -> None:
    view = View.of(record)
    best = view.trials.groupby("solver")["objective"].min().sort_values()
    shown = view.foremost(2)

    assert shown.solvers == [solver for solver in view.solvers if solver in best.index[:2]]
    assert (
        f"Shown: the 2 solvers of {len(view.solvers)}" in shown.conditions and "Shown" not in view.conditions
    )
    assert shown.targets == view.targets and shown.ceiling(view.objective) == view.ceiling(view.objective)
    assert view.foremost(len(view.solvers)).conditions == view.conditions


def test_all_panels_of_parameters_have_one_axis(record: Record) -> None:
    view = View.of(record)
    with figures.house_style():
        drawn = [axes for axes in figures.parameters(view).figure.axes if axes.collections]

    assert len({axes.get_ylim() for axes in drawn}) == 1 and len(drawn) > 6
    low, high = drawn[0].get_ylim()
    objective = view.on_axis(view.objective, view.trials["objective"])
    assert low <= np.nanmin(objective) and np.nanmax(objective) <= high
