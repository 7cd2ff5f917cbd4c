"""AmIGO's synthetic experiment (Arbel and Mairal 2022, Figures 1, a to c, 2 and 3) with its nine methods.

    python -m recipes.amigo_synthetic --out docs/results/amigo_synthetic [--scale small|paper]

Samples and seconds to a relative error of 1e-6 against the condition number kappa_g, with the best T and N
of the paper's grid; the error after a fixed time; curves down to 1e-20; every curve of the grid by method.
Writes trials.csv, curves.parquet, the figures (PDF, SVG, PNG) and README.md, which holds each claim of the
paper against these numbers.

Trials run one by one, so that a trial's seconds are its own. The grid is that of
search_spaces/quadratic.toml, but where a method has both T and N only T = 1 is kept: on this problem neither
H nor the gradient of f depends on y, so that x does not depend on T, which is checked, and T > 1 only costs.
"""

import argparse
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from harness.budget import KINDS
from harness.draws import GridDraws
from harness.plugins import Plugins
from harness.rules import Rules
from harness.runner import Result, first_cost, run_pack
from harness.solver import Solver
from harness.space import find_space
from problems.quadratic import Quadratic
from reports.figures import WIDTH, Picture, house_style, write_figure

CONDITIONS = tuple(10**power for power in range(8))
METHODS = {
    **{"amigo_cg": "AmIGO-CG", "amigo": "AmIGO-GD", "aid_cg": "AID-CG", "aid_cg_ws": "AID-CG-WS"},
    **{"aid_gd": "AID-GD", "aid_fp": "AID-FP", "aid_n": "AID-N", "itd": "ITD", "reverse": "Reverse"},
}
TARGET, DEEP = 1e-6, 1e-20
LEAST_ITERATIONS, MOST_ITERATIONS = 220, 1000  # with exact hypergradients 1e-20 takes about 210
POINTS = 7000  # of a trial's curve: enough for every one of 1000 upper iterations
PLOTTED = (10, 100, 10_000)
MODERATE = (10, 100, 1000)
LARGE = (10**5, 10**6, 10**7)
BY_METHOD = ("AID-CG", "AmIGO-CG", "AmIGO-GD", "AID-N", "AID-FP")  # the columns of Figure 2
BY_CONDITION = (10, 1000, 10_000, 10**6)  # its rows
UNROLLED = ((1, 10, 1000), (10**4, 10**5, 10**7))  # Figure 3
PLOTTED_POINTS = 60  # of a curve
CHECKED_ITERATIONS = 10
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Scale:
    """limit: seconds of a trial's search. fixed: the seconds after which errors are compared."""

    upper_dim: int
    lower_dim: int
    limit: float
    fixed: float


SCALES = {
    "smoke": Scale(40, 20, 0.2, 0.1),
    "small": Scale(200, 100, 8, 1),
    "paper": Scale(2000, 1000, 20, 10),
}

# --- trials


def grid(name: str, solver: type[Solver[Any]]) -> list[dict[str, Any]]:
    """The configurations of a method, the most expensive first; T = 1 where there is an N."""
    space = find_space("quadratic", None).space(name, solver)
    configs = [space.resolve(point) for point in GridDraws(space).points]
    kept = [c for c in configs if not c.get("system_steps") or c["lower_steps"] == 1]
    return sorted(kept, key=steps, reverse=True)


def steps(config: Mapping[str, Any]) -> int:
    """N, or T of a method without a linear system."""
    return int(config.get("system_steps") or config["lower_steps"])


def run(problem: Quadratic, solver: type[Solver[Any]], config: dict[str, Any], iterations: int) -> Result:
    budget = iterations * int(first_cost(problem, solver, [config], seed=0)[0])
    rules = Rules(budget, dict.fromkeys(KINDS, 1.0), seed=0, curves=POINTS)
    (result,) = run_pack(problem, solver, [config], rules, CPU, problem.dtype)
    return result


def reached(curve: pd.DataFrame, column: str, error: float) -> float:
    """Samples or seconds at the first logged upper iteration at or below `error`; nan: never."""
    there = curve.loc[curve["relative_error"] <= error, column]
    return float(there.iloc[0]) if len(there) else float("nan")


def run_within(
    problem: Quadratic, solver: type[Solver[Any]], config: dict[str, Any], wanted: int, limit: float
) -> Result:
    """`wanted` upper iterations, or about as many as `limit` seconds allow, found by trying."""
    iterations = 2
    while True:
        result = run(problem, solver, config, iterations)
        if iterations == wanted or result.seconds > limit / 2:
            return result
        iterations = min(wanted, max(int(iterations * limit / result.seconds), iterations + 1))


def trials(problem: Quadratic, name: str, scale: Scale) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Rows of trials.csv with their curves.

    A trial has 220 upper iterations or, where that is more, the samples in which the method's best so far
    met the target, in at most 1000; fewer where they would take longer than the limit."""
    solver, best = Plugins().solver(name), np.inf
    for config in grid(name, solver):
        to_beat = best / first_cost(problem, solver, [config], seed=0)[0] if np.isfinite(best) else 0
        wanted = int(np.clip(to_beat, LEAST_ITERATIONS, MOST_ITERATIONS))
        result = run_within(problem, solver, config, wanted, scale.limit)
        curve = pd.DataFrame(result.curve)
        row = {
            "method": METHODS[name],
            "kappa_g": problem.lower_condition,
            "T": config["lower_steps"],
            "N": config.get("system_steps") or None,
            "upper_iterations": result.upper_iterations,
            **{f"samples_{kind}": result.ledger[kind] for kind in KINDS},
            "samples": result.ledger["total"],
            "seconds": result.seconds,
            "error": result.objective,
            "samples_to_target": reached(curve, "total", TARGET),
            "seconds_to_target": reached(curve, "seconds", TARGET),
            "samples_to_deep": reached(curve, "total", DEEP),
            "error_after_fixed": curve.loc[curve["seconds"] <= scale.fixed, "relative_error"].iloc[-1],
        }
        best = np.fmin(best, row["samples_to_target"])
        yield row, curve.assign(**{key: row[key] for key in ("method", "kappa_g", "T", "N")})


def effect_of_lower_steps(problem: Quadratic) -> float:
    """The largest relative difference between the errors of T = 1 and T = 1000 at N = 10, over the methods
    with an N and the first upper iterations."""
    largest = 0.0
    for name in METHODS:
        solver = Plugins().solver(name)
        for config in (c for c in grid(name, solver) if c.get("system_steps") == 10):
            one, many = (
                pd.DataFrame(run(problem, solver, c, CHECKED_ITERATIONS).curve)["relative_error"]
                for c in (config, {**config, "lower_steps": 1000})
            )
            largest = max(largest, float((many / one - 1).abs().max()))
    return largest


def experiment(scale: Scale) -> tuple[pd.DataFrame, pd.DataFrame, float]:
    """trials.csv, all curves, and the effect of T."""
    rows, curves, effect = [], [], 0.0
    for condition in CONDITIONS:
        problem = Quadratic(
            upper_dim=scale.upper_dim, lower_dim=scale.lower_dim, lower_condition=float(condition)
        )
        problem.setup(None, 0, CPU, problem.dtype)
        if condition == PLOTTED[1]:
            effect = effect_of_lower_steps(problem)
        for name in METHODS:
            found = list(trials(problem, name, scale))
            rows += [row for row, _ in found]
            curves += [thinned(curve) for _, curve in found]
    table = pd.DataFrame(rows).astype({"N": "Int64"})
    return table, pd.concat(curves, ignore_index=True).astype({"N": "Int64"}), effect


def thinned(curve: pd.DataFrame) -> pd.DataFrame:
    return curve.iloc[np.unique(np.geomspace(1, len(curve), PLOTTED_POINTS).round().astype(int)) - 1]


def curves_of(curves: pd.DataFrame, trial: Any) -> pd.DataFrame:
    """The curve of one row of trials.csv."""
    same = (curves["method"] == trial.method) & (curves["kappa_g"] == trial.kappa_g)
    steps = "T" if pd.isna(trial.N) else "N"
    found: pd.DataFrame = curves[same & (curves[steps] == getattr(trial, steps))]
    return found


def deepest(group: pd.DataFrame) -> Any:
    """The trial that meets 1e-20 with the fewest samples; where none does, that of the lowest error."""
    reached = group.assign(depth=group["error"].clip(lower=DEEP)).sort_values(["depth", "samples_to_deep"])
    return next(reached.itertuples())


# --- figure


def best_of_grid(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """The least value over T and N, one row per kappa_g and one column per method; nan: none."""
    found = table.pivot_table(column, "kappa_g", "method", "min", dropna=False)
    return found.reindex(columns=list(METHODS.values()))


ERRORS = {"yscale": "log", "ylim": (DEEP / 10, 10), "yticks": 10.0 ** np.arange(-20, 1, 5)}


def figure1(table: pd.DataFrame, curves: pd.DataFrame, scale: Scale) -> Picture:
    import seaborn
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(WIDTH, 4.8), layout="constrained")
    blocks = drawing.subfigures(2, 1, squeeze=False)[:, 0]
    lines = itertools.cycle(("-", "--", "-.", ":"))
    look: dict[str, dict[str, Any]] = {
        method: {"color": colour, "linestyle": line}
        for method, colour, line in zip(
            METHODS.values(), seaborn.color_palette("colorblind"), lines, strict=False
        )
    }
    errors = ERRORS
    tops: dict[str, dict[str, Any]] = {
        "samples_to_target": {"yscale": "log", "title": "(a) samples to $10^{-6}$"},
        "seconds_to_target": {"yscale": "log", "title": "(a) seconds to $10^{-6}$"},
        "error_after_fixed": {"title": f"(b) relative error after {scale.fixed:g} s", **errors},
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
            curve = curves_of(curves, deepest(group))
            panel.plot(curve["total"], curve["relative_error"], **look[str(method)])
        title = rf"(c) relative error, $\kappa_g = 10^{{{power(condition)[2:]}}}$"
        panel.set(xscale="log", xlabel="samples", title=title, **errors)
    handles, labels = upper[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside upper center", ncols=5)
    seaborn.despine(drawing)
    return Picture("figure1", "AmIGO, Figure 1 (a to c)", "", drawing)


def panel_of(panel: Any, curves: pd.DataFrame, method: str, condition: float, steps: str) -> None:
    """The curves of one method at one condition number, a darker line for more steps."""
    import seaborn

    chosen = curves[(curves["method"] == method) & (curves["kappa_g"] == condition)]
    shades = seaborn.color_palette("crest", 4)
    for colour, (count, curve) in zip(shades, chosen.groupby(steps), strict=False):
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
            panel_of(panel, curves, method, condition, "N")
    for panel, method in zip(panels[0], BY_METHOD, strict=True):
        panel.set_title(method)
    for panel in panels[-1]:
        panel.set_xlabel("seconds")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside upper center", ncols=4, title="steps on the system, N")
    seaborn.despine(drawing)
    return Picture("figure2", "AmIGO, Figure 2", "", drawing)


def figure3(curves: pd.DataFrame) -> Picture:
    import seaborn
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    panels = drawing.subplots(3, 4, sharex=True, sharey=True)
    columns = [(method, conditions) for conditions in UNROLLED for method in ("Reverse", "ITD")]
    for column, (method, conditions) in enumerate(columns):
        for panel, condition in zip(panels[:, column], conditions, strict=True):
            panel_of(panel, curves, method, condition, "T")
            panel.set_title(rf"{method}, $\kappa_g = 10^{{{power(condition)[2:]}}}$")
    for panel in panels[-1]:
        panel.set_xlabel("seconds")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside upper center", ncols=4, title="lower steps, T")
    seaborn.despine(drawing)
    return Picture("figure3", "AmIGO, Figure 3", "", drawing)


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


# --- page


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


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
                f"{value:{digits}} ({t if pd.isna(n) else n})"
                for value, t, n in zip(own[column], own["T"], own["N"], strict=True)
            ]
            cells.append(best[0] if best else "–")
        rows.append(cells)
    return markdown(["kappa_g", *METHODS.values()], rows)


def claims_table(table: pd.DataFrame, scale: Scale) -> str:
    rows = []
    for claim, verdicts in claims(table, scale):
        rows.append([claim])
        for wanted in (True, False, None):
            rows[-1].append(", ".join(power(c) for c, v in verdicts.items() if v is wanted) or "–")
    return markdown(["claim", "holds at kappa_g", "does not hold at", "level, or nobody got there"], rows)


def page(table: pd.DataFrame, effect: float, scale: Scale, name: str, load: float) -> str:
    limit, fixed = f"{scale.limit:g} s", f"{scale.fixed:g} s"
    return f"""# AmIGO's synthetic experiment: Figures 1 (a to c), 2 and 3

    python -m recipes.amigo_synthetic --out docs/results/amigo_synthetic --scale {name}

`quadratic` with dim_x = {scale.upper_dim}, dim_y = {scale.lower_dim}, kappa_L = 10, deterministic, float64,
data seed 0. Step sizes 1 / L_g = 1 of y and z and 1 / L = 1 of x; N (ITD, Reverse: T) from 1, 10, 100, 1000.
Every configuration ran once, alone, on one thread. It had {LEAST_ITERATIONS} upper iterations or, where
that is more, the samples in which its method's best configuration met 1e-6, in at most {MOST_ITERATIONS}, and
was cut off near {limit}. Samples are exact. Seconds leave out the metrics and are those of single runs on a
machine with {os.cpu_count()} CPUs and a load average of {load:.1f} at the start; so are the verdicts on time.
`trials.csv` has every trial, `curves.parquet` every curve, thinned to {PLOTTED_POINTS} points.

![Figure 1](figure1.png)

(a) Samples and seconds to a relative error of 1e-6, best of the grid; a missing point: not within {limit}.
(b) Relative error after {fixed}, best of the grid, drawn at 1e-20 where it is below; a trial that ended
before then stands at its last iterate. (c) Per method, the trial that meets 1e-20 with the fewest samples or,
where none does, has the lowest error.

![Figure 2](figure2.png)

Figure 2: every N by method (columns) and condition number (rows).

![Figure 3](figure3.png)

Figure 3: every T of the two methods that go back through the lower steps.

## The claims of the paper

AID-FP is AID-GD here: the two differ in the step size of the linear system only, and both are 1; Reverse is
ITD's numbers. "Only AmIGO and AID-CG" leaves AID-CG-WS out, of which the sentence does not speak. The
additional settings N, T = floor(1000 log k) were not run.

{claims_table(table, scale)}
T is 1 where a method has both T and N, because x does not depend on T on this problem. Checked: the largest
relative difference between the errors of T = 1 and T = 1000, over {CHECKED_ITERATIONS} upper iterations of
the methods with both at N = 10 and kappa_g = {power(PLOTTED[1])}, is {effect:.1g}.

## In how many of the four settings of N (ITD, Reverse: T) 1e-6 is reached

{robustness(table)}
## Samples to 1e-6, with the best N (ITD, Reverse: T)

{best_table(table, "samples_to_target", ",.0f")}
## Seconds to 1e-6

{best_table(table, "seconds_to_target", ".2g")}
## Relative error after {fixed}

{best_table(table, "error_after_fixed", ".1e")}
## Samples to 1e-20

{best_table(table, "samples_to_deep", ",.0f")}"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scale", choices=SCALES, default="small")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    scale, load = SCALES[given.scale], os.getloadavg()[0]
    table, curves, effect = experiment(scale)
    table.to_csv(given.out / "trials.csv", index=False, float_format="%.6g")
    columns = ["method", "kappa_g", "T", "N", "upper_iteration", "total", "seconds", "relative_error"]
    curves[columns].to_parquet(given.out / "curves.parquet", index=False)
    with house_style():
        for picture in (figure1(table, curves, scale), figure2(curves), figure3(curves)):
            write_figure(picture, given.out)
    text = page(table, effect, scale, given.scale, load)
    (given.out / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
