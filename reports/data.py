"""The Parquet files of a report, and what their columns mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports.view import LEDGER, outcome

if TYPE_CHECKING:
    import pandas as pd

    from harness.record import Record

IDENTITY = {
    "solver": "name of the solver",
    "number": "number of the trial: configurations of one number are drawn from the same quantiles",
    "trial": "`SOLVER/NUMBER`, as reports and `harness replay` name it",
}
SAMPLES = {
    "seconds": "seconds of the search, on the worker, without the evaluation",
    "ledger.KIND": "samples used, by kind: "
    + ", ".join(f"`{kind.removeprefix('ledger.')}`" for kind in LEDGER),
    "ledger.total": "these at their prices: what the budget bounds",
}
TRIALS = {
    **IDENTITY,
    "label": "the solver as tables and figures name it",
    "problem": "name of the problem",
    "options": "the problem's options, as JSON",
    "budget": "samples that a trial may use, at the study's prices",
    "seed": "seed of mini-batches and initial points",
    "data_seed": "seed of the data split",
    "state": "`completed`, `diverged` or `failed`",
    "outcome": "the state, or `did not fit`: completed, but the first upper iteration exceeds the budget",
    "reason": "why the trial diverged or failed",
    "objective": "the score that trials are chosen by, lower is better; absent where the trial failed",
    "metric.NAME": "a metric of the final evaluation; study.json has its label and better direction",
    "param.NAME": "a parameter of the configuration, drawn, tied or fixed; absent where the solver has none",
    "upper_iterations": "upper iterations completed",
    "system_fallbacks": "solves of the linear system that were not finite and fell back to their start",
    "evaluation_samples": "samples of the final evaluation, outside the budget",
    "evaluation_seconds": "its seconds",
    "pack": "trials that ran together in the process",
    **SAMPLES,
}
CURVES = {
    **IDENTITY,
    "upper_iteration": "upper iterations completed at this point",
    "metric.NAME": "a cheap metric of the iterate; not always the final evaluation",
    **SAMPLES,
}
FILES = {
    "trials.parquet": ("A row for each recorded trial.", TRIALS),
    "curves.parquet": ("A row for each point along a trial (`harness run --curves`).", CURVES),
}


def described(column: str, meanings: dict[str, str]) -> bool:
    """Whether `meanings` has the column, by its name or, as `metric.NAME`, by what it begins with."""
    kinds = {key.partition(".")[0] for key in meanings if key[-1].isupper()}
    return column in meanings or ("." in column and column.partition(".")[0] in kinds)


def write_data(study: Record, folder: Path) -> None:
    """`trials.parquet` and `curves.parquet`: a file says what it is of without study.json."""
    spec: dict[str, Any] = study.spec
    trials = study.trials.assign(
        problem=spec["problem"],
        options=json.dumps(spec["options"], ensure_ascii=False),
        budget=spec["budget"],
    )
    if len(trials):
        trials["label"] = [spec["solvers"].get(name, {}).get("label", name) for name in trials["solver"]]
        trials["outcome"] = outcome(trials)
    _write(trials, folder / "trials.parquet")
    _write(study.curves, folder / "curves.parquet")


def _write(frame: pd.DataFrame, path: Path) -> None:
    """zstd; a column that mixes types (one solver's number, another's word) is written as text."""
    import pandas as pd

    objects = [c for c in frame.columns if frame[c].dtype == object]
    mixed = [c for c in objects if pd.api.types.infer_dtype(frame[c], skipna=True).startswith("mixed")]
    texts = {c: frame[c].map(str, na_action="ignore") for c in mixed}
    frame.assign(**texts).to_parquet(path, compression="zstd", index=False)
