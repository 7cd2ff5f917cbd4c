"""A recorded study at other prices: what the same budget would have bought, where that was measured.

Prices decide where a trial ends. At new ones it would have ended at its last upper iteration that the budget
pays for, perhaps earlier than it did, perhaps later. It can be judged where that iteration has a final
evaluation: its output, or a point on the way (`harness run --evaluate-at`, or curves that are evaluations).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from harness.budget import KINDS
from harness.errors import HarnessError
from harness.options import one_of, positive
from reports.view import View

if TYPE_CHECKING:
    from harness.record import Record

JUDGED, SHORT, BETWEEN = "judged", "ended too early", "not judged there"


def at_prices(
    prices: Mapping[str, float], budget: float | None, write: Callable[[Record, Path, int], Path]
) -> Callable[[Record, Path, int], Path]:
    """`write` for the repriced study; budget None: the study's. Raises HarnessError: a price or budget out of
    range, seconds without a budget, or no trial that can be judged."""
    for kind, price in prices.items():
        positive(f"--price {one_of('--price', kind, (*KINDS, 'seconds'))}", price)
    if "seconds" in prices and (len(prices) > 1 or budget is None):
        raise HarnessError("--price seconds=1 stands alone and needs a --budget in seconds")
    if budget is not None:
        positive("--budget", budget)

    def writer(study: Record, out: Path, top: int) -> Path:
        again = repriced(study, prices, budget or float(study.spec["budget"]))
        told = again.spec["repriced"].values()
        if not any(counts[JUDGED] for counts in told):
            short, between = (sum(counts[v] for counts in told) for v in (SHORT, BETWEEN))
            raise HarnessError(
                f"at these prices no trial can be judged: {short} ended too early, {between} would end "
                "where x was not judged; take another --budget, or run with more --evaluate-at shares"
            )
        return write(again, out, top)

    return writer


def repriced(study: Record, prices: Mapping[str, float], budget: float) -> Record:
    """The study at other prices of a sample by kind, or of a second alone ("seconds"),
    under `budget` in these prices, with the trials that can be judged.

    spec gains "repriced": by solver how many trials are judged, ended too early to say what they would have
    done with what is left, or would have ended where nothing was judged.
    """
    view = View.of(study, kinds=True)
    points = pd.concat(
        [
            its.assign(trial=[f"{s}/{n:.0f}" for n in its["number"]], priced=_priced(its, prices))
            for s, its in view.judged.items()
        ]
    )
    diverged = (
        set(study.trials.loc[study.trials["state"] == "diverged", "trial"]) if len(study.trials) else set()
    )
    dearer = all(prices.get(kind, 1.0) >= old for kind, old in study.spec["prices"].items())
    dearer &= "seconds" not in prices and budget <= study.spec["budget"]
    ends, verdicts = {}, {}
    for trial, own in points.groupby("trial"):
        verdicts[trial], ends[trial] = _end(own, budget, final=trial in diverged, dearer=dearer)
    trials = study.trials[study.trials["trial"].isin([t for t, v in verdicts.items() if v == JUDGED])]
    chosen = pd.DataFrame([ends[trial] for trial in trials["trial"]], index=trials.index)
    if len(trials):
        scores = [str(c) for c in chosen if str(c).startswith("metric.")]
        trials = trials.assign(
            **{c: chosen[c] for c in scores},
            objective=chosen[f"metric.{view.objective}"],
            upper_iterations=chosen["upper_iteration"],
            **{f"ledger.{kind}": chosen[f"ledger.{kind}"] for kind in KINDS},
            **{"ledger.total": chosen["priced"], "seconds": chosen["seconds"]},
        )
    failed = study.trials[study.trials["state"] == "failed"]
    names = study.trials.set_index("trial")["solver"]
    counts = pd.Series(verdicts, dtype=object).groupby(names.reindex(list(verdicts))).value_counts()
    told = {
        s: {v: int(counts.get((s, v), 0)) for v in (JUDGED, SHORT, BETWEEN)}
        | {"trials": len(view.of_solver(s))}
        for s in view.solvers
    }
    new = prices if "seconds" in prices else {kind: prices.get(kind, 1.0) for kind in KINDS}
    spec = {**study.spec, "prices": dict(new), "budget": budget, "repriced": told}
    return replace(
        study,
        spec=spec,
        trials=pd.concat([trials, failed]).sort_index(),
        curves=study.curves.head(0),
        evaluations=study.evaluations.head(0),
        confirmations=(),
    )


def _priced(points: pd.DataFrame, prices: Mapping[str, float]) -> pd.Series[float]:
    if "seconds" in prices:
        return points["seconds"] * prices["seconds"]
    return sum(
        (points[f"ledger.{kind}"].fillna(0) * prices.get(kind, 1.0) for kind in KINDS),
        0.0 * points["seconds"],
    )


def _end(own: pd.DataFrame, budget: float, *, final: bool, dearer: bool) -> tuple[str, pd.Series]:
    """Whether a trial can be judged, and its last point that the budget pays for. final: no budget would have
    taken it further. dearer: what did not fit before does not fit now.

    The next upper iteration is taken to cost what those to the point after it (or, at the end, those so far)
    cost on average."""
    own = own.sort_values("priced", kind="stable")
    place = int((own["priced"] <= budget).sum()) - 1
    if place < 0:
        return BETWEEN, own.iloc[0]
    here, done = own.iloc[place], own["upper_iteration"]
    later = own[done > here["upper_iteration"]]
    if len(later):
        nearest = later.iloc[0]
        steps = nearest["upper_iteration"] - here["upper_iteration"]
        each = (nearest["priced"] - here["priced"]) / steps
        return (JUDGED if here["priced"] + each > budget else BETWEEN), here
    if here["upper_iteration"] == 0:
        return (JUDGED if final or dearer else SHORT), here
    each = here["priced"] / here["upper_iteration"]
    return (JUDGED if final or here["priced"] + each > budget else SHORT), here
