"""Studies that travel: exported to one file, merged with others, reported together with them.

A study is read from its folder or from a file of `harness export`: Parquet, a row for each told trial, with
the specification among the metadata: its result as the journal holds it and its points, both as JSON.
Nothing in it can be run.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from harness.errors import HarnessError
from harness.points import KINDS, Points, columns, points_line, read_line
from harness.record import (
    JOURNAL,
    SEAL,
    Record,
    Results,
    Told,
    confirmations,
    load_record,
    read_trials,
    record_of,
    result_from_json,
    results_in,
)
from harness.repair import trials_of, write_journal
from harness.spec import NAME, StudySpec, differences, grown, read_spec

if TYPE_CHECKING:
    import pyarrow

SPEC_KEY = b"bilevel-harness study"
COLUMNS = ("solver", "number", "state", "objective", "result", "points")
OF_THE_RUN = ("seconds", "evaluation_seconds", "pack")
"""What differs between two runs of one trial."""
ROUNDING = 1e-6
"""Relative difference of two numbers that are the same but for the packs that they come from."""


def export(folder: Path, out: Path) -> int:
    """Write a study as one file; how many trials it has. Raises HarnessError: there are none, the file
    exists."""
    import pyarrow
    import pyarrow.parquet

    spec, results = read_results(folder)
    if not results:
        raise HarnessError(f"{folder} has no recorded trial yet; run it first")
    if out.exists():
        raise HarnessError(f"--out {out} exists already; remove it, or give another name")
    rows = [(*key, *_cells(one)) for key, one in results.items()]
    table = pyarrow.table(dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True)))
    table = table.replace_schema_metadata({SPEC_KEY: spec.model_dump_json()})
    out.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, out, compression="zstd")
    return len(rows)


def _cells(one: Told) -> tuple[str, float, str, str]:
    head = one.head()
    result = json.dumps(head, separators=(",", ":"))
    return head["state"], float(head["objective"]), result, one.line().decode()


def read_results(place: Path) -> tuple[StudySpec, Results]:
    """The told trials of a folder or of an exported file. Raises HarnessError: it is neither, or damaged."""
    if place.is_file():
        return _read_file(place)
    spec = read_spec(place)
    return spec, results_in(place, spec)


def _read_file(path: Path) -> tuple[StudySpec, Results]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
        spec = StudySpec.model_validate_json((table.schema.metadata or {})[SPEC_KEY])
        found = dict(_rows(table))
        for one in found.values():
            result_from_json(one.head())
            read_line(one.line())
    except (pyarrow.ArrowException, OSError, KeyError, ValueError, TypeError, ValidationError) as error:
        raise HarnessError(
            f"{path} is no file of `harness export`, or damaged ({type(error).__name__}); export it again"
        ) from None
    return spec, found


def _rows(table: pyarrow.Table) -> Iterator[tuple[tuple[str, int], Told]]:
    """Results of files from before there was a column of points hold these themselves."""
    for row in table.select([name for name in COLUMNS if name in table.column_names]).to_pylist():
        text, line = row["result"], row.get("points")
        if line is None:
            head = json.loads(text)
            line = points_line(head["trial"], *(columns(head.pop(kind, [])) for kind in KINDS)).decode()
            text = json.dumps(head)
        yield (str(row["solver"]), int(row["number"])), Told(partial(json.loads, text), line.encode)


def combined(places: Sequence[Path]) -> tuple[StudySpec, Results]:
    """Studies of one protocol as one: the solvers and trials of all.

    Raises HarnessError: they differ in what every trial has in common, or in the result of a trial."""
    spec, results = read_results(places[0])
    spec, results = spec.model_copy(), dict(results)
    for place in places[1:]:
        other, found = read_results(place)
        most = max(spec.trials, other.trials)
        base, new = (one.model_copy(update={"trials": most}) for one in (spec, other))
        if differing := differences(base, new):
            raise HarnessError(f"{place} is another study than {places[0]}: {'; '.join(differing)}")
        _require_agreement(results, found, place)
        spec, results = grown(base, new), found | results
    return spec, results


def _require_agreement(one: Results, two: Results, place: Path) -> None:
    known = sorted(one.keys() & two.keys())
    contradictions = [f"{s}/{n}" for s, n in known if not _alike(_lasting(one[s, n]), _lasting(two[s, n]))]
    if contradictions:
        raise HarnessError(
            f"{place} contradicts the studies before it: {len(contradictions)} trials with other numbers, "
            f"{', '.join(contradictions[:5])}; `harness replay` tells which is right"
        )


def _lasting(one: Told) -> list[dict[str, Any]]:
    """A result without what a second run of it may change."""
    points = read_line(one.line())
    parts = [one.head(), *(points[kind] for kind in KINDS)]
    return [{key: value for key, value in part.items() if key not in OF_THE_RUN} for part in parts]


def _alike(one: Any, two: Any) -> bool:
    """To rounding: a trial's last digits depend on the pack that it ran in. Whole numbers are the same."""
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(_alike(one[key], two[key]) for key in one)
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(map(_alike, one, two))
    if isinstance(one, float) and isinstance(two, float) and not (one.is_integer() and two.is_integer()):
        return math.isclose(one, two, rel_tol=ROUNDING, abs_tol=1e-9)
    return bool(one == two)


def merge(out: Path, places: Sequence[Path]) -> dict[str, int]:
    """Write studies of one protocol as a new folder; by solver, how many trials it has."""
    if (out / NAME).exists() or (out / JOURNAL).exists():
        raise HarnessError(f"{out} holds a study already; give a new folder")
    spec, results = combined(places)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".merge-", dir=out.parent) as name:
        scratch = Path(name) / "study"
        scratch.mkdir()
        seals = Points(scratch).append([one.line() for one in results.values()])
        sealed = zip(results.items(), seals, strict=True)
        heads = {key: one.head() | {SEAL: seal} for (key, one), seal in sealed}
        trials = {solver: list(trials_of(spec, solver, heads, {})) for solver in spec.solvers}
        write_journal(scratch, spec, {solver: made for solver, made in trials.items() if made})
        spec.write(scratch)
        read_trials(scratch, spec)  # raises where a result of an exported file is not its trial's
        os.replace(scratch, out)
    return {solver: sum(trial.told for trial in made) for solver, made in trials.items()}


def load_together(place: Path, others: Sequence[Path]) -> Record:
    """The record of a folder or an exported file, with those of others of the same protocol; confirmed as
    the first is."""
    spec, results = combined([place, *others])
    found = record_of(spec, results)
    again = [load_record(folder) for folder in confirmations(place)]
    return dataclasses.replace(found, confirmations=again)
