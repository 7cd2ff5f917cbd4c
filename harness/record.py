"""The record of a study: an Optuna journal in its folder, one Optuna study per solver.

A trial's parameters, state and objective are Optuna's; everything else of its result is one user attribute.
The driver is the only writer, guarded by the study's own lock, so the journal needs none of its own: a lock
file would stay behind after kill -9. A result names its trial, each Optuna study holds the specification, and
each line is sealed (`harness.journal`): what is damaged is refused, and never read as something else.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from harness.errors import HarnessError
from harness.journal import Journal, damaged
from harness.runner import Result
from harness.spec import LISTING, NAME, StudySpec, contradictions, read_spec, with_sources

if TYPE_CHECKING:
    import pandas as pd

JOURNAL = "journal.log"
CONFIRMATION = "confirmation"
RESULT = "result"
TRIAL = "trial"
EARLIER = "earlier"
SPEC = "specification"
optuna.logging.set_verbosity(optuna.logging.ERROR)


def _no_rows() -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame()


@dataclasses.dataclass(frozen=True)
class Record:
    """A study as reports read it: one row per told trial, one row per point of a curve, one row per
    evaluation on the way (`harness run --evaluate-at`). confirmations: the studies that ran its best
    configurations again (`harness confirm`)."""

    spec: dict[str, Any]
    trials: pd.DataFrame
    curves: pd.DataFrame
    evaluations: pd.DataFrame = dataclasses.field(default_factory=_no_rows)
    confirmations: Sequence[Record] = ()


def open_storage(folder: Path) -> JournalStorage:
    """Raises HarnessError where the journal is damaged."""
    path = folder / JOURNAL
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return JournalStorage(Journal(path))
    except (HarnessError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever Optuna makes of a damaged line without a seal
        raise damaged(path, f"its lines contradict each other ({type(error).__name__}: {error})") from None


def study_name(spec: StudySpec, solver: str) -> str:
    return f"{spec.problem}/{solver}"


def read_trials(folder: Path, spec: StudySpec) -> dict[str, list[FrozenTrial]]:
    """Every trial of the journal by solver, told or not; reads while a driver writes.

    Raises HarnessError: a line is damaged, a result is not its trial's, study.json is another study's."""
    if not (folder / JOURNAL).exists():
        return {solver: [] for solver in spec.solvers}
    storage = open_storage(folder)
    known = {study.study_name for study in storage.get_all_studies()}
    found: dict[str, list[FrozenTrial]] = {solver: [] for solver in spec.solvers}
    for solver in spec.solvers:
        if study_name(spec, solver) in known:
            study = storage.get_study_id_from_name(study_name(spec, solver))
            require_same(folder, spec, storage.get_study_user_attrs(study))
            found[solver] = storage.get_all_trials(study, deepcopy=False)
            for trial in found[solver]:
                require_own(folder, spec, solver, trial)
    return found


def require_same(folder: Path, spec: StudySpec, attributes: dict[str, Any]) -> None:
    """Raises HarnessError where study.json is not the study of which the journal's attributes tell. The
    source of a solver may differ: `--redo` opens its trials before it writes study.json."""
    if SPEC not in attributes:
        return  # from before it was kept there
    held = StudySpec.model_validate(attributes[SPEC])
    found = contradictions(with_sources(held, spec, held.solvers), spec)
    if found:
        raise damaged(folder / NAME, f"which is not the study of {JOURNAL}: {'; '.join(found)}")


def require_own(folder: Path, spec: StudySpec, solver: str, trial: FrozenTrial) -> None:
    """Raises HarnessError where a told trial lacks its result, or has another's."""
    if told(trial) and not own(spec, solver, trial):
        name = f"{solver}/{trial.number}"
        raise damaged(folder / JOURNAL, f"the result of trial {name} is missing or another's")


def own(spec: StudySpec, solver: str, trial: FrozenTrial) -> bool:
    """Whether a told trial's result names it, and agrees with what Optuna knows of it."""
    try:
        result, name = result_of(trial), f"{solver}/{trial.number}"
        listed = spec.solvers[solver].configs[trial.number] if spec.sampler == LISTING else {}
        searched = {key: result.config[key] for key in [*trial.params, *listed]}
        drawn = trial.params | (spec.solvers[solver].published if trial.number == 0 else {}) | listed
        score = None if result.state == "failed" else result.objective
        found = searched, score, trial.user_attrs[RESULT].get(TRIAL, name)
        return found == ({key: drawn[key] for key in searched}, trial.value, name)
    except (LookupError, TypeError, ValueError, AttributeError):
        return False


def named(solver: str, trial: FrozenTrial) -> dict[str, Any]:
    """A told trial's result as the journal holds it; those from before they named their trial do now."""
    plain: dict[str, Any] = trial.user_attrs[RESULT]
    return {TRIAL: f"{solver}/{trial.number}"} | plain


def told(trial: FrozenTrial) -> bool:
    return trial.state.is_finished()


def tell(trial: Trial, solver: str, result: Result) -> None:
    """Write a result, then close the trial: a crash in between leaves it running, to be run again."""
    trial.set_user_attr(RESULT, result_to_json(solver, trial.number, result))
    if result.state == "failed":
        trial.study.tell(trial, state=TrialState.FAIL)
    else:
        trial.study.tell(trial, result.objective)


def result_to_json(solver: str, number: int, result: Result) -> dict[str, Any]:
    """A result as the journal holds it: plain, and with the trial that it belongs to."""
    plain: dict[str, Any] = _to_json(dataclasses.asdict(result))
    return {TRIAL: f"{solver}/{number}"} | plain


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
    return result_from_json(trial.user_attrs[RESULT])


def result_from_json(plain: dict[str, Any]) -> Result:
    values = {key: value for key, value in plain.items() if key != TRIAL}
    values |= {key: _floats(values[key]) for key in ("metrics", "ledger")}
    values["objective"] = float(values["objective"])
    values["curve"] = [_floats(point) for point in values["curve"]]
    values["evaluations"] = [_floats(point) for point in values.get("evaluations", [])]
    return Result(**values)


def load_record(folder: Path) -> Record:
    """The record of a study's folder, finished or not."""
    spec = read_spec(folder)
    results = {
        (solver, trial.number): result_of(trial)
        for solver, trials in read_trials(folder, spec).items()
        for trial in filter(told, trials)
    }
    again = [load_record(place) for place in confirmations(folder)]
    return dataclasses.replace(record_of(spec, results), confirmations=again)


def record_of(spec: StudySpec, results: Mapping[tuple[str, int], Result]) -> Record:
    """results: by solver and number."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    evaluations: list[dict[str, Any]] = []
    for (solver, number), result in results.items():
        identity = {"solver": solver, "number": number, "trial": f"{solver}/{number}"}
        rows.append(identity | _row(spec, result))
        points += [identity | _point(point) for point in result.curve]
        evaluations += [identity | _point(point) for point in result.evaluations]
    frames = [pd.DataFrame(found) for found in (rows, points, evaluations)]
    return Record(spec.model_dump(), frames[0], frames[1], frames[2])


def confirmations(folder: Path) -> list[Path]:
    """The folders of the studies that ran this one's best configurations again."""
    return sorted(path.parent for path in (folder / CONFIRMATION).glob(f"*/{NAME}"))


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
