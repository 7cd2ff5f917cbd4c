"""Whole reports: every file there, numbers right, hostile words harmless, partial studies welcome."""

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
from reports import figures, formats, tables
from reports.report import write_report
from reports.view import View

FIGURES = (
    "distribution",
    "expected_best_trials",
    "expected_best_samples",
    "best_at_budget",
    "curves",
    "parameters",
)
TABLES = ("best", "configurations", "outcomes", "ledger", "spaces")


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
    chosen = [frame[frame["solver"].isin(solvers)] if len(frame) else frame for frame in (trials, curves)]
    return replace(record, spec={**record.spec, "solvers": solvers}, trials=chosen[0], curves=chosen[1])


def test_every_file_is_there(out: Path) -> None:
    expected = {f"figures/{name}.{kind}" for name in FIGURES for kind in ("pdf", "svg", "png")}
    expected |= {f"tables/{name}.{kind}" for name in TABLES for kind in ("md", "csv", "tex")}
    expected |= {"data/trials.parquet", "data/curves.parquet", "index.html"}
    assert {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} == expected


def test_data_survives(out: Path, record: Record) -> None:
    read = pd.read_parquet(out / "data" / "trials.parquet")
    pd.testing.assert_frame_equal(read, record.trials, check_dtype=False)


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
    works = (outcomes["completed"] - outcomes["did not fit"]) / outcomes["trials"]
    np.testing.assert_allclose(outcomes["works"], works)


def test_ledger_adds_up(out: Path) -> None:
    ledger = pd.read_csv(out / "tables" / "ledger.csv")
    kinds = [f"ledger.{kind}" for kind in KINDS]
    np.testing.assert_allclose(ledger[kinds].sum(axis=1), ledger["ledger.total"])


def test_page_stands_alone_and_its_links_arrive(out: Path, record: Record) -> None:
    page = Page((out / "index.html").read_text(encoding="utf-8"))
    assert page.outer == []
    assert len(page.ids) == len(set(page.ids))
    assert set(page.links) <= set(page.ids)
    assert {f"trial-{trial}" for trial in record.trials["trial"]} <= set(page.ids)


def test_reasons_and_labels_are_escaped_in_html(out: Path) -> None:
    source = (out / "index.html").read_text(encoding="utf-8")
    assert "<script>alert" not in source
    assert "&lt;script&gt;alert" in source
    assert Page(source).tags.count("script") == 1


def test_latex_escapes_labels(record: Record) -> None:
    solvers = {**record.spec["solvers"], "bsgm": {**record.spec["solvers"]["bsgm"], "label": "A_1 & 50 % #"}}
    view = View.of(replace(record, spec={**record.spec, "solvers": solvers}))
    written = formats.to_latex(tables.outcomes(view))
    assert r"$A_{\mathrm{1}}$ \& 50 \% \#" in written
    assert r"\toprule" in written and r"\textbf{" in written and r"data\_poisoning" in written
    assert "†" not in written


def test_figures_are_reproducible(record: Record, tmp_path: Path) -> None:
    view = View.of(narrowed(record, record.trials, record.curves))
    for folder in (tmp_path / "first", tmp_path / "again"):
        folder.mkdir()
        with figures.house_style():
            figures.write_figure(figures.expected_best(view, "samples"), folder)
    for kind in ("pdf", "svg", "png"):
        name = f"expected_best_samples.{kind}"
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
        assert all(formats.to_latex(table) for table in tables.all_tables(view, top=10))
        with figures.house_style():
            assert len(figures.all_figures(view)) == len(FIGURES)


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
    column = next(column for column in table.columns if column.heading == "Test, best")
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
