"""A recorded study as the reports read it: solvers in order, labels, and every expected column present."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from reports.text import MISSING, bound, count, parameter

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


DECADES = 1e3


@dataclass(frozen=True)
class View:
    """`trials` and `curves` are copies in order of solver and number, with the columns reports rely on."""

    spec: dict[str, Any]
    solvers: list[str]
    trials: pd.DataFrame
    curves: pd.DataFrame

    @classmethod
    def of(cls, study: Record) -> View:
        """Complete what a partial study lacks: absent columns become missing values, never errors."""
        scores = [f"metric.{study.spec['objective']}", f"metric.{study.spec['headline']}"]
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
        return cls(study.spec, solvers, trials, curves)

    @property
    def objective(self) -> str:
        return str(self.spec["objective"])

    @property
    def headline(self) -> str:
        return str(self.spec["headline"])

    @property
    def worst(self) -> float:
        """The worst finite objective of the study: what a failed trial counts as in search statistics."""
        values = self.trials["objective"].to_numpy(dtype=float)
        return float(max(values[np.isfinite(values)], default=np.nan))

    def of_solver(self, solver: str) -> pd.DataFrame:
        return self.trials[self.trials["solver"] == solver]

    def curves_of(self, solver: str) -> pd.DataFrame:
        return self.curves[self.curves["solver"] == solver]

    def label(self, solver: str) -> str:
        return str(self.spec["solvers"].get(solver, {}).get("label", solver))

    def metric_label(self, metric: str) -> str:
        return str(self.spec["metrics"].get(metric, {}).get("label", metric))

    def short(self, metric: str) -> str:
        return str(self.spec["metrics"].get(metric, {}).get("short", metric))

    def better(self, metric: str) -> str:
        """ "lower" or "higher"."""
        return str(self.spec["metrics"].get(metric, {}).get("better", "lower"))

    def scale(self, metric: str) -> str:
        """The scale of an axis: "log" where the metric is positive throughout and covers three decades."""
        values = [frame[f"metric.{metric}"].to_numpy(dtype=float) for frame in (self.trials, self.curves)]
        finite = np.concatenate(values)[np.isfinite(np.concatenate(values))]
        wide = len(finite) > 0 and finite.min() > 0 and finite.max() > DECADES * finite.min()
        return "log" if wide else "linear"

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
        """Every parameter of every solver, in the order the spaces first name them."""
        named = [name for solver in self.solvers for name in self.space(solver)]
        recorded = [c.removeprefix("param.") for c in self.trials.columns if c.startswith("param.")]
        return list(dict.fromkeys(named + recorded))

    def symbol(self, name: str) -> str:
        """The papers' symbol of a parameter where all solvers agree on one, else its name."""
        declared = [self.spec["solvers"][s].get("parameters", {}) for s in self.spec["solvers"]]
        symbols = {entry[name]["symbol"] for entry in declared if entry.get(name, {}).get("symbol")}
        return str(symbols.pop()) if len(symbols) == 1 else name

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
    def conditions(self) -> str:
        """What stands behind every number, for captions."""
        recorded = [len(self.of_solver(solver)) for solver in self.solvers]
        planned = self.spec["trials"]
        partial = min(recorded, default=0) < planned
        progress = (
            f" planned, {min(recorded, default=0)} to {max(recorded, default=0)} recorded" if partial else ""
        )
        seeds = ", ".join(
            f"{key.replace('_', ' ')} {self.spec[key]}" for key in ("seed", "data_seed", "search_seed")
        )
        return (
            f"Problem {self.problem}; budget {count(self.spec['budget'])} samples per trial; {planned} trials"
            f"{progress} per solver ({self.spec['sampler']} search); {seeds}; {self.divergence}."
        )

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
            "trials": f"{self.spec['trials']} per solver, {self.spec['sampler']} search",
            "recorded": f"{len(self.trials)} ({recorded})",
            "selected by": f"{self.metric_label(self.objective)}, lower is better",
            "reported": self.metric_label(self.headline),
            "seeds": ", ".join(f"{role} {self.spec[key]}" for role, key in seeds.items()),
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


def _with_columns(frame: pd.DataFrame, names: list[str], numbers: list[str]) -> pd.DataFrame:
    """A copy of `frame` that has all of `names`, and `numbers` as floats (absent: NaN)."""
    complete = frame.reindex(columns=list(dict.fromkeys([*frame.columns, *names, *numbers])))
    return complete.astype(dict.fromkeys(numbers, float))
