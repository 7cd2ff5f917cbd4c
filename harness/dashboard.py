"""A copy of a study as optuna-dashboard shows it best: what is searched for and what is reported as named
objectives, all else of a trial as attributes, one by one.

The record itself has one value for each trial, the objective, since that is what a search goes by and what a
result is held against; a copy may say the same in another form.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from harness.errors import HarnessError
from harness.record import Record, load_record
from harness.space import Space

optuna.logging.set_verbosity(optuna.logging.ERROR)


def write_dashboard(folder: Path, out: Path) -> int:
    """Write an Optuna journal; how many trials it has. One Optuna study for each solver, its values the
    objective and the headline metric. A trial that lacks one of these is shown as failed, with why.
    Raises HarnessError: there are no trials, the file exists."""
    record = load_record(folder)
    if record.trials.empty:
        raise HarnessError(f"{folder} has no recorded trial yet; run it first")
    if out.exists():
        raise HarnessError(f"--out {out} exists already; remove it, or give another name")
    lines = _Lines()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = JournalStorage(lines)
        for solver in record.spec["solvers"]:
            _add_study(storage, record, solver)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(entry) + "\n" for entry in lines.entries), encoding="utf-8")
    return len(record.trials)


class _Lines(BaseJournalBackend):
    """A journal in memory, written once: a file of Optuna's is synchronised at each of its lines."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        yield from islice(self.entries, log_number_from, None)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.entries += logs


def _add_study(storage: JournalStorage, record: Record, solver: str) -> None:
    spec = record.spec
    metrics = list(dict.fromkeys([spec["objective"], spec["headline"]]))
    study = optuna.create_study(
        storage=storage,
        study_name=f"{spec['problem']}/{solver}",
        directions=[
            "maximize" if spec["metrics"][m].get("better") == "higher" else "minimize" for m in metrics
        ],
    )
    study.set_metric_names(metrics)
    told = {key: value for key, value in spec.items() if key not in ("solvers", "metrics", "plugins")}
    for key, value in (told | {"label": spec["solvers"][solver]["label"]}).items():
        study.set_user_attr(key, _plain(value))
    space = Space(solver, spec["solvers"][solver]["space"])
    rows = record.trials[record.trials["solver"] == solver].sort_values("number")
    study.add_trials([_trial(row, space, metrics) for row in rows.to_dict("records")])


def _trial(row: dict[Any, Any], space: Space, metrics: list[str]) -> FrozenTrial:
    values = [float(row.get(f"metric.{metric}", math.nan)) for metric in metrics]
    if row["state"] != "failed":
        values[0] = float(row["objective"])
    scored = not any(map(math.isnan, values))
    drawn = {name: row[f"param.{name}"] for name in space.searched()}
    kinds = {
        name: kind
        for name, kind in space.distributions().items()
        if _inside(space.entries[name], drawn[name])
    }
    whole = optuna.distributions.IntDistribution
    params = {
        name: int(drawn[name]) if isinstance(kind, whole) else drawn[name] for name, kind in kinds.items()
    }
    return create_trial(
        state=TrialState.COMPLETE if scored else TrialState.FAIL,
        values=values if scored else None,
        params=params,
        distributions=kinds,
        user_attrs={key: _plain(value) for key, value in row.items() if _told(key, value, params)},
    )


def _inside(entry: dict[str, Any], value: Any) -> bool:
    """A published configuration need not lie in the space; Optuna takes no such parameter."""
    return bool(entry["low"] <= value <= entry["high"] if "low" in entry else value in entry["choices"])


def _told(key: str, value: Any, params: dict[str, Any]) -> bool:
    """Whether a column is there for this trial, and no parameter that Optuna has already."""
    absent = value is None or (isinstance(value, float) and math.isnan(value))
    return not absent and key.removeprefix("param.") not in params


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
