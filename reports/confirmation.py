"""What a confirmation says: the best configurations of the search, run again on fresh seeds and data splits.

The configuration that speaks for a solver is the best of its search: it was chosen without the fresh runs, so
that their mean is unbiased. Runs form a crossed design, configurations by seeds by splits, as common random
numbers make it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reports import pairwise, text
from reports.across import interquartile_mean
from reports.table import Column, Table
from reports.view import View

if TYPE_CHECKING:
    from harness.record import Record

Floats = NDArray[np.float64]
LEVEL = 0.05
FACTORS = ("configuration", "seed", "split")


# --- the crossed design


def mean_squares(values: Floats) -> dict[tuple[int, ...], float]:
    """Of a full design with one value a cell, an axis per factor: the mean square of every set of axes.

    The effect of a set T is sum_{U in T} (-1)^|T - U| (mean over the axes not in U); its mean square is the
    sum of its squares over all cells by prod_{f in T} (n_f - 1). Axes of one level have none."""
    axes = [axis for axis, levels in enumerate(values.shape) if levels > 1]
    found = {}
    for chosen in _subsets(axes):
        effect = np.zeros_like(values)
        for inner in ((), *_subsets(chosen)):
            rest = tuple(axis for axis in range(values.ndim) if axis not in inner)
            effect = effect + (-1.0) ** (len(chosen) - len(inner)) * values.mean(axis=rest, keepdims=True)
        free = np.prod([values.shape[axis] - 1 for axis in chosen])
        found[chosen] = float((effect**2).sum() / free)
    return found


def components(values: Floats) -> dict[tuple[int, ...], float]:
    """Variance components of random effects by the method of moments, of every set of axes; an estimate
    below 0 is 0. The set of all axes holds their interaction and what else there is.

    E MS_T = sum_{U over T} w_U var_U with w_U the product of the levels outside U, hence
    w_T var_T = sum_{U over T} (-1)^|U - T| E MS_U."""
    squares = mean_squares(values)
    found = {}
    for chosen in squares:
        weight = np.prod([levels for axis, levels in enumerate(values.shape) if axis not in chosen])
        over = [u for u in squares if set(chosen) <= set(u)]
        found[chosen] = max(0.0, sum((-1) ** (len(u) - len(chosen)) * squares[u] for u in over) / weight)
    return found


def _subsets(axes: Sequence[int]) -> list[tuple[int, ...]]:
    return [chosen for size in range(1, len(axes) + 1) for chosen in combinations(axes, size)]


@dataclass(frozen=True)
class Mean:
    """A mean over n runs with its standard error, and the degrees of freedom of Student's t; NaN: unknown."""

    value: float
    error: float
    freedom: float
    n: int

    def interval(self) -> tuple[float, float]:
        from scipy.stats import t

        half = float(t.ppf(1 - LEVEL / 2, self.freedom)) * self.error
        return self.value - half, self.value + half

    def p(self) -> float:
        """Two-sided, of a mean of 0."""
        from scipy.stats import t

        if not self.error > 0:
            return float("nan")
        return float(2 * t.sf(abs(self.value) / self.error, self.freedom))


def crossed_mean(values: Floats) -> Mean:
    """Mean of runs `(seeds, splits)`, both taken as random draws. With one split, or one seed, the usual
    standard error and n - 1 degrees of freedom. Else the variance is (MS_seed + MS_split - MS_both) / n, at
    least MS_both / n, and the degrees of freedom are Satterthwaite's (1946)."""
    if not values.size:
        return Mean(float("nan"), float("nan"), float("nan"), 0)
    squares, mean = mean_squares(values), float(values.mean())
    if not squares:
        return Mean(mean, float("nan"), float("nan"), values.size)
    seeds, splits = (levels - 1 for levels in values.shape)
    if len(squares) == 1:
        (square,), freedom = squares.values(), float(seeds or splits)
    else:
        one, two, both = squares[0,], squares[1,], squares[0, 1]
        square, freedom = both, float(seeds * splits)
        if one + two - both > both:
            square = one + two - both
            freedom = square**2 / (one**2 / seeds + two**2 / splits + both**2 / (seeds * splits))
    return Mean(mean, float(np.sqrt(square / values.size)), freedom, values.size)


# --- the runs


@dataclass(frozen=True)
class Runs:
    """Fresh runs of one metric, lower is better (sign: -1 where it was turned round for that).

    cells: by solver and number of the search's trial, values `(seeds, splits)`; NaN: not run, inf: failed."""

    view: View
    metric: str
    sign: int
    cells: dict[tuple[str, int], Floats]
    selected: dict[tuple[str, int], float]

    @classmethod
    def of(cls, study: Record, view: View, metric: str) -> Runs:
        sign = -1 if view.better(metric) == "higher" else 1
        column = "objective" if metric == view.objective else f"metric.{metric}"
        seeds, splits = (sorted({again.spec[key] for again in study.confirmations}) for key in SEEDS)
        cells: dict[tuple[str, int], Floats] = {}
        for again in study.confirmations:
            place = seeds.index(again.spec["seed"]), splits.index(again.spec["data_seed"])
            for _, run in again.trials.iterrows():
                number = again.spec["solvers"][run["solver"]]["of"][run["number"]]
                cell = cells.setdefault((run["solver"], number), np.full((len(seeds), len(splits)), np.nan))
                value = sign * float(run.get(column, np.nan))
                cell[place] = value if np.isfinite(value) else np.inf
        found = view.trials.set_index(["solver", "number"])[column] * sign
        there = {key: cell for key, cell in cells.items() if key in found.index}
        return cls(view, metric, sign, there, {key: float(found.loc[key]) for key in there})

    def mean(self, key: tuple[str, int]) -> Mean:
        return crossed_mean(complete(self.cells[key]))

    def difference(self, one: tuple[str, int], other: tuple[str, int]) -> Mean:
        """Of one less the other, on common seeds and splits."""
        with np.errstate(invalid="ignore"):
            return crossed_mean(complete(self.cells[one] - self.cells[other]))

    def chance(self, one: tuple[str, int], other: tuple[str, int]) -> float:
        """That a run of one beats one of the other on the same split, seeds drawn apart; ties half, failed
        runs worst."""
        found = []
        for a, b in zip(self.cells[one].T, self.cells[other].T, strict=True):
            ran = [side[~np.isnan(side)] for side in (a, b)]
            if all(side.size for side in ran):
                found.append(pairwise.superiority(*ran))
        return float(np.mean(found)) if found else float("nan")

    def of_solver(self, solver: str) -> Floats:
        """Runs `(configurations, seeds, splits)` of the seeds that all of them have."""
        stacked = np.stack([cell for (name, _), cell in self.cells.items() if name == solver])
        return np.asarray(stacked[:, np.isfinite(stacked).all(axis=(0, 2))])


SEEDS = ("seed", "data_seed")


def complete(cell: Floats) -> Floats:
    """The rows, seeds, that have a number for every split."""
    return np.asarray(cell[np.isfinite(cell).all(axis=1)])


# --- the tables


def confirmation_tables(study: Record, view: View) -> list[Table]:
    """Nothing where there is no confirmation."""
    if not any(len(again.trials) for again in study.confirmations):
        return []
    metrics = list(dict.fromkeys([view.objective, view.headline]))
    runs = [Runs.of(study, view, metric) for metric in metrics]
    best = _best(runs[0])
    return [confirmed(runs, best), confirmed_pairs(runs, best), variance(runs)]


def _best(runs: Runs) -> list[tuple[str, int]]:
    """Of every solver the best configuration of the search that ran again; solvers by the search."""
    ordered = sorted(runs.cells, key=lambda key: (runs.selected[key], key[1]))
    best: dict[str, tuple[str, int]] = {}
    for key in ordered:
        best.setdefault(key[0], key)
    return list(best.values())


def verdict(runs: Runs, best: list[tuple[str, int]]) -> str:
    """Whether the winner of the search is still the winner, in one sentence."""
    label, shown = runs.view.label, runs.view.metric_label(runs.metric)
    means = {key: runs.mean(key).value for key in best}
    ranked = sorted(best, key=lambda key: np.inf if np.isnan(means[key]) else means[key])
    won, first = best[0], ranked[0]
    if np.isnan(means[first]):
        return "No seed is complete yet, so nothing can be said of the winner of the search."
    digits = text.decimals(list(means.values()))
    said = f"{label(won[0])}, the winner of the search, is "
    said += "still the winner" if won == first else f"number {ranked.index(won) + 1} of {len(best)}"
    said += f" on fresh runs: {text.score(runs.sign * means[won], digits)} in {shown}"
    if len(best) == 1:
        return f"{said}."
    rival = ranked[1] if won == first else first
    gap = runs.difference(won, rival)
    low, high = sorted(runs.sign * bound for bound in gap.interval())
    told = f"{text.score(low, digits)} to {text.score(high, digits)}"
    sure = "which is not told from 0" if not (low > 0 or high < 0) else "which is not by chance"
    between = f"95 % interval of the difference {told}, {sure}" if np.isfinite(low) else "no interval yet"
    which = "the next" if won == first else "the best now"
    return (
        f"{said} against {text.score(runs.sign * means[rival], digits)} of {label(rival[0])}, {which} "
        f"({between}, n = {gap.n})."
    )


def confirmed(runs: list[Runs], best: list[tuple[str, int]]) -> Table:
    """Per solver the best configuration of the search: what it was selected by, and what it is worth."""
    view = runs[0].view
    rows = []
    for solver, number in best:
        row: dict[str, Any] = {"solver": solver, "trial": f"{solver}/{number}"}
        others = [key for key in runs[0].cells if key[0] == solver]
        for one in runs:
            mean, values = one.mean((solver, number)), complete(one.cells[solver, number])
            gaps = [one.mean(key).value - one.selected[key] for key in others]
            published = one.difference((solver, 0), (solver, number)) if _published(view, others) else None
            row |= {
                f"{one.metric} selected": one.sign * one.selected[solver, number],
                f"{one.metric} confirmed": one.sign * mean.value,
                f"{one.metric} error": mean.error,
                f"{one.metric} interquartile": one.sign * interquartile_mean(values.ravel())
                if mean.n
                else np.nan,
                f"{one.metric} curse": mean.value - one.selected[solver, number],
                f"{one.metric} mean curse": float(np.mean(gaps)),
                f"{one.metric} tuning gains": published.value if published else np.nan,
                f"{one.metric} n": mean.n,
            }
        ran = runs[0].cells[solver, number]
        row |= {"runs": int((~np.isnan(ran)).sum()), "failed": int(np.isinf(ran).sum())}
        rows.append(row | {"ran again": " ".join(f"{name}/{n}" for name, n in others)})
    data = pd.DataFrame(rows).sort_values(f"{view.objective} confirmed", kind="stable", na_position="last")
    shown = [Column("Solver", [view.label(s) for s in data["solver"]], list(data["solver"]))]
    for one in runs:
        shown += _confirmed_columns(one, data)
    counts = [f"{n} of {ran}" for n, ran in zip(data[f"{view.objective} n"], data["runs"], strict=True)]
    shown.append(Column("n", counts, list(data[f"{view.objective} n"])))
    links = [f"trial-{trial}" for trial in data["trial"]]
    shown.append(Column("Trial", list(data["trial"]), list(data["trial"]), links=links))
    seeds, splits = next(iter(runs[0].cells.values())).shape
    caption = (
        f"{verdict(runs[0], best)} Of every solver the best trial of the search by "
        f"{view.metric_label(view.objective)}, run again on {seeds} fresh seeds of mini-batches and {splits} "
        "data splits, the same for all: selected, what the search had measured; confirmed, mean ± standard "
        "error over those runs, and their interquartile mean; curse, the winner's curse: by how much the "
        "selected value was too good (above 0: worse than promised; on other splits also by what these "
        "differ). The CSV has the mean curse over all confirmed configurations of a solver, and, where the "
        "published configuration ran too, what tuning gains over it. n: runs averaged, a seed counting where "
        "it has a number for every split, of the runs "
        f"recorded. Standard errors {_basis(splits)} Rows by confirmed objective. {view.conditions}"
    )
    return Table("confirmation", "Confirmation", caption, shown, data)


def _published(view: View, keys: list[tuple[str, int]]) -> bool:
    solver = keys[0][0]
    return bool(view.spec["solvers"][solver].get("published")) and (solver, 0) in keys


def _basis(splits: int) -> str:
    return (
        "are over seeds, on this split alone."
        if splits == 1
        else "take seeds and splits as crossed random draws (Satterthwaite's degrees of freedom)."
    )


def _confirmed_columns(runs: Runs, data: pd.DataFrame) -> list[Column]:
    name, short = runs.metric, runs.view.short(runs.metric)
    digits = text.decimals(data[f"{name} confirmed"])
    mean, error = data[f"{name} confirmed"], data[f"{name} error"]
    turned = runs.sign * mean
    bold = list(np.isfinite(turned) & (turned == turned.min()))

    def column(heading: str, key: str) -> Column:
        values = data[f"{name} {key}"]
        return Column(heading, [text.score(float(v), digits) for v in values], list(values))

    cells = [text.spread(m, e, digits) for m, e in zip(mean, error, strict=True)]
    return [
        column(f"{short}, selected", "selected"),
        Column(f"{short}, confirmed", cells, list(mean), bold),
        column(f"{short}, interquartile mean", "interquartile"),
        column(f"{short}, curse", "curse"),
    ]


def confirmed_pairs(runs: list[Runs], best: list[tuple[str, int]]) -> Table:
    """The best configurations of two solvers on common seeds."""
    view = runs[0].view
    rows = []
    for one, other in combinations(best, 2):
        row: dict[str, Any] = {
            "a": one[0],
            "b": other[0],
            "a_trial": f"{one[0]}/{one[1]}",
            "b_trial": f"{other[0]}/{other[1]}",
        }
        for r in runs:
            gap = r.difference(one, other)
            low, high = sorted(r.sign * bound for bound in gap.interval())
            row |= {f"{r.metric} chance": r.chance(one, other), f"{r.metric} difference": r.sign * gap.value}
            row |= {f"{r.metric} low": low, f"{r.metric} high": high, f"{r.metric} p": gap.p()}
            row |= {f"{r.metric} n": gap.n}
        rows.append(row)
    kinds = ("chance", "difference", "low", "high", "p", "n")
    names = ["a", "b", "a_trial", "b_trial", *(f"{r.metric} {kind}" for r in runs for kind in kinds)]
    data = pd.DataFrame(rows, columns=names)
    shown = [Column(h, [view.label(s) for s in data[c]], list(data[c])) for h, c in (("A", "a"), ("B", "b"))]
    for r in runs:
        data[f"{r.metric} p_holm"] = pairwise.holm(list(data[f"{r.metric} p"]))
        digits = text.decimals(data[f"{r.metric} difference"])
        cells = [
            _gap(row, digits)
            for row in data[
                [f"{r.metric} {key}" for key in ("difference", "low", "high", "p_holm")]
            ].to_numpy()
        ]
        chances = data[f"{r.metric} chance"]
        cells_of_chance = [f"{c:.2f}" if np.isfinite(c) else text.MISSING for c in chances]
        shown.append(Column(f"{view.short(r.metric)}, A beats B", cells_of_chance, list(chances)))
        shown.append(Column(f"{view.short(r.metric)}, A − B", cells, list(data[f"{r.metric} difference"])))
    counts = data[f"{view.objective} n"]
    shown.append(Column("n", [str(n) for n in counts], list(counts)))
    splits = next(iter(runs[0].cells.values())).shape[1]
    better = ", ".join(f"{view.metric_label(r.metric)}: {view.better(r.metric)} is better" for r in runs)
    caption = (
        "The best trials of two solvers on fresh runs. A beats B: chance that a run of A is better than one "
        "of B on the same data split, seeds drawn apart (ties half, failed runs worst). A − B: mean of the "
        "paired differences, on common seeds and splits, with the 95 % interval of Student's t, each for "
        f"itself, over n common runs; intervals {_basis(splits)} *: p < 0.05 by the same t after Holm's "
        f"correction for {len(data)} tests. {better}. {view.conditions}"
    )
    return Table("confirmation_pairs", "Confirmed, solver against solver", caption, shown, data)


def _gap(row: Floats, digits: int) -> str:
    difference, low, high, p = map(float, row)
    told = text.score(difference, digits)
    if np.isfinite(low):
        told += f" [{text.score(low, digits)}, {text.score(high, digits)}]"
    return told.replace("-", "−") + ("*" if p < LEVEL else "")


def variance(runs: list[Runs]) -> Table:
    """How much of the variance of a solver's fresh runs is configuration, seed and split."""
    view = runs[0].view
    rows = []
    for solver in dict.fromkeys(solver for solver, _ in runs[0].cells):
        for r in runs:
            values = r.of_solver(solver)
            found = components(values) if values.size else {}
            total = sum(found.values())
            row: dict[str, Any] = {"solver": solver, "metric": r.metric, "n": values.size}
            row |= dict(zip(("configurations", "seeds", "splits"), values.shape, strict=True))
            row["deviation"] = float(np.sqrt(total)) if found else np.nan
            for axes in _subsets(range(3)):
                name = " × ".join(FACTORS[axis] for axis in axes)
                row[name] = found[axes] / total if axes in found and total > 0 else np.nan
            together = [found[axes] for axes in found if len(axes) > 1]
            row["interactions"] = sum(together) / total if together and total > 0 else np.nan
            rows.append(row)
    data = pd.DataFrame(rows)
    labels = [view.label(solver) for solver in data["solver"]]
    shown = [
        Column("Solver", labels, list(data["solver"])),
        Column("Metric", [view.short(metric) for metric in data["metric"]], list(data["metric"])),
        Column("Deviation", [text.parameter(v) for v in data["deviation"]], list(data["deviation"])),
    ]
    for name in (*FACTORS, "interactions"):
        cells = [f"{v:.0%}" if np.isfinite(v) else text.MISSING for v in data[name]]
        shown.append(Column(name[0].upper() + name[1:], cells, list(data[name])))
    sizes = [" × ".join(map(str, size)) for size in data[["configurations", "seeds", "splits"]].to_numpy()]
    shown.append(Column("n", sizes, list(data["n"])))
    caption = (
        "Shares of the variance of a solver's fresh runs: between its confirmed configurations (the best of "
        "the search, no sample of the space), between seeds and between data splits, the same for all, and "
        "what these do together, with all that is left (CSV: each by itself). Method of moments in the "
        "crossed design of random effects, estimates below 0 set to 0; rough where there are few levels. "
        f"Deviation: root of the whole variance. {text.MISSING}: one level. n: configurations × seeds × "
        f"splits, seeds that are complete. {view.conditions}"
    )
    return Table("confirmation_variance", "Where the variance is", caption, shown, data)
