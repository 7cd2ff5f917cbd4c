"""A recorded study as the reports read it: solvers in order, labels, and every expected column present."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from reports import statistics
from reports.text import MISSING, bound, count, greek, parameter, plain

if TYPE_CHECKING:
    from harness.record import Record

LEDGER = {
    "ledger.lower_gradient": "lower gradient",
    "ledger.upper_gradient": "upper gradient",
    "ledger.hessian_vector": "Hessian-vector",
    "ledger.cross": "cross",
    "ledger.value": "value",
}
_NUMBERS = (
    *("objective", "upper_iterations", "system_fallbacks", "seconds", "evaluation_seconds"),
    *("evaluation_samples", *LEDGER, "ledger.total"),
)


ALONG = {
    "evaluations": "measured by the final protocol at shares of the budget",
    "curves": "the cheap metrics of the curves: at the end of every trial they equal its final evaluation",
    "": "not drawn: the cheap metrics of the curves are not this problem's final evaluation (they judge the "
    "lower variable of the moment); harness run --evaluate-at 0.05,0.2,0.5 measures what they only suggest",
}
DECADES = 1e3
"""Of an axis: beyond that it is logarithmic, and so many times the usual spread are beyond any axis."""
LONGEST_LABEL = 48
TOP, FEWEST, MOST = 10, 20, 2000
"""The best trials that an importance rests on at least, the trials that it needs, and those that it takes:
the first of independent draws are as good as any."""


@dataclass(frozen=True)
class View:
    """`trials` and `curves` are copies in order of solver and number, with the columns reports rely on.

    judged: by solver, points of its trials by number, scored by the final protocol: the output of every trial
    and, where `along` says "evaluations" or "curves", points on the way there; with the ledger by kind where
    it is asked for. start: x0's score by metric. given: targets of the objective; none: chosen from the data.
    """

    spec: dict[str, Any]
    solvers: list[str]
    trials: pd.DataFrame
    curves: pd.DataFrame
    evaluations: pd.DataFrame
    judged: dict[str, pd.DataFrame]
    along: str
    start: dict[str, float]
    given: tuple[float, ...] = ()

    @classmethod
    def of(cls, study: Record, kinds: bool = False, targets: Sequence[float] = ()) -> View:
        """Complete what a partial study lacks: absent columns become missing values, never errors."""
        scores = list(dict.fromkeys(f"metric.{study.spec[role]}" for role in ("objective", "headline")))
        spaces = [entry.get("space", {}) for entry in study.spec["solvers"].values()]
        drawn = [f"param.{name}" for space in spaces for name in space]
        words = ["solver", "number", "trial", "state", "reason", *drawn]
        trials = _with_columns(study.trials, words, [*_NUMBERS, *scores])
        curves = _with_columns(
            study.curves, ["solver", "number", "trial"], ["upper_iteration", "ledger.total", *scores]
        )
        declared = list(study.spec["solvers"])
        solvers = declared + sorted(set(trials["solver"]) - set(declared))
        trials["reason"] = trials["reason"].fillna("").astype(str)
        rank = {solver: place for place, solver in enumerate(solvers)}
        trials["_rank"] = trials["solver"].map(rank)
        trials = (
            trials.sort_values(["_rank", "number"], kind="stable")
            .drop(columns="_rank")
            .reset_index(drop=True)
        )
        evaluations = _with_columns(
            study.evaluations,
            ["solver", "number", "trial"],
            ["upper_iteration", "evaluation_samples", *LEDGER, "ledger.total", *scores],
        )
        along = "evaluations" if len(evaluations) else "curves" if _alike(trials, curves, scores) else ""
        points = {"evaluations": evaluations, "curves": curves, "": curves.head(0)}[along]
        costs = [*(LEDGER if kinds else ()), "ledger.total", "seconds"]
        judged = {solver: _judged(solver, trials, points, costs, scores) for solver in solvers}
        return cls(
            study.spec,
            solvers,
            trials,
            curves,
            evaluations,
            judged,
            along,
            _start(study.spec, trials, judged, scores),
            tuple(targets),
        )

    def foremost(self, most: int) -> View:
        """The same with no more than so many solvers: those whose best trial is best, in their order."""
        if len(self.solvers) <= most:
            return self  # and all that it has worked out
        best = [self.of_solver(solver)["objective"].min() for solver in self.solvers]
        ahead = np.argsort(statistics.failures_last(best), kind="stable")[:most]
        return replace(self, solvers=[self.solvers[place] for place in sorted(ahead)])

    @property
    def objective(self) -> str:
        return str(self.spec["objective"])

    @property
    def headline(self) -> str:
        return str(self.spec["headline"])

    def at_start(self, trials: pd.DataFrame) -> pd.Series[bool]:
        """Which trials score what x0 scores: outputs that never moved, or no better for it."""
        return pd.Series(np.isclose(trials["objective"], self.start[self.objective], rtol=1e-9), trials.index)

    @property
    def targets(self) -> list[float]:
        """Of the objective, easy to hard."""
        if self.given:
            return sorted(set(self.given), reverse=True)
        return statistics.targets(self.trials["objective"], self.start[self.objective])

    @property
    def chosen(self) -> str:
        """Where the targets come from, for captions."""
        if self.given:
            return "as they were given"
        return "quantiles 0.5, 0.25 and 0.1, below the score of x0, of all trials of the study"

    @cached_property
    def grid(self) -> statistics.Floats:
        """Budgets at which trials can be judged."""
        budget = float(self.spec["budget"])
        if self.along == "evaluations":
            return np.array([share * budget for share in self.spec["evaluate_at"]] + [budget])
        totals = [points[["ledger.total"]] for points in self.judged.values()]
        return statistics.sample_grid(pd.concat(totals), budget)

    def draws(self, solver: str) -> pd.DataFrame:
        """The trials of `solver` that were drawn at random, in their order: not a published configuration."""
        given = bool(self.spec["solvers"].get(solver, {}).get("published"))
        trials = self.of_solver(solver)
        return trials[trials["number"] > 0] if given else trials

    @cached_property
    def expected_best(self) -> dict[str, statistics.Floats]:
        """By solver: unbiased mean of the best of n draws, n of `statistics.effort_grid`."""
        drawn = {solver: self.draws(solver)["objective"] for solver in self.solvers}
        return {
            solver: statistics.best_of_n_mean(values, statistics.effort_grid(len(values)))
            for solver, values in drawn.items()
            if len(values)
        }

    @cached_property
    def importances(self) -> dict[str, dict[str, float]]:
        """By solver, of its searched parameters; nothing where too few trials have a score, or too many the
        same one."""
        from harness.importance import importances

        found: dict[str, dict[str, float]] = {solver: {} for solver in self.solvers}
        for solver in self.solvers:
            names, trials = self.searched(solver), self.draws(solver)
            trials = trials[np.isfinite(trials["objective"])].head(MOST)
            drawn = trials.reindex(columns=[f"param.{name}" for name in names])
            if len(trials) >= FEWEST and drawn.notna().to_numpy().all():
                configurations = [dict(zip(names, v, strict=True)) for v in drawn.itertuples(index=False)]
                best = max(0.1, TOP / len(trials))
                objectives = list(trials["objective"])
                found[solver] = importances(self.space(solver), configurations, objectives, best)
        return found

    @property
    def independent(self) -> bool:
        """Whether the configurations of a solver are independent draws of its search space. What can be
        judged at other prices is a selection of them."""
        return bool(self.spec["sampler"] == "random" and "repriced" not in self.spec)

    @property
    def paired(self) -> bool:
        """Whether trial i of every solver has the same quantile of a parameter of the same name."""
        return self.spec["sampler"] in ("random", "sobol")

    def of_solver(self, solver: str) -> pd.DataFrame:
        return self.trials[self.trials["solver"] == solver]

    def label(self, solver: str) -> str:
        return plain(str(self.spec["solvers"].get(solver, {}).get("label", solver)), LONGEST_LABEL)

    def metric_label(self, metric: str) -> str:
        return plain(str(self.spec["metrics"].get(metric, {}).get("label", metric)), LONGEST_LABEL)

    def short(self, metric: str) -> str:
        return plain(str(self.spec["metrics"].get(metric, {}).get("short", metric)), LONGEST_LABEL)

    def arrow(self, metric: str) -> str:
        """The better direction."""
        return "↑" if self.better(metric) == "higher" else "↓"

    def axis(self, metric: str) -> str:
        """The label of an axis."""
        return f"{self.metric_label(metric)} {self.arrow(metric)}"

    def heading(self, metric: str) -> str:
        """The head of a column."""
        return f"{self.short(metric)} {self.arrow(metric)}"

    def better(self, metric: str) -> str:
        """ "lower" or "higher"."""
        return str(self.spec["metrics"].get(metric, {}).get("better", "lower"))

    def scale(self, metric: str) -> str:
        """The scale of an axis: "log" where the metric is positive throughout and covers three decades."""
        values = [frame[f"metric.{metric}"].to_numpy(dtype=float) for frame in (self.trials, self.curves)]
        finite = np.concatenate(values)[np.isfinite(np.concatenate(values))]
        wide = len(finite) > 0 and finite.min() > 0 and finite.max() > DECADES * finite.min()
        return "log" if wide else "linear"

    def ceiling(self, metric: str) -> float:
        """Up to where figures show a metric: the upper quartile of all trials and a thousand times its
        distance from the best. What is beyond has escaped, and would leave the rest a line at the bottom."""
        values = self.trials[f"metric.{metric}"].to_numpy(dtype=float)
        finite = values[np.isfinite(values)]
        if not finite.size or self.better(metric) == "higher":
            return np.inf
        best, quartile = np.quantile(finite, [0, 0.75], method="inverted_cdf")
        return float(quartile + DECADES * (quartile - best)) if quartile > best else np.inf

    def on_axis(self, metric: str, values: ArrayLike) -> statistics.Floats:
        """`values` of a metric, NaN where they are beyond its ceiling."""
        found = np.array(values, dtype=float)
        found[found > self.ceiling(metric)] = np.nan
        return found

    def space(self, solver: str) -> dict[str, dict[str, Any]]:
        return dict(self.spec["solvers"].get(solver, {}).get("space", {}))

    def drawn_from(self, solver: str, name: str, word: Callable[[str], str] = str) -> str:
        """Where `solver` takes a parameter from: a range, a tie (`word` says the other's name), a value."""
        entry = self.space(solver).get(name, {})
        match entry:
            case {"low": low, "high": high}:
                kinds = ", ".join(flag for flag in ("log", "integer") if entry.get(flag))
                return f"[{bound(low)}, {bound(high)}] {kinds}".strip()
            case {"tie": other}:
                return f"= {word(other)}"
            case {"value": value}:
                return parameter(value)
        return ", ".join(f"{key} {value}" for key, value in entry.items()) or MISSING

    def searched(self, solver: str) -> list[str]:
        """The parameters of `solver` that are drawn from a range or from choices."""
        return [name for name, entry in self.space(solver).items() if {"low", "choices"} & set(entry)]

    def drawn_on_log(self, solver: str, name: str) -> bool:
        """Whether a parameter is drawn from a log-uniform range, or from choices over more than a decade."""
        entry = self.space(solver)[name]
        choices = entry.get("choices", [])
        wide = len(choices) > 0 and min(choices) > 0 and max(choices) > 10 * min(choices)
        return bool(entry.get("log", wide))

    def values(self, trials: pd.DataFrame, name: str) -> list[Any]:
        """A parameter's values, None where a solver has no such parameter."""
        column = trials.get(f"param.{name}")
        return [None] * len(trials) if column is None else [None if pd.isna(v) else v for v in column]

    @property
    def parameters(self) -> list[str]:
        """Every parameter of every solver that is to be shown, in the order the spaces first name them."""
        named = [name for solver in self.solvers for name in self.space(solver)]
        recorded = [c.removeprefix("param.") for c in self.trials.columns if c.startswith("param.")]
        chosen = self.spec.get("params", [])
        return [name for name in dict.fromkeys(named + recorded) if name in chosen or not chosen]

    def symbol(self, name: str) -> str:
        """The papers' symbol of a parameter, which most solvers of the study give it, unless that is another
        parameter's too; then, and without one, its name."""
        found = self._symbols.get(name, name)
        return name if list(self._symbols.values()).count(found) > 1 else found

    @cached_property
    def _symbols(self) -> dict[str, str]:
        given: dict[str, Counter[str]] = {}
        for entry in self.spec["solvers"].values():
            for name, told in entry.get("parameters", {}).items():
                if told.get("symbol"):
                    given.setdefault(name, Counter())[greek(plain(str(told["symbol"]), LONGEST_LABEL))] += 1
        return {name: symbols.most_common(1)[0][0] for name, symbols in given.items()}

    @property
    def legend(self) -> str:
        """`t = lower_steps, ...` for the parameters that are shown by a symbol."""
        shown = {self.symbol(name): name for name in self.parameters if self.symbol(name) != name}
        return ", ".join(f"{symbol} = {name}" for symbol, name in shown.items())

    @property
    def problem(self) -> str:
        options = ", ".join(f"{name} {parameter(value)}" for name, value in self.spec["options"].items())
        return f"{self.spec['problem']} ({options})" if options else str(self.spec["problem"])

    @property
    def divergence(self) -> str:
        rule = str(self.spec["divergence"])
        return (
            "a diverged trial gets the score of the start x0" if rule == "x0" else f"divergence rule {rule}"
        )

    @property
    def drawn(self) -> str:
        """How configurations were drawn, and what trials of two solvers have in common."""
        if self.paired:
            return (
                f"{self.spec['sampler']} search, common draws: trial i of every solver has the same "
                "quantile of a parameter of one name"
            )
        return f"{self.spec['sampler']} search"

    @property
    def standing(self) -> str:
        """Where a trial is judged, for captions."""
        if not self.along:
            return "Trials are judged at their end only, by the final evaluation: each costs all its samples."
        if self.along == "evaluations":
            shares = ", ".join(parameter(share) for share in self.spec["evaluate_at"])
            where = f"judged by the final evaluation at the shares {shares} of the budget"
        else:
            where = "at the points of its curve, whose metrics are those of the final evaluation"
        return (
            f"Every trial stands where it would have ended, {where}: at x0 before its first upper "
            "iteration, and once it has diverged at what the rule says."
        )

    @property
    def conditions(self) -> str:
        """What stands behind every number, for captions."""
        left_out = ", ".join(plain(label, LONGEST_LABEL) for label in self.spec.get("left_out", []))
        recorded = [len(self.of_solver(solver)) for solver in self.solvers]
        planned = self.spec["trials"]
        partial = min(recorded, default=0) < planned
        progress = (
            f" planned, {min(recorded, default=0)} to {max(recorded, default=0)} recorded" if partial else ""
        )
        seeds = ", ".join(
            f"{key.replace('_', ' ')} {self.spec[key]}" for key in ("seed", "data_seed", "search_seed")
        )
        every = len({*self.spec["solvers"], *self.trials["solver"]})
        shown = f" Shown: the {len(self.solvers)} solvers of {every} whose best trial is best."
        return (
            f"Problem {self.problem}; budget {count(self.spec['budget'])} samples per trial; {planned} trials"
            f"{progress} per solver ({self.drawn}), one run each; {seeds}; {self.divergence}."
            f"{f' Left out: {left_out}.' if left_out else ''}{shown if len(self.solvers) < every else ''}"
        )

    @property
    def _distinct(self) -> str:
        """The draws, with the number of distinct values of each searched parameter."""
        names = {name: None for solver in self.solvers for name in self.searched(solver)}
        counts = [
            f"{self.trials[f'param.{name}'].nunique()} of {name}"
            for name in names
            if f"param.{name}" in self.trials.columns
        ]
        return f"{self.drawn}; distinct values in {len(self.trials)} trials: {', '.join(counts) or 'none'}"

    @property
    def _score_of_start(self) -> str:
        value = self.start[self.objective]
        if not np.isfinite(value):
            return "not recorded (harness run --evaluate-at records it)"
        return f"{self.metric_label(self.objective)} {parameter(value)}"

    @property
    def facts(self) -> dict[str, str]:
        """What the head of a page states about the study."""
        prices = ", ".join(
            f"{kind.replace('_', ' ')} {parameter(p)}" for kind, p in self.spec["prices"].items()
        )
        spent, evaluated = self.trials["ledger.total"].sum(), self.trials["evaluation_samples"].sum()
        states = [f"{n} {state}" for state, n in self.trials["state"].value_counts().items()]
        recorded = ", ".join(states) or "none"
        seeds = {"study": "seed", "data": "data_seed", "search": "search_seed"}
        told = {
            "problem": self.problem,
            "budget": f"{count(self.spec['budget'])} samples per trial",
            "prices": prices,
            "trials": f"{self.spec['trials']} per solver",
            "draws": self._distinct,
            "recorded": f"{len(self.trials)} ({recorded})",
            "selected by": f"{self.metric_label(self.objective)}, lower is better",
            "reported": self.metric_label(self.headline),
            "seeds": ", ".join(f"{role} {self.spec[key]}" for role, key in seeds.items()),
            "score of x0": self._score_of_start,
            "along the budget": ALONG[self.along],
            "divergence": self.divergence,
            "system failure": str(self.spec["system_failure"]),
            "spent": f"{count(float(spent))} samples in trials",
            "evaluations": f"{count(float(evaluated))} samples, free of charge",
        }
        versions = self.spec.get("versions", {})
        if versions:
            told["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
        return told


def outcome(trials: pd.DataFrame) -> pd.Series[str]:
    """The state, with the completed trials whose first iteration did not fit the budget set apart."""
    still = (trials["state"] == "completed") & (trials["upper_iterations"] == 0)
    return trials["state"].where(~still, "did not fit")


def _alike(trials: pd.DataFrame, curves: pd.DataFrame, scores: list[str]) -> bool:
    """Whether the last point of every completed trial's curve is its final evaluation."""
    completed = trials[(trials["state"] == "completed") & (trials["upper_iterations"] > 0)].set_index("trial")
    points = curves[["trial", "upper_iteration", *scores]].sort_values("upper_iteration", kind="stable")
    last = points.groupby("trial")[scores].last()
    both = completed.index.intersection(last.index)
    final, logged = (frame.loc[both, scores].to_numpy(dtype=float) for frame in (completed, last))
    return len(both) > 0 and bool(np.allclose(final, logged, rtol=1e-3, atol=0))


def _judged(
    solver: str, trials: pd.DataFrame, points: pd.DataFrame, costs: list[str], scores: list[str]
) -> pd.DataFrame:
    """The solver's `points`, and behind them the outputs of all its trials that have one."""
    columns = ["number", "upper_iteration", *costs, *scores]
    points = points.reindex(columns=columns)[points["solver"] == solver]
    outputs = trials[(trials["solver"] == solver) & (trials["state"] != "failed")].rename(
        columns={"upper_iterations": "upper_iteration"}
    )
    outputs = outputs.assign(**{scores[0]: outputs["objective"]})
    both = [frame.reindex(columns=columns) for frame in (points, outputs) if len(frame)]
    return pd.concat(both, ignore_index=True) if both else outputs.reindex(columns=columns)


def _start(
    spec: dict[str, Any], trials: pd.DataFrame, judged: dict[str, pd.DataFrame], scores: list[str]
) -> dict[str, float]:
    """The score of x0, as trials have it that were scored there or judged before their first iteration."""
    stayed = trials["upper_iterations"] == 0
    if spec["divergence"] == "x0":
        stayed |= trials["state"] == "diverged"
    there = [points[points["upper_iteration"] == 0] for points in judged.values()]
    there.append(trials[stayed & (trials["state"] != "failed")])
    found = pd.concat([frame[scores] for frame in there if len(frame)] or [trials[scores].head(0)])
    return {name.removeprefix("metric."): float(found[name].median()) for name in scores}


def _with_columns(frame: pd.DataFrame, names: list[str], numbers: list[str]) -> pd.DataFrame:
    """A copy of `frame` that has all of `names`, and `numbers` as floats (absent: NaN)."""
    complete = frame.reindex(columns=list(dict.fromkeys([*frame.columns, *names, *numbers])))
    return complete.astype(dict.fromkeys(numbers, float))
