"""The record of a study: an Optuna journal in its folder, one Optuna study per solver, and a file of points.

A trial's parameters, state and objective are Optuna's; everything else of its result is one user attribute,
but for the curve, which lies in a file beside the journal (`harness.points`). The driver is the only writer,
guarded by the study's own lock, so the journal needs none of its own: a lock file would stay behind after
kill -9. A result names its trial, each Optuna study holds the specification, and each line is sealed
(`harness.journal`): what is damaged is refused, and never read as something else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.book import Book, Trial, closed
from harness.journal import damaged
from harness.points import KINDS as CURVES
from harness.points import POINTS, Points, columns, plain, points_line, read_line
from harness.result import Result
from harness.spec import LISTING, NAME, StudySpec, contradictions, read_spec, with_sources

if TYPE_CHECKING:
    import pandas as pd

JOURNAL = "journal.log"
CONFIRMATION = "confirmation"
RESULT = "result"
TRIAL = "trial"
EARLIER = "earlier"
SPEC = "specification"
SEAL = "points"
"""Of a result in the journal: the seal of its line of points, "" where it has none."""
ROWS = 20_000
"""Of a frame that are made arrays at once."""


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


def study_name(spec: StudySpec, solver: str) -> str:
    return f"{spec.problem}/{solver}"


def read_trials(folder: Path, spec: StudySpec) -> dict[str, list[Trial]]:
    """Every trial of the journal by solver, told or not; reads while a driver writes.

    Raises HarnessError: a line is damaged, a result is not its trial's, study.json is another study's."""
    if not (folder / JOURNAL).exists():
        return {solver: [] for solver in spec.solvers}
    return trials_in(Book(folder / JOURNAL), folder, spec)


def trials_in(book: Book, folder: Path, spec: StudySpec) -> dict[str, list[Trial]]:
    found: dict[str, list[Trial]] = {solver: [] for solver in spec.solvers}
    for solver in spec.solvers:
        study = book.studies.get(study_name(spec, solver))
        if study is not None:
            require_same(folder, spec, study.attributes)
            for trial in study.trials:
                require_own(folder, spec, solver, trial)
            found[solver] = study.trials
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


def require_own(folder: Path, spec: StudySpec, solver: str, trial: Trial) -> None:
    """Raises HarnessError where a told trial lacks its result, or has another's."""
    if trial.told and not own(spec, solver, trial):
        name = f"{solver}/{trial.number}"
        raise damaged(folder / JOURNAL, f"the result of trial {name} is missing or another's")


def own(spec: StudySpec, solver: str, trial: Trial) -> bool:
    """Whether a told trial's result names it, and agrees with what Optuna knows of it."""
    try:
        head, name = trial.attributes[RESULT], f"{solver}/{trial.number}"
        result = result_from_json(head)
        listed = spec.solvers[solver].configs[trial.number] if spec.sampler == LISTING else {}
        searched = {key: result.config[key] for key in [*trial.params, *listed]}
        drawn = trial.params | (spec.solvers[solver].published if trial.number == 0 else {}) | listed
        score = None if result.state == "failed" else result.objective
        found = searched, score, head.get(TRIAL, name)
        return found == ({key: drawn[key] for key in searched}, trial.value, name)
    except (LookupError, TypeError, ValueError, AttributeError):
        return False


def require_points(folder: Path, trials: Mapping[str, Sequence[Trial]]) -> dict[str, int]:
    """Where the line of points is that a told trial names, by its seal. Raises HarnessError where one is
    missing or damaged."""
    places = Points(folder).places()
    for solver, some in trials.items():
        for trial in some:
            seal = trial.attributes[RESULT].get(SEAL) if trial.told else None
            if seal and seal not in places:
                name = f"{solver}/{trial.number}"
                raise damaged(folder / POINTS, f"the points of trial {name} are missing or damaged")
    return places


# --- results


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """A result as the record holds it, read when it is wanted: a hundred thousand fill a memory. head: all
    but curve and evaluations, plain, with the trial's name; line: these, as a line of points."""

    head: Callable[[], dict[str, Any]]
    line: Callable[[], bytes]


Results = dict[tuple[str, int], Told]
"""By solver and number."""


def results_in(folder: Path, spec: StudySpec) -> Results:
    """Those of a folder, in order of solvers and numbers. Raises HarnessError as `read_trials` does, and
    where points are damaged."""
    trials = read_trials(folder, spec)
    places, points = require_points(folder, trials), Points(folder)
    found: Results = {}
    for solver, some in trials.items():
        for trial in filter(lambda one: one.told, some):
            found[solver, trial.number] = _told(solver, trial, places, points)
    return found


def _told(solver: str, trial: Trial, places: Mapping[str, int], points: Points) -> Told:
    """A result of the journal."""
    head, seal = partial(_head, solver, trial), trial.attributes[RESULT].get(SEAL)
    if seal is None:
        return Told(head, partial(_line, solver, trial))
    return Told(head, partial(points.line, places[seal]) if seal else bytes)


def _head(solver: str, trial: Trial) -> dict[str, Any]:
    """Without points, nor the seal of their line."""
    return {key: value for key, value in named(solver, trial).items() if key not in (SEAL, *CURVES)}


def _line(solver: str, trial: Trial) -> bytes:
    """Of a result that holds its points itself, from before these had a file."""
    head = named(solver, trial)
    return points_line(head[TRIAL], *(columns(head.get(kind, [])) for kind in CURVES))


def named(solver: str, trial: Trial) -> dict[str, Any]:
    """A told trial's result as the journal holds it; those from before they named their trial do now."""
    result: dict[str, Any] = trial.attributes[RESULT]
    return {TRIAL: f"{solver}/{trial.number}"} | result


def tell(book: Book, points: Points, solver: str, results: Sequence[tuple[Trial, Result]]) -> None:
    """Write the points of trials, then their results, which close them: after a crash in between they are
    open, and run again. From here on the book has their results no more."""
    lines = [points_of(f"{solver}/{trial.number}", result) for trial, result in results]
    entries = []
    for (trial, result), seal in zip(results, points.append(lines), strict=True):
        attributes = {RESULT: result_to_json(solver, trial.number, result) | {SEAL: seal}}
        entries += closed(trial, attributes, None if result.state == "failed" else result.objective)
    book.write(entries)
    for trial, _ in results:
        trial.forget()


def points_of(trial: str, result: Result) -> bytes:
    return points_line(trial, columns(result.curve), columns(result.evaluations))


def result_to_json(solver: str, number: int, result: Result) -> dict[str, Any]:
    """A result as the journal holds it: plain, without points, and with the trial that it belongs to."""
    values = {f.name: getattr(result, f.name) for f in dataclasses.fields(result) if f.name not in CURVES}
    return {TRIAL: f"{solver}/{number}", **_to_json(values)}


def _to_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _to_json(inner) for key, inner in value.items()}
    return plain(value)


def _floats(values: dict[str, Any]) -> dict[str, float]:
    return {key: float(value) if isinstance(value, str) else value for key, value in values.items()}


def result_of(trial: Trial) -> Result:
    """Without its points."""
    return result_from_json(trial.attributes[RESULT])


def result_from_json(head: Mapping[str, Any]) -> Result:
    """Without its points."""
    values = {key: value for key, value in head.items() if key not in (TRIAL, SEAL, *CURVES)}
    values |= {key: _floats(values[key]) for key in ("metrics", "ledger")}
    values["objective"] = float(values["objective"])
    return Result(**values)


# --- the record as reports read it


def load_record(folder: Path) -> Record:
    """The record of a study's folder, finished or not."""
    spec = read_spec(folder)
    again = [load_record(place) for place in confirmations(folder)]
    return dataclasses.replace(record_of(spec, results_in(folder, spec)), confirmations=again)


def record_of(spec: StudySpec, results: Results) -> Record:
    """results: used up, since a hundred thousand of them are large."""
    import pandas as pd

    frames = {kind: _Columns() for kind in CURVES}
    for (solver, number), one in results.items():
        points = read_line(one.line())
        for kind, frame in frames.items():
            frame.add(_identity(solver, number), points[kind])
    curves, evaluations = (frames[kind].frame() for kind in CURVES)
    rows: list[dict[str, Any]] = []
    parts: list[pd.DataFrame] = []
    for solver, number in list(results):
        result = result_from_json(results.pop((solver, number)).head())
        rows.append(_identity(solver, number) | _row(spec, result))
        if len(rows) == ROWS:
            parts.append(pd.DataFrame(rows))
            rows.clear()
    parts.append(pd.DataFrame(rows))
    trials = pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)
    return Record(spec.model_dump(), trials, curves, evaluations)


def _identity(solver: str, number: int) -> dict[str, Any]:
    return {"solver": solver, "number": number, "trial": f"{solver}/{number}"}


class _Columns:
    """The points of many trials, made arrays of as they come: millions of Python's numbers fill a memory."""

    def __init__(self) -> None:
        self._held: dict[str, list[Any]] = {}
        self._parts: dict[str, list[pd.Series[Any]]] = {}
        self._rows = self._packed = 0

    def add(self, identity: Mapping[str, Any], points: Mapping[str, list[Any]]) -> None:
        rows = len(next(iter(points.values()), []))
        named = {name: [value] * rows for name, value in identity.items()}
        named |= {_column(name): values for name, values in points.items()}
        for name, values in named.items():
            held = self._held.setdefault(name, [])
            held += [None] * (self._rows - len(held))
            held += values
        self._rows += rows
        if self._rows >= ROWS:
            self._pack()

    def _pack(self) -> None:
        for name in dict.fromkeys([*self._parts, *self._held]):
            if name not in self._parts:
                self._parts[name] = [_series(name, [None] * self._packed)]
            values = self._held.pop(name, [])
            self._parts[name].append(_series(name, values + [None] * (self._rows - len(values))))
        self._packed, self._rows = self._packed + self._rows, 0

    def frame(self) -> pd.DataFrame:
        """One column after the other, so that no two copies of the whole are there at once."""
        import pandas as pd

        self._pack()
        return pd.DataFrame(
            {name: pd.concat(self._parts.pop(name), ignore_index=True) for name in list(self._parts)},
            copy=False,
        )


def _series(name: str, values: list[Any]) -> pd.Series[Any]:
    """Words; numbers, whole where all are."""
    import numpy as np
    import pandas as pd

    if name in ("solver", "trial"):
        return pd.Series(values, dtype=str)
    found = np.array(values, dtype=None if values else int)
    return pd.Series(found if found.dtype.kind in "if" else np.array(values, dtype=float))


def confirmations(folder: Path) -> list[Path]:
    """The folders of the studies that ran this one's best configurations again."""
    return sorted(path.parent for path in (folder / CONFIRMATION).glob(f"*/{NAME}"))


def _row(spec: StudySpec, result: Result) -> dict[str, Any]:
    plain = {
        field.name: getattr(result, field.name)
        for field in dataclasses.fields(result)
        if field.name not in ("config", "metrics", "ledger", *CURVES)
    }
    return {
        **plain,
        "seed": spec.rules.seed,
        "data_seed": spec.data_seed,
        **{_of("param", name): value for name, value in result.config.items()},
        **{_of("metric", name): value for name, value in result.metrics.items()},
        **{_of("ledger", kind): samples for kind, samples in result.ledger.items()},
    }


@lru_cache(maxsize=1024)
def _of(group: str, name: str) -> str:
    """A column's name, one copy for all rows."""
    return f"{group}.{name}"


@lru_cache(maxsize=1024)
def _column(name: str) -> str:
    """What trials call a number that points have."""
    from harness.budget import KINDS

    if name in ("upper_iteration", "seconds", "share", "evaluation_samples"):
        return name
    return _of("ledger" if name in (*KINDS, "total") else "metric", name)
