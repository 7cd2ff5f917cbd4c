"""AmIGO's synthetic experiment (Arbel and Mairal 2022, Figures 1, a to c, 2 and 3) with its nine methods.

Samples and seconds to a relative error of 1e-6 against the condition number kappa_g, with the best T and N
of the paper's grid; the error after a fixed time; curves down to 1e-20; every curve of the grid by method.

One study for each kappa_g, of the grid of search_spaces/quadratic.toml; but where a method has both T and N
only T = 1 is kept: on this problem neither H nor the gradient of f depends on y, so that x does not depend on
T (tests/problems/test_quadratic.py), and T > 1 only costs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from harness.record import Record
from recipes.recipe import Claim, Findings, Part, Recipe, SetUp, Spaces, markdown
from reports.figures import WIDTH, Picture

METHODS = {
    **{"amigo_cg": "AmIGO-CG", "amigo": "AmIGO-GD", "aid_cg": "AID-CG", "aid_cg_ws": "AID-CG-WS"},
    **{"aid_gd": "AID-GD", "aid_fp": "AID-FP", "aid_n": "AID-N", "itd": "ITD", "reverse": "Reverse"},
}
UNROLLING = ("itd", "reverse")
STEPS = [1, 10, 100, 1000]
CONDITIONS = tuple(10**exponent for exponent in range(8))
TARGET, DEEP = 1e-6, 1e-20
PLOTTED = (10, 100, 10_000)
MODERATE = (10, 100, 1000)
LARGE = (10**5, 10**6, 10**7)
BY_METHOD = ("AID-CG", "AmIGO-CG", "AmIGO-GD", "AID-N", "AID-FP")  # the columns of Figure 2
BY_CONDITION = (10, 1000, 10_000, 10**6)  # its rows
UNROLLED = ((1, 10, 1000), (10**4, 10**5, 10**7))  # Figure 3
ERRORS = {"yscale": "log", "ylim": (DEEP / 10, 10), "yticks": 10.0 ** np.arange(-20, 1, 5)}


@dataclass(frozen=True)
class Scale:
    """samples: of a trial, by kappa_g. points: of a curve, evenly on a log scale. fixed: the seconds after
    which errors are compared."""

    samples: Mapping[int, int]
    upper_dim: int
    lower_dim: int
    points: int
    fixed: float


def spaces() -> Spaces:
    """The paper's grid: step sizes 1 / L_g = 1 of y and z and 1 / L = 1 of x; T = 1 where there is an N."""
    found: dict[str, dict[str, Any]] = {}
    for name in METHODS:
        own: dict[str, Any] = {"lower_steps": STEPS if name in UNROLLING else 1}
        if name not in UNROLLING:
            own |= {"system_steps": STEPS, "cross_batches": 1}
        if name in ("amigo", "aid_gd"):
            own["system_step_size"] = 1
        found[name] = own | {"upper_step_size": 1, "lower_step_size": 1, "batch_size": 64}
    return found


class AmigoSynthetic(Recipe):
    title = "AmIGO's synthetic experiment: Figures 1 (a to c), 2 and 3 of Arbel and Mairal (2022)"
    scales = {
        "smoke": Scale(dict.fromkeys((1, 10, 10_000), 300), 40, 20, 20, 0.02),
        "small": Scale(dict.fromkeys(CONDITIONS, 20_000), 200, 100, 200, 0.5),
        "paper": Scale({c: 30_000 if c < 10_000 else 60_000 for c in CONDITIONS}, 2000, 1000, 300, 10),
    }

    def parts(self, scale: Scale, setup: SetUp) -> list[Part]:
        sizes = {"upper_dim": scale.upper_dim, "lower_dim": scale.lower_dim}
        return [
            Part(
                power(condition),
                "quadratic",
                list(METHODS),
                samples,
                trials=len(STEPS),
                options=sizes | {"lower_condition": float(condition)},
                spaces=spaces(),
                sampler="grid",
                curves=scale.points,
                alone=True,
            )
            for condition, samples in scale.samples.items()
        ]

    def findings(self, records: Mapping[str, Record], scale: Scale, setup: SetUp) -> Findings:
        table, curves = frames(records, scale)
        pictures = [figure1(table, curves, scale), figure2(curves), figure3(curves)]
        tables = {
            "In how many of the four settings of N (ITD, Reverse: T) 1e-6 is reached": robustness(table),
            "Samples to 1e-6, with the best N (ITD, Reverse: T)": best_table(
                table, "samples_to_target", ",.0f"
            ),
            "Seconds to 1e-6": best_table(table, "seconds_to_target", ".2g"),
            f"Relative error after {scale.fixed:g} s": best_table(table, "error_after_fixed", ".1e"),
            "Samples to 1e-20": best_table(table, "samples_to_deep", ",.0f"),
        }
        return Findings(verdicts(table, scale), tables, pictures, note(scale))


RECIPE = AmigoSynthetic()


def note(scale: Scale) -> str:
    numbers = scale.samples.values()
    samples = " or ".join(f"{number:,}" for number in sorted(set(numbers)))
    if len(set(numbers)) > 1:
        samples += f" (from kappa_g = {min(c for c, n in scale.samples.items() if n == max(numbers)):,} on)"
    sizes = f"dim_x = {scale.upper_dim}, dim_y = {scale.lower_dim}, kappa_L = 10"
    return f"""`quadratic` with {sizes}, deterministic, float64, data seed 0.
Step sizes 1 / L_g = 1 of y and z and 1 / L = 1 of x; N (ITD, Reverse: T) from 1, 10, 100, 1000; T = 1 where
a method has both, since x does not depend on it here. Every configuration has {samples} samples and
ran once, alone, on one thread. Samples are exact up to the spacing of the curves, {scale.points} points on
a log scale; seconds leave out the metrics and are those of single runs, and so are the verdicts on time.
AID-FP is AID-GD here: the two differ in the step size of the linear system only, and both are 1; Reverse is
ITD's numbers. The additional settings N, T = floor(1000 log k) were not run."""


# --- numbers


def reached(curve: pd.DataFrame, column: str, error: float) -> float:
    """Samples or seconds at the first logged upper iteration at or below `error`; nan: never."""
    there = curve.loc[curve["relative_error"] <= error, column]
    return float(there.iloc[0]) if len(there) else float("nan")


def frames(records: Mapping[str, Record], scale: Scale) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row per trial, and all points of curves; method, kappa_g and N (ITD, Reverse: T) name a trial."""
    rows, points = [], []
    for record in records.values():
        condition = record.spec["options"]["lower_condition"]
        for trial in record.trials.to_dict("records"):
            own = record.curves[record.curves["trial"] == trial["trial"]].rename(
                columns={"ledger.total": "total", "metric.relative_error": "relative_error"}
            )
            curve = own[["upper_iteration", "total", "seconds", "relative_error"]]
            unrolling = trial["solver"] in UNROLLING
            steps = int(trial["param.lower_steps" if unrolling else "param.system_steps"])
            which = {"method": METHODS[trial["solver"]], "kappa_g": condition, "steps": steps}
            rows.append(
                which
                | {
                    "error": trial["objective"],
                    "samples_to_target": reached(curve, "total", TARGET),
                    "seconds_to_target": reached(curve, "seconds", TARGET),
                    "samples_to_deep": reached(curve, "total", DEEP),
                    "error_after_fixed": curve.loc[curve["seconds"] <= scale.fixed, "relative_error"].iloc[
                        -1
                    ],
                }
            )
            points.append(curve.assign(**which))
    return pd.DataFrame(rows), pd.concat(points, ignore_index=True)


def curve_of(curves: pd.DataFrame, trial: Any) -> pd.DataFrame:
    """The curve of one row of trials."""
    same = (curves["method"] == trial.method) & (curves["kappa_g"] == trial.kappa_g)
    found: pd.DataFrame = curves[same & (curves["steps"] == trial.steps)]
    return found


def deepest(group: pd.DataFrame) -> Any:
    """The trial that meets 1e-20 with the fewest samples; where none does, that of the lowest error."""
    reached = group.assign(depth=group["error"].clip(lower=DEEP)).sort_values(["depth", "samples_to_deep"])
    return next(reached.itertuples())


# --- figures

FIGURE1 = """
(a) Samples and seconds to a relative error of 1e-6, best of the grid; a missing point: not within the
samples. (b) Relative error after a fixed time, best of the grid, drawn at 1e-20 where it is below; a trial
that ended before then stands at its last iterate. (c) Per method, the trial that meets 1e-20 with the
fewest samples or, where none does, has the lowest error.
"""


def best_of_grid(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """The least value over T and N, one row per kappa_g and one column per method; nan: none."""
    found = table.pivot_table(column, "kappa_g", "method", "min", dropna=False)
    return found.reindex(columns=list(METHODS.values()))


def figure1(table: pd.DataFrame, curves: pd.DataFrame, scale: Scale) -> Picture:
    import seaborn
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(WIDTH, 4.8), layout="constrained")
    blocks = drawing.subfigures(2, 1, squeeze=False)[:, 0]
    lines: Iterator[str] = itertools.cycle(("-", "--", "-.", ":"))
    look: dict[str, dict[str, Any]] = {
        method: {"color": colour, "linestyle": line}
        for method, colour, line in zip(
            METHODS.values(), seaborn.color_palette("colorblind"), lines, strict=False
        )
    }
    tops: dict[str, dict[str, Any]] = {
        "samples_to_target": {"yscale": "log", "title": "(a) samples to $10^{-6}$"},
        "seconds_to_target": {"yscale": "log", "title": "(a) seconds to $10^{-6}$"},
        "error_after_fixed": {"title": f"(b) relative error after {scale.fixed:g} s", **ERRORS},
    }
    upper = blocks[0].subplots(1, 3, sharex=True)
    for panel, (column, settings) in zip(upper, tops.items(), strict=True):
        values = best_of_grid(table, column).clip(lower=DEEP)
        for (method, series), marker in zip(values.items(), "osD^vP*Xd", strict=True):
            panel.plot(series, marker=marker, markersize=4, label=method, **look[str(method)])
        panel.set(xscale="log", xlabel=r"$\kappa_g$", xticks=CONDITIONS[::2], **settings)
    lower = blocks[1].subplots(1, 3, sharey=True)
    for panel, condition in zip(lower, PLOTTED, strict=True):
        for method, group in table[table["kappa_g"] == condition].groupby("method", sort=False):
            curve = curve_of(curves, deepest(group))
            panel.plot(curve["total"], curve["relative_error"], **look[str(method)])
        title = rf"(c) relative error, $\kappa_g = 10^{{{power(condition)[2:]}}}$"
        panel.set(xscale="log", xlabel="samples", title=title, **ERRORS)
    handles, labels = upper[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside upper center", ncols=5)
    seaborn.despine(drawing)
    return Picture("figure1", "AmIGO, Figure 1 (a to c)", " ".join(FIGURE1.split()), drawing)


def panel_of(panel: Any, curves: pd.DataFrame, method: str, condition: float) -> None:
    """The curves of one method at one condition number, a darker line for more steps."""
    import seaborn

    chosen = curves[(curves["method"] == method) & (curves["kappa_g"] == condition)]
    shades = seaborn.color_palette("crest", 4)
    for colour, (count, curve) in zip(shades, chosen.groupby("steps"), strict=False):
        panel.plot(curve["seconds"], curve["relative_error"], color=colour, label=f"{count:,}")
    panel.set(xscale="log", **ERRORS)


def figure2(curves: pd.DataFrame) -> Picture:
    import seaborn
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(WIDTH, 6), layout="constrained")
    panels = drawing.subplots(len(BY_CONDITION), len(BY_METHOD), sharex=True, sharey=True)
    for row, condition in zip(panels, BY_CONDITION, strict=True):
        row[0].set_ylabel(rf"$\kappa_g = 10^{{{power(condition)[2:]}}}$")
        for panel, method in zip(row, BY_METHOD, strict=True):
            panel_of(panel, curves, method, condition)
    for panel, method in zip(panels[0], BY_METHOD, strict=True):
        panel.set_title(method)
    for panel in panels[-1]:
        panel.set_xlabel("seconds")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside upper center", ncols=4, title="steps on the system, N")
    seaborn.despine(drawing)
    return Picture(
        "figure2", "AmIGO, Figure 2", "Every N by method (columns) and condition number (rows).", drawing
    )


def figure3(curves: pd.DataFrame) -> Picture:
    import seaborn
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    panels = drawing.subplots(3, 4, sharex=True, sharey=True)
    columns = [(method, conditions) for conditions in UNROLLED for method in ("Reverse", "ITD")]
    for column, (method, conditions) in enumerate(columns):
        for panel, condition in zip(panels[:, column], conditions, strict=True):
            panel_of(panel, curves, method, condition)
            panel.set_title(rf"{method}, $\kappa_g = 10^{{{power(condition)[2:]}}}$")
    for panel in panels[-1]:
        panel.set_xlabel("seconds")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside upper center", ncols=4, title="lower steps, T")
    seaborn.despine(drawing)
    return Picture(
        "figure3", "AmIGO, Figure 3", "Every T of the two that go back through the lower steps.", drawing
    )


# --- claims

Verdict = bool | None
"""None: the numbers do not tell: nobody got there, or all the same."""


def lowest(values: pd.Series, method: str) -> Verdict:
    """Whether no other method is below; missing values are above all others."""
    filled = values.fillna(np.inf)
    if filled.nunique() == 1:
        return None
    return bool(filled[method] == filled.min())


def below(values: pd.Series, method: str, other: str) -> Verdict:
    first, second = values.fillna(np.inf)[[method, other]]
    return None if first == second else bool(first < second)


def only(values: pd.Series, *methods: str) -> Verdict:
    """Whether these methods have a value and the others have none; AID-CG-WS, of which the paper's sentence
    does not speak, apart."""
    judged = values.drop("AID-CG-WS", errors="ignore")
    return bool((judged.notna() == judged.index.isin(methods)).all())


def second(values: pd.Series) -> Verdict:
    """Whether AID-CG is next to AmIGO-CG, AID-CG-WS apart."""
    return lowest(values.drop(["AmIGO-CG", "AID-CG-WS"]), "AID-CG")


def verdicts(table: pd.DataFrame, scale: Scale) -> list[Claim]:
    """A claim holds where it holds at every kappa_g that tells."""
    found = []
    for text, by_condition in claims(table, scale):
        told = [verdict for verdict in by_condition.values() if verdict is not None]
        places = {
            words: ", ".join(power(c) for c, verdict in by_condition.items() if verdict is wanted)
            for words, wanted in (("at", True), ("not at", False), ("level or out of reach at", None))
        }
        numbers = "; ".join(f"{words} {where}" for words, where in places.items() if where)
        found.append(Claim(text, all(told) if told else None, numbers))
    return found


def claims(table: pd.DataFrame, scale: Scale) -> list[tuple[str, Mapping[float, Verdict]]]:
    """Each claim of the paper, and whether it holds, by kappa_g."""
    samples, seconds = (best_of_grid(table, f"{unit}_to_target") for unit in ("samples", "seconds"))
    later = best_of_grid(table, "error_after_fixed").clip(lower=DEEP)
    deep = best_of_grid(table, "samples_to_deep")

    def each(values: pd.DataFrame, verdict: Callable[[pd.Series], Verdict]) -> dict[float, Verdict]:
        return {float(str(condition)): verdict(row) for condition, row in values.iterrows()}

    def cg(values: pd.Series) -> Verdict:
        return lowest(values, "AmIGO-CG")

    def gd(values: pd.Series) -> Verdict:
        return below(values, "AmIGO-GD", "AID-GD")

    def accelerated(values: pd.Series) -> Verdict:
        return below(values, "AID-CG", "AmIGO-GD")

    def three(values: pd.Series) -> Verdict:
        return only(values, "AmIGO-CG", "AmIGO-GD", "AID-CG")

    large = seconds.index.isin(LARGE)

    after = f"after {scale.fixed:g} s"
    return [
        ("1(a): AmIGO-CG needs the fewest samples to 1e-6", each(samples, cg)),
        ("1(a): AmIGO-CG needs the least time to 1e-6", each(seconds, cg)),
        ("1(a): AID-CG needs the least time to 1e-6 after AmIGO-CG", each(seconds, second)),
        ("1(a): AmIGO-GD needs fewer samples to 1e-6 than AID-GD", each(samples, gd)),
        ("1(a): AmIGO-GD needs less time to 1e-6 than AID-GD", each(seconds, gd)),
        (
            "1(a): at large kappa_g AID-CG needs less time to 1e-6 than AmIGO-GD",
            each(seconds.loc[large], accelerated),
        ),
        (f"1(b): {after} AmIGO-CG has the lowest error", each(later, cg)),
        (f"1(b): {after} AID-CG has the lowest error after AmIGO-CG", each(later, second)),
        (f"1(b): {after} AmIGO-GD has a lower error than AID-GD", each(later, gd)),
        (
            "1(c): at moderate kappa_g only AmIGO and AID-CG reach 1e-20",
            each(deep.loc[deep.index.isin(MODERATE)], three),
        ),
        (
            "5.3: at kappa_g = 1e4 only AmIGO and AID-CG optimise (reach 1e-6)",
            each(samples.loc[[1e4]], three),
        ),
    ]


def robustness(table: pd.DataFrame) -> str:
    """In how many of the settings of N (ITD, Reverse: T) a method reaches 1e-6, of 4."""
    counts = table.assign(there=table["samples_to_target"].notna()).pivot_table(
        "there", "kappa_g", "method", "sum"
    )
    rows = [
        [power(float(str(condition))), *(str(int(row[method])) for method in METHODS.values())]
        for condition, row in counts.iterrows()
    ]
    return markdown(["kappa_g", *METHODS.values()], rows)


# --- tables


def power(condition: float) -> str:
    return f"1e{round(np.log10(condition))}"


def best_table(table: pd.DataFrame, column: str, digits: str) -> str:
    """The best of the grid, with the N (for ITD the T) that gave it."""
    rows = []
    for condition, group in table.groupby("kappa_g"):
        cells = [power(float(str(condition)))]
        for method in METHODS.values():
            own = group[(group["method"] == method) & group[column].notna()].sort_values(column)
            best = [
                f"{value:{digits}} ({steps})" for value, steps in zip(own[column], own["steps"], strict=True)
            ]
            cells.append(best[0] if best else "–")
        rows.append(cells)
    return markdown(["kappa_g", *METHODS.values()], rows)
