"""The record of a study: an Optuna journal in its folder, one Optuna study per solver.

A trial's parameters, state and objective are Optuna's; everything else of its result is one user attribute.
The driver is the only writer, guarded by the study's own lock, so the journal needs none of its own: a lock
file would stay behind after kill -9.
"""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from harness.errors import HarnessError
from harness.runner import Result
from harness.spec import StudySpec, read_spec

if TYPE_CHECKING:
    import pandas as pd

JOURNAL = "journal.log"
RESULT = "result"
optuna.logging.set_verbosity(optuna.logging.ERROR)


def _no_rows() -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame()


@dataclasses.dataclass(frozen=True)
class Record:
    """A study as reports read it: one row per told trial, one row per point of a curve, one row per
    evaluation on the way (`harness run --evaluate-at`)."""

    spec: dict[str, Any]
    trials: pd.DataFrame
    curves: pd.DataFrame
    evaluations: pd.DataFrame = dataclasses.field(default_factory=_no_rows)


class _NoLock(JournalFileOpenLock):
    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def check_journal(path: Path) -> int:
    """Bytes up to the last whole line. Raises HarnessError where a line before it is damaged."""
    whole = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            try:
                entry = json.loads(line)
                if not {"op_code", "worker_id"} <= set(entry):
                    raise ValueError
            except (ValueError, TypeError):
                raise HarnessError(
                    f"{path}, line {number} is damaged (expected a JSON object of Optuna's journal); restore "
                    "the file from a copy, or delete this line and the trials it belongs to run again"
                ) from None
    return whole


def mend_journal(path: Path) -> None:
    """Cut off a last line that was torn by a crash or a full disk; only the driver does this."""
    if path.exists():
        whole = check_journal(path)
        if whole < path.stat().st_size:
            with path.open("r+b") as file:
                file.truncate(whole)


def open_storage(folder: Path) -> JournalStorage:
    path = folder / JOURNAL
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return JournalStorage(JournalFileBackend(str(path), lock_obj=_NoLock(str(path))))
    except (KeyError, ValueError, TypeError, AssertionError) as error:
        raise HarnessError(
            f"{path} is damaged ({type(error).__name__}: {error}); restore it from a copy"
        ) from None


def study_name(spec: StudySpec, solver: str) -> str:
    return f"{spec.problem}/{solver}"


def read_trials(folder: Path, spec: StudySpec) -> dict[str, list[FrozenTrial]]:
    """Every trial of the journal by solver, told or not; reads while a driver writes."""
    path = folder / JOURNAL
    if not path.exists():
        return {solver: [] for solver in spec.solvers}
    check_journal(path)
    storage = open_storage(folder)
    known = {study.study_name for study in storage.get_all_studies()}
    return {
        solver: storage.get_all_trials(storage.get_study_id_from_name(name), deepcopy=False)
        if name in known
        else []
        for solver in spec.solvers
        for name in [study_name(spec, solver)]
    }


def told(trial: FrozenTrial) -> bool:
    return trial.state.is_finished() and RESULT in trial.user_attrs


def tell(trial: Trial, result: Result) -> None:
    """Write a result, then close the trial: a crash in between leaves it running, to be run again."""
    if result.state != "failed" and math.isnan(result.objective):
        result = dataclasses.replace(result, state="failed", reason="the objective is not a number")
    trial.set_user_attr(RESULT, _to_json(dataclasses.asdict(result)))
    if result.state == "failed":
        trial.study.tell(trial, state=TrialState.FAIL)
    else:
        trial.study.tell(trial, result.objective)


def _to_json(value: Any) -> Any:
    """Numbers that JSON lacks as the words inf, -inf and nan, so that any reader can open the journal."""
    if isinstance(value, dict):
        return {key: _to_json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_to_json(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _floats(values: dict[str, Any]) -> dict[str, float]:
    return {key: float(value) if isinstance(value, str) else value for key, value in values.items()}


def result_of(trial: FrozenTrial) -> Result:
    values = dict(trial.user_attrs[RESULT])
    values |= {key: _floats(values[key]) for key in ("metrics", "ledger")}
    values["objective"] = float(values["objective"])
    values["curve"] = [_floats(point) for point in values["curve"]]
    values["evaluations"] = [_floats(point) for point in values.get("evaluations", [])]
    return Result(**values)


def load_record(folder: Path) -> Record:
    """The record of a study's folder, finished or not."""
    import pandas as pd

    spec = read_spec(folder)
    rows: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    evaluations: list[dict[str, Any]] = []
    for solver, trials in read_trials(folder, spec).items():
        for trial in filter(told, trials):
            result = result_of(trial)
            identity = {"solver": solver, "number": trial.number, "trial": f"{solver}/{trial.number}"}
            rows.append(identity | _row(spec, result))
            points += [identity | _point(point) for point in result.curve]
            evaluations += [identity | _point(point) for point in result.evaluations]
    return Record(spec.model_dump(), *map(pd.DataFrame, (rows, points, evaluations)))


def _row(spec: StudySpec, result: Result) -> dict[str, Any]:
    plain = {
        field.name: getattr(result, field.name)
        for field in dataclasses.fields(result)
        if field.name not in ("config", "metrics", "ledger", "curve", "evaluations")
    }
    return {
        **plain,
        "seed": spec.rules.seed,
        "data_seed": spec.data_seed,
        **{f"param.{name}": value for name, value in result.config.items()},
        **{f"metric.{name}": value for name, value in result.metrics.items()},
        **{f"ledger.{kind}": samples for kind, samples in result.ledger.items()},
    }


def _point(point: dict[str, float]) -> dict[str, float]:
    """A point of a curve with the column names of the trials."""
    from harness.budget import KINDS

    named = {}
    for key, value in point.items():
        if key in ("upper_iteration", "seconds", "share", "evaluation_samples"):
            named[key] = value
        else:
            named[f"{'ledger' if key in (*KINDS, 'total') else 'metric'}.{key}"] = value
    return named
