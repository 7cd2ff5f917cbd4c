"""A study at other prices against the study that was run at them."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.errors import HarnessError
from harness.record import Record, load_record
from reports.pricing import BETWEEN, JUDGED, SHORT, at_prices, repriced

SIZES = ("--set", "upper_dim=4", "--set", "lower_dim=6", "--set", "samples=30", "--set", "noise=0.1")
STUDY = ("run", "quadratic", "--solvers", "bsgm,amigo", "--trials", "8", "--executor", "inline", *SIZES)
MORE = ("--budget", "4000", "--curves", "400")


def study(folder: Path, *options: str) -> Record:
    done = CliRunner().invoke(app, [*STUDY, *MORE, "--out", str(folder), *options])
    assert done.exit_code == 0, done.output + str(done.exception)
    return load_record(folder)


@pytest.fixture(scope="module")
def cheap(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return study(tmp_path_factory.mktemp("cheap") / "s")


def test_as_if_run_at_these_prices(cheap: Record, tmp_path: Path) -> None:
    dear = study(tmp_path / "dear", "--price", "hessian_vector=2").trials.set_index("trial")
    again = repriced(cheap, {"hessian_vector": 2}, 4000)
    found = again.trials.set_index("trial")
    assert len(found) >= 12
    for name in ("objective", "upper_iterations", "ledger.hessian_vector", "ledger.total"):
        assert found[name].tolist() == pytest.approx(dear.loc[found.index, name].tolist())
    told = again.spec["repriced"]
    assert sum(counts[JUDGED] for counts in told.values()) == len(found)
    assert all(c[JUDGED] + c[SHORT] + c[BETWEEN] == c["trials"] == 8 for c in told.values())


def test_what_was_not_run_is_not_judged(cheap: Record) -> None:
    running = cheap.trials.query("state == 'completed'")["solver"].value_counts()
    told = repriced(cheap, {}, 40_000).spec["repriced"]
    assert {s: c[SHORT] for s, c in told.items()} == running.to_dict()
    seconds = repriced(cheap, {"seconds": 1.0}, float(cheap.trials["seconds"].min()) / 2)
    assert (seconds.trials["ledger.total"] <= cheap.trials["seconds"].min() / 2).all()


@pytest.mark.parametrize(
    ("prices", "budget", "said"),
    [
        ({"hesian": 2.0}, None, "hessian_vector"),
        ({"cross": 0.0}, None, "above 0"),
        ({"seconds": 1.0}, None, "needs a --budget"),
        ({}, 1e9, "no trial can be judged"),
    ],
)
def test_prices_that_cannot_be_answered(
    cheap: Record, tmp_path: Path, prices: dict[str, float], budget: float | None, said: str
) -> None:
    running = cheap.trials[cheap.trials["state"] == "completed"]
    only = Record(cheap.spec, running, cheap.curves)
    with pytest.raises(HarnessError, match=said):
        at_prices(prices, budget, lambda *_: tmp_path)(only, tmp_path, 3)


def test_the_command_line_passes_prices_on(
    cheap: Record, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = next(tmp_path_factory.getbasetemp().glob("cheap*")) / "s"
    seen: list[Record] = []

    def write(study: Record, out: Path, top: int, **_: object) -> Path:
        seen.append(study)
        return out

    monkeypatch.setattr("reports.report.write_report", write)
    told = CliRunner().invoke(app, ["report", str(folder), "--price", "hessian_vector=2", "--budget", "3000"])
    assert told.exit_code == 0 and str(folder / "repriced") in told.output.replace("\n", "")
    assert seen[0].spec["budget"] == 3000 and seen[0].spec["prices"]["hessian_vector"] == 2
    assert (seen[0].trials["ledger.total"] <= 3000).all()


def test_two_studies_are_compared_from_the_command_line(
    cheap: Record, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    folder = next(tmp_path_factory.getbasetemp().glob("cheap*")) / "s"
    copy = shutil.copytree(folder, tmp_path / "copy")
    done = CliRunner().invoke(app, ["compare", str(folder), str(copy), "--out", str(tmp_path / "c")])
    assert done.exit_code == 0, done.output
    assert "Mean rank" in done.output
    assert (tmp_path / "c" / "index.html").exists()
