"""The copy of a study for optuna-dashboard, read by Optuna."""

from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from typer.testing import CliRunner

from harness.cli import app
from harness.dashboard import write_dashboard
from harness.errors import HarnessError
from harness.record import load_record

TABLE3 = Path(__file__).parents[2] / "docs" / "results" / "table3"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dashboard") / "copy.log"
    done = CliRunner().invoke(app, ["dashboard", str(TABLE3), "--out", str(out)])
    assert done.exit_code == 0 and "optuna-dashboard" in done.output
    return out


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_metrics_are_named_values_and_nothing_is_lost(copy: Path) -> None:
    storage = JournalStorage(JournalFileBackend(str(copy)))
    record = load_record(TABLE3)
    assert len(optuna.get_all_study_names(storage)) == len(record.spec["solvers"])
    study = optuna.load_study(study_name="data_poisoning/bsgm", storage=storage)
    assert study.metric_names == ["val_accuracy", "test_accuracy"]
    assert study.user_attrs["budget"] == record.spec["budget"] and study.user_attrs["label"] == "BSGM"
    rows = record.trials[record.trials["solver"] == "bsgm"].set_index("number")
    for trial in study.trials:
        row = rows.loc[trial.number]
        assert trial.values == [row["metric.val_accuracy"], row["metric.test_accuracy"]]
        assert trial.params["upper_step_size"] == row["param.upper_step_size"]
        assert trial.user_attrs["trial"] == row["trial"] and trial.user_attrs["param.batch_size"] == 90
        assert trial.user_attrs["metric.val_loss"] == row["metric.val_loss"]
        assert trial.user_attrs["ledger.total"] == row["ledger.total"]


def test_a_copy_is_not_written_over(copy: Path) -> None:
    with pytest.raises(HarnessError, match="exists already"):
        write_dashboard(TABLE3, copy)
