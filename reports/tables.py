"""The tables of a report."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, fields
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from reports import pairwise, statistics, text
from reports.table import Column, Table
from reports.text import MISSING
from reports.view import FEWEST, LEDGER, MOST, TOP, View

LEVEL_OF_TESTS = 0.05
NEAR = 0.25
INTERVAL = ", with the exact (Clopper-Pearson) 95 % interval where the search is random"


def all_tables(view: View, top: int) -> list[Table]:
    """Every table of the report, in reading order."""
    first = [repricing(view)] if "repriced" in view.spec else []
    return [
        *first,
        best(view, top),
        pairs(view),
        targets(view),
        outcomes(view),
        configurations(view),
        sensitivity(view),
        ledger(view),
        spaces(view),
    ]


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
            row[f"{metric} averaged"] = int(np.isfinite(chosen[column]).sum())
        row["median"] = (
            float(np.median(statistics.failures_last(trials["objective"]))) if len(trials) else np.nan
        )
        rows.append({**row, "best_trial": behind[0] if behind else "", "top_trials": " ".join(behind)})
    data = pd.DataFrame(rows).sort_values(f"{view.objective} best", kind="stable", na_position="last")
    to_best = [f"trial-{trial}" if trial else "" for trial in data["best_trial"]]
    to_top = [
        f"behind-{solver}" if n else "" for solver, n in zip(data["solver"], data["averaged"], strict=True)
    ]
    shown = [_words("Solver", data["label"])]
    for metric in columns:
        best_of = data[f"{metric} best"]
        shown.append(_scores(f"{view.heading(metric)}, best", best_of, view.better(metric), to_best))
    for metric in columns:
        mean, std = data[f"{metric} mean"], data[f"{metric} std"]
        digits = text.decimals(mean)
        cells = [text.spread(m, s, digits) for m, s in zip(mean, std, strict=True)]
        shown.append(
            Column(
                f"{view.heading(metric)}, top {top}",
                cells,
                list(mean),
                _best(mean, view.better(metric)),
                to_top,
            )
        )
    shown.append(_scores(f"{view.heading(view.objective)}, median", data["median"], "lower", []))
    counts = data[[f"{metric} averaged" for metric in columns]].astype(str)
    used = ["/".join(dict.fromkeys(row)) for row in counts.to_numpy()]
    of = [f"{n} of {recorded}" for n, recorded in zip(used, data["trials"], strict=True)]
    shown += [Column("n", of, list(data["averaged"])), _words("Best trial", data["best_trial"], to_best)]
    caption = (
        f"Best trial and mean ± sample standard deviation of the {top} best trials (configurations) of every "
        f"solver, selected by {view.metric_label(view.objective)}, lower is better; reported: "
        f"{view.metric_label(view.headline)}, {view.better(view.headline)} is better; median: of all "
        "trials, failed ones worst. The ± is the spread of selected order statistics, as the papers print "
        "it, and no uncertainty of the mean or of the method. n: trials averaged, those without the number "
        "left out (a count for each metric where they differ), of the trials recorded. The winner is "
        f"praised for the numbers it was selected by. Rows by best objective, ties in the "
        f"study's order of solvers; bold: best of a column. {view.conditions}"
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
        _scores(view.heading(metric), chosen[column], view.better(metric), links)
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
    for name in view.parameters:
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
    recorded = [len(view.of_solver(solver)) for solver in view.solvers]
    counted = [int(view.of_solver(solver)["ledger.total"].notna().sum()) for solver in view.solvers]
    of = [f"{n} of {trials}" for n, trials in zip(counted, recorded, strict=True)]
    shown = [
        Column("Solver", [view.label(s) for s in view.solvers], [view.label(s) for s in view.solvers]),
        Column("n", of, counted),
        *(_numbers(heading, grouped[c], text.count) for c, heading in kinds.items() if grouped[c].any()),
        *(_numbers(heading, grouped[c], text.seconds) for c, heading in times.items()),
    ]
    caption = (
        "Mean samples of a trial by kind, their priced total, the samples of its final evaluation (outside "
        "the budget), and mean seconds, over the n trials that have a ledger (failed ones have none), of all "
        f"recorded. {_on_the_way(view)}{view.conditions}"
    )
    data = grouped.assign(trials=recorded, averaged=counted).reset_index()
    return Table("ledger", "Ledger", caption, shown, data)


def _on_the_way(view: View) -> str:
    if view.along != "evaluations":
        return ""
    samples = text.count(float(view.evaluations["evaluation_samples"].sum()))
    return f"Evaluations at shares of the budget took {samples} samples more in all. "


def outcomes(view: View) -> Table:
    """How trials ended, and what share of every search space runs, and beats the start."""
    start = view.start[view.objective]
    rows = []
    for solver in view.solvers:
        trials = view.of_solver(solver)
        begun = (trials["state"] == "completed") & (trials["upper_iterations"] > 0)
        at_start = view.at_start(trials)
        better = (trials["objective"] < start) & ~at_start
        states = {s: int((trials["state"] == s).sum()) for s in ("completed", "diverged", "failed")}
        rows.append(
            {
                "solver": view.label(solver),
                "trials": len(trials),
                **states,
                "did not fit": int(((trials["state"] == "completed") & ~begun).sum()),
                "with fallbacks": int((trials["system_fallbacks"] > 0).sum()),
                "at x0": int(at_start.sum()) if np.isfinite(start) else np.nan,
                **_share(view, "ran", int(begun.sum()), len(trials)),
                **_share(view, "beats x0", int(better.sum()) if np.isfinite(start) else None, len(trials)),
            }
        )
    data = pd.DataFrame(rows)
    counts = ["trials", "completed", "diverged", "failed", "did not fit", "with fallbacks", "at x0"]
    shown = [
        _words("Solver", data["solver"]),
        *(_numbers(c[0].upper() + c[1:], data[c], text.count) for c in counts),
        _shares("Ran", data, "ran"),
        _shares("Beats x0", data, "beats x0", bold=True),
    ]
    scored = (
        f"x0 scores {text.parameter(start)} in {view.metric_label(view.objective)}"
        if np.isfinite(start)
        else "the score of x0 was not recorded (harness run --evaluate-at records it)"
    )
    caption = (
        "Outcomes of all trials. Completed includes the trials whose first upper iteration did not fit the "
        "budget (output x0). With fallbacks: the linear system failed at least once. At x0: the trial scores "
        "what x0 scores, because it never moved or moved to no effect. Ran: completed with at least one "
        f"upper iteration, which says nothing of how well. Beats x0: a better objective than the start; "
        f"{scored}. Shares of all trials, failed ones included, with the exact (Clopper-Pearson) 95 % "
        f"interval; bold: largest. {view.conditions}"
    )
    return Table("outcomes", "Outcomes", caption, shown, data)


def repricing(view: View) -> Table:
    """Of a study at other prices, which trials can be judged."""
    told = view.spec["repriced"]
    data = pd.DataFrame([{"solver": solver, **told[solver]} for solver in view.solvers])
    kinds = [kind for kind in map(str, data) if kind not in ("solver", "trials")]
    shown = [_words("Solver", data["solver"].map(view.label)), _numbers("Trials", data["trials"], text.count)]
    shown += [_numbers(kind[0].upper() + kind[1:], data[kind], text.count) for kind in kinds]
    caption = (
        "The study at other prices than it was run with; every other table and figure is of the judged "
        "trials only, at their last upper iteration that the budget pays for. They are no random sample: "
        "which trials can be judged depends on what they cost, so solvers of which few can be are not to be "
        "ranked. Ended too early: the budget is not used up, and what the trial would have done with the "
        "rest is not known. Not judged there: it would have ended between two points at which x was judged "
        f"(harness run --evaluate-at adds such points). {view.conditions}"
    )
    return Table("repricing", "At other prices", caption, shown, data)


def pairs(view: View) -> Table:
    """Every solver against every other one, over all configurations."""
    there = [s for s in view.solvers if len(view.of_solver(s))]
    rows = []
    for one, other in combinations(there, 2):
        a, b = (view.of_solver(s).set_index("number")["objective"] for s in (one, other))
        if view.paired:
            common = a.index.intersection(b.index)
            a, b = a.loc[common], b.loc[common]
        rows.append({"a": one, "b": other, **asdict(pairwise.compare(a, b, view.paired))})
    names = ["a", "b", *(field.name for field in fields(pairwise.Comparison))]
    data = pd.DataFrame(rows, columns=names)
    data["p_holm"] = pairwise.holm(list(data["p"]))
    cells = {(row["a"], row["b"]): row for row in data.to_dict("records")}
    digits = text.decimals(data["difference"])
    shown = [Column("Solver", [view.label(s) for s in there] or [MISSING], there or [""])]
    for other in there[1:]:
        column = [_versus(cells.get((one, other)), digits) for one in there]
        shown.append(Column(view.label(other), column, column))
    test = "Wilcoxon's signed ranks" if view.paired else "Mann and Whitney's rank sums"
    caption = (
        "Row against column over all configurations, not the tuned best: the chance that a trial of the row "
        f"has the better {view.metric_label(view.objective)} than one of the column (ties half; failed "
        f"trials worst), and the median of "
        f"{'their differences' if view.paired else 'row less that of column'}, negative where the row is "
        f"better. *: p < 0.05, by {test} after Holm's correction for {len(data)} tests. The CSV has n, p "
        "and the exact 95 % interval of the median difference. "
        + (
            "Differences are taken trial by trial: the draws are common. "
            if view.paired
            else "Trials of two solvers are not paired in this search. "
        )
        + view.conditions
    )
    return Table("pairs", "Solver against solver", caption, shown, data)


def _versus(row: dict[Hashable, Any] | None, digits: int) -> str:
    if row is None or not row["n"]:
        return MISSING
    gap = text.score(row["difference"], digits).replace("-", "−")
    return f"{row['superiority']:.2f}, {gap}{'*' if row['p_holm'] < LEVEL_OF_TESTS else ''}"


def targets(view: View) -> Table:
    """Expected samples of a search with restarts to reach a target."""
    goals = view.targets
    column = f"metric.{view.objective}"
    rows = []
    for solver in view.solvers:
        points = view.judged[solver]
        for goal in goals:
            used, reached = statistics.samples_to_target(points, column, goal)
            needed = statistics.expected_running_time(used, reached)
            row = {"solver": solver, "target": goal, "trials": used.size, "reached": int(reached.sum())}
            rows.append({**row, "expected_samples": needed})
    data = pd.DataFrame(rows, columns=["solver", "target", "trials", "reached", "expected_samples"])
    shown = [Column("Solver", [view.label(s) for s in view.solvers], view.solvers)]
    digits = text.decimals(goals)
    for goal in goals:
        part = data[data["target"] == goal]
        cells = [
            f"{text.scientific(needed)} ({hits} of {n})"
            for needed, hits, n in zip(part["expected_samples"], part["reached"], part["trials"], strict=True)
        ]
        best = _best(part["expected_samples"], "lower")
        heading = f"{view.short(view.objective)} ≤ {text.score(goal, digits)}"
        shown.append(Column(heading, cells, list(part["expected_samples"]), best))
    caption = (
        "Expected running time: samples of the search that trials of a solver, one after the other until "
        f"one is there, need on average to bring {view.metric_label(view.objective)} to a target (all "
        "samples used over the trials that reached it); in brackets those trials, of all that did not fail. "
        f"Targets: {view.chosen}. {view.standing} Evaluations are not counted. Bold: least. {view.conditions}"
    )
    return Table("targets", "Samples to a target", caption, shown, data)


def sensitivity(view: View) -> Table:
    """Which parameters decide, and how much of the space is nearly as good as the best."""
    best, near = _near(view)
    winner = view.trials["objective"].idxmin() if np.isfinite(best) else None
    names = [name for name in view.parameters if any(name in view.searched(s) for s in view.solvers)]
    rows = []
    for solver in view.solvers:
        trials = view.draws(solver)
        usable = trials[np.isfinite(trials["objective"])]
        others = trials.drop(index=winner) if winner in trials.index else trials
        within = int((others["objective"] <= near).sum()) if np.isfinite(near) else None
        share = _share(view, "near", within, len(others))
        rows.append({"solver": solver, "trials": len(usable), **share, **view.importances[solver]})
    data = pd.DataFrame(rows).reindex(columns=["solver", "trials", "near", "near low", "near high", *names])
    shown = [
        _words("Solver", data["solver"].map(view.label)),
        _numbers("n", data["trials"], text.count),
        _shares("Near the best", data, "near", bold=True),
        *(
            _numbers(view.symbol(name), data[name], lambda v: f"{v:.0%}" if np.isfinite(v) else MISSING)
            for name in names
        ),
    ]
    caption = (
        f"Near the best: share of a solver's drawn configurations whose {view.metric_label(view.objective)} "
        f"is at most {text.parameter(near)} (the study's best and a quarter of its distance to the study's "
        f"median; the best trial itself left out){INTERVAL}; bold: largest. Then the importance of each "
        f"searched parameter: its share in what tells the best trials (a tenth, and {TOP} at least) from "
        f"all (PED-ANOVA, Optuna), over the n drawn trials with a finite objective, the first {MOST} of "
        f"more, where there are {FEWEST}; a description of these trials, without an interval"
        f"{'; ' + view.legend if view.legend else ''}. {view.conditions}"
    )
    return Table("sensitivity", "Sensitivity", caption, shown, data)


def _near(view: View) -> tuple[float, float]:
    """The best objective of the study, and what is near it."""
    every = statistics.failures_last(view.trials["objective"])
    if not np.isfinite(every).any():
        return np.inf, np.nan
    best, middle = float(every.min()), float(np.quantile(every, 0.5, method="inverted_cdf"))
    return best, best + NEAR * (middle - best)


def _share(view: View, name: str, successes: int | None, trials: int) -> dict[str, float]:
    """A share, and its exact interval where trials are independent draws."""
    if successes is None or not trials:
        return {name: np.nan, f"{name} low": np.nan, f"{name} high": np.nan}
    low, high = statistics.clopper_pearson(successes, trials) if view.independent else (np.nan, np.nan)
    return {name: successes / trials, f"{name} low": low, f"{name} high": high}


def _interval(share: float, low: float, high: float) -> str:
    if not np.isfinite(share):
        return MISSING
    return f"{share:.0%} [{low:.0%}, {high:.0%}]" if np.isfinite(low) else f"{share:.0%}"


def _shares(heading: str, data: pd.DataFrame, name: str, *, bold: bool = False) -> Column:
    columns = (data[name], data[f"{name} low"], data[f"{name} high"])
    cells = [_interval(*row) for row in zip(*columns, strict=True)]
    return Column(heading, cells, list(data[name]), _best(data[name], "higher") if bold else ())


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
