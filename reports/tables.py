"""The tables of a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from reports import statistics, text
from reports.formats import Column, Table
from reports.text import MISSING
from reports.view import LEDGER, View


def all_tables(view: View, top: int) -> list[Table]:
    """Every table of the report, in reading order."""
    return [best(view, top), configurations(view), outcomes(view), ledger(view), spaces(view)]


def best(view: View, top: int) -> Table:
    """Per solver the best trial and the `top` best, selected by the objective; the paper's Table 3."""
    columns = {view.headline: f"metric.{view.headline}"} | {view.objective: "objective"}
    rows = []
    for solver in view.solvers:
        trials, chosen = view.of_solver(solver), statistics.top(view.of_solver(solver), top)
        behind = [str(trial) for trial in chosen["trial"]]
        row = {"solver": solver, "label": view.label(solver), "trials": len(trials), "averaged": len(chosen)}
        for metric, column in columns.items():
            row[f"{metric} best"] = float(chosen[column].iloc[0]) if behind else np.nan
            row[f"{metric} mean"], row[f"{metric} std"] = statistics.mean_std(chosen[column])
        rows.append({**row, "best_trial": behind[0] if behind else "", "top_trials": " ".join(behind)})
    data = pd.DataFrame(rows).sort_values(f"{view.objective} best", kind="stable", na_position="last")
    to_best = [f"trial-{trial}" if trial else "" for trial in data["best_trial"]]
    to_top = [
        f"behind-{solver}" if n else "" for solver, n in zip(data["solver"], data["averaged"], strict=True)
    ]
    shown = [_words("Solver", data["label"])]
    for metric in columns:
        best_of = data[f"{metric} best"]
        shown.append(_scores(f"{view.short(metric)}, best", best_of, view.better(metric), to_best))
    for metric in columns:
        mean, std = data[f"{metric} mean"], data[f"{metric} std"]
        digits = text.decimals(mean)
        cells = [text.spread(m, s, digits) for m, s in zip(mean, std, strict=True)]
        shown.append(
            Column(
                f"{view.short(metric)}, top {top}",
                cells,
                list(mean),
                _best(mean, view.better(metric)),
                to_top,
            )
        )
    of = [f"{used} of {recorded}" for used, recorded in zip(data["averaged"], data["trials"], strict=True)]
    shown += [Column("n", of, list(data["averaged"])), _words("Best trial", data["best_trial"], to_best)]
    caption = (
        f"Best trial and mean ± sample standard deviation of the {top} best trials of every solver, "
        f"selected by {view.metric_label(view.objective)}, lower is better; reported: "
        f"{view.metric_label(view.headline)}, {view.better(view.headline)} is better. n: trials averaged, of "
        "the trials recorded. Rows by best objective, ties in the study's order of solvers; bold: best of a "
        f"column. {view.conditions}"
    )
    behind_rows = {str(row["solver"]): str(row["top_trials"]).split() for _, row in data.iterrows()}
    return Table("best", "Best trials", caption, shown, data, behind_rows)


def configurations(view: View) -> Table:
    """The configuration of every solver's best trial; the paper's Table 4."""
    best_trials = [statistics.top(view.of_solver(solver), 1) for solver in view.solvers]
    chosen = pd.concat(best_trials).sort_values("objective", kind="stable")
    per_iteration = chosen["ledger.total"] / chosen["upper_iterations"].where(chosen["upper_iterations"] > 0)
    links = [f"trial-{trial}" for trial in chosen["trial"]]
    shown = [_words("Solver", chosen["solver"].map(view.label))]
    for name in view.parameters:
        values = view.values(chosen, name)
        if any(value is not None for value in values):
            shown.append(Column(view.symbol(name), [text.parameter(value) for value in values], values))
    shown.append(_numbers("Samples per iteration", per_iteration, text.count))
    shown.append(_numbers("Iterations", chosen["upper_iterations"], text.count))
    scores = {view.headline: f"metric.{view.headline}"} | {view.objective: "objective"}
    shown += [
        _scores(view.short(metric), chosen[column], view.better(metric), links)
        for metric, column in scores.items()
    ]
    shown.append(_words("Trial", chosen["trial"], links))
    caption = (
        "Configuration of the best trial of every solver by "
        f"{view.metric_label(view.objective)}{'; ' + view.legend if view.legend else ''}; samples per "
        f"iteration: the ledger's total over the upper iterations completed. {view.conditions}"
    )
    data = chosen.assign(samples_per_iteration=per_iteration).dropna(axis="columns", how="all")
    return Table("configurations", "Best configurations", caption, shown, data)


def spaces(view: View) -> Table:
    """The search spaces as they were run; the paper's Table 2."""
    shown = [Column("Solver", [view.label(s) for s in view.solvers], [view.label(s) for s in view.solvers])]
    data = pd.DataFrame({"solver": view.solvers})
    for name in dict.fromkeys(name for solver in view.solvers for name in view.space(solver)):
        cells = [view.drawn_from(solver, name, view.symbol) for solver in view.solvers]
        shown.append(Column(view.symbol(name), cells, cells))
        data[name] = [view.drawn_from(solver, name) for solver in view.solvers]
    caption = (
        f"Search spaces as run{'; ' + view.legend if view.legend else ''}. log: log-uniform; = : tied to "
        f"another parameter; a single value is fixed; {MISSING}: not a parameter of the solver. "
        f"{view.conditions}"
    )
    return Table("spaces", "Search spaces", caption, shown, data)


def ledger(view: View) -> Table:
    """Mean samples and seconds of a trial by solver, the evaluation's beside them."""
    kinds = {**LEDGER, "ledger.total": "total (priced)", "evaluation_samples": "evaluation"}
    times = {"seconds": "search, s", "evaluation_seconds": "evaluation, s"}
    grouped = view.trials.groupby("solver")[[*kinds, *times]].mean().reindex(view.solvers)
    numbers = [len(view.of_solver(solver)) for solver in view.solvers]
    shown = [
        Column("Solver", [view.label(s) for s in view.solvers], [view.label(s) for s in view.solvers]),
        Column("Trials", [str(n) for n in numbers], numbers),
        *(_numbers(heading, grouped[c], text.count) for c, heading in kinds.items()),
        *(_numbers(heading, grouped[c], text.seconds) for c, heading in times.items()),
    ]
    caption = (
        "Mean samples of a trial by kind, their priced total, the samples of its evaluation (outside the "
        f"budget), and mean seconds, over all recorded trials. {view.conditions}"
    )
    return Table("ledger", "Ledger", caption, shown, grouped.assign(trials=numbers).reset_index())


def outcomes(view: View) -> Table:
    """How trials ended, and the share of every search space that works."""
    rows = []
    for solver in view.solvers:
        trials = view.of_solver(solver)
        begun = (trials["state"] == "completed") & (trials["upper_iterations"] > 0)
        low, high = statistics.clopper_pearson(int(begun.sum()), len(trials))
        rows.append(
            {
                "solver": view.label(solver),
                "trials": len(trials),
                **{
                    state: int((trials["state"] == state).sum())
                    for state in ("completed", "diverged", "failed")
                },
                "did not fit": int(((trials["state"] == "completed") & ~begun).sum()),
                "with fallbacks": int((trials["system_fallbacks"] > 0).sum()),
                "works": begun.mean() if len(trials) else np.nan,
                "works low": low,
                "works high": high,
            }
        )
    data = pd.DataFrame(rows)
    counts = ["trials", "completed", "diverged", "failed", "did not fit", "with fallbacks"]
    share = [
        f"{w:.0%} [{low:.0%}, {high:.0%}]" if np.isfinite(w) else MISSING
        for w, low, high in zip(data["works"], data["works low"], data["works high"], strict=True)
    ]
    shown = [
        _words("Solver", data["solver"]),
        *(_numbers(c.capitalize(), data[c], text.count) for c in counts),
        Column("Share that works", share, list(data["works"]), _best(data["works"], "higher")),
    ]
    caption = (
        "Outcomes of all trials. Completed includes the trials whose first upper iteration did not fit the "
        "budget (output x0). With fallbacks: trials in which the linear system failed at least once. Share "
        "that works: trials completed with at least one upper iteration, of all trials, with the exact "
        f"(Clopper-Pearson) 95 % interval; bold: largest. {view.conditions}"
    )
    return Table("outcomes", "Outcomes", caption, shown, data)


def _best(values: pd.Series[float], better: str) -> list[bool]:
    return list(np.isfinite(values) & (values == (values.min() if better == "lower" else values.max())))


def _words(heading: str, values: pd.Series[str], links: Sequence[str] = ()) -> Column:
    return Column(heading, [str(v) or MISSING for v in values], list(values), links=links)


def _scores(heading: str, values: pd.Series[float], better: str, links: Sequence[str]) -> Column:
    digits = text.decimals(values)
    cells = [text.score(float(value), digits) for value in values]
    return Column(heading, cells, list(values), _best(values, better), links)


def _numbers(heading: str, values: pd.Series[float], show: Callable[[float], str]) -> Column:
    return Column(heading, [show(float(value)) for value in values], list(values))
