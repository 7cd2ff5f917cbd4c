"""Equilibrium models on MNIST (Grazzi, Pontil and Salzo 2023, Section 7.1, Figure 1): BSGM and BSGM+WS.

    python -m recipes.grazzi_figure1 --data-dir DIR --out docs/results/grazzi_figure1 [--scale small|paper]

Both methods with mini-batches of 600, 6000 and all 60 000 examples and five seeds: the norm of the
proximal-gradient map, training and test accuracy against epochs and time; the memory that the warm start
takes. Writes trials.csv (final evaluations), curves.csv, memory.csv, the figure (PDF, SVG, PNG) and
README.md, which holds each claim of the paper against these numbers.

Seeds and batch sizes run one after the other, so that a trial's seconds are its own. Needs fork and the
kilobytes of Linux's ru_maxrss.
"""

import argparse
import multiprocessing
import os
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from harness.budget import KINDS
from harness.plugins import Plugins
from harness.rules import Rules
from harness.runner import Result, run_pack
from harness.space import find_space
from problems.equilibrium import Equilibrium
from reports.figures import WIDTH, Picture, house_style, write_figure

METHODS = {"bsgm": "BSGM", "bsgm_ws": "BSGM+WS"}
BATCHES = {600: "600", 6000: "6000", 60_000: "all"}
SEEDS = range(5)
SHOWN = {
    "prox_map_norm": "norm of the prox. map",
    "train_accuracy": "training accuracy (%)",
    "test_accuracy": "test accuracy (%)",
}
PLACE = ("upper_iteration", "epochs", "total", "seconds")
LEVEL = 0.5  # points of accuracy that count as the same
CPU = torch.device("cpu")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scale:
    """iterations: upper iterations by batch size. points: of a curve. examples: of a point of a curve,
    both of the training and of the test set."""

    iterations: Mapping[int, int]
    points: int
    examples: int


SCALES = {
    "small": Scale({600: 1500, 6000: 200, 60_000: 60}, 16, 2000),
    "paper": Scale({600: 16_666, 6000: 13_333, 60_000: 3333}, 100, 10_000),
}

# --- trials


def run(problem: Equilibrium, name: str, batch: int, seed: int, iterations: int, points: int) -> Result:
    """A trial of the paper's configuration; an upper iteration takes t + k + 1 + 1 = 6 samples an example."""
    solver = Plugins().solver(name)
    config = find_space("equilibrium", None).space(name, solver).resolve({}) | {"batch_size": batch}
    rules = Rules(6 * batch * iterations, dict.fromkeys(KINDS, 1.0), seed, curves=points)
    (result,) = run_pack(problem, solver, [config], rules, CPU, problem.dtype)
    return result


def experiment(problem: Equilibrium, scale: Scale) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Trials, one row each, and the points of their curves. The methods take turns, so that both meet the
    machine in the same mood."""
    trials, curves = [], []
    for batch, iterations in scale.iterations.items():
        for seed in SEEDS:
            for name, label in METHODS.items():
                result = run(problem, name, batch, seed, iterations, scale.points)
                which = {"method": label, "batch_size": batch, "seed": seed}
                curve = pd.DataFrame([which | point for point in result.curve])
                curves.append(curve.assign(epochs=curve["upper_gradient"] / problem.upper_examples))
                end = curves[-1].iloc[-1]
                trials.append(which | {name: end[name] for name in PLACE} | result.metrics)
    return pd.DataFrame(trials), pd.concat(curves, ignore_index=True)


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def report_peak(sender: Connection, problem: Equilibrium, name: str, batch: int) -> None:
    before = peak_megabytes()
    run(problem, name, batch, seed=0, iterations=2, points=0)
    sender.send((before, peak_megabytes()))


def memory(problem: Equilibrium) -> pd.DataFrame:
    """Peak memory of two upper iterations and an evaluation, each in a process of its own: forked, as a
    fork's peak starts anew at what it holds, so that reading the data does not hide the search."""
    context, rows = multiprocessing.get_context("fork"), []
    for batch in BATCHES:
        for name, label in METHODS.items():
            receiver, sender = context.Pipe(duplex=False)
            child = context.Process(target=report_peak, args=(sender, problem, name, batch))
            child.start()
            before, peak = receiver.recv()
            child.join()
            rows.append({"method": label, "batch_size": batch, "before_mb": before, "peak_mb": peak})
    return pd.DataFrame(rows)


# --- figure


def own(frame: pd.DataFrame, method: str, batch: int) -> pd.DataFrame:
    """The rows of one method and batch size."""
    return frame[(frame["method"] == method) & (frame["batch_size"] == batch)]


def bands(curves: pd.DataFrame, metric: str) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """Per method and batch size, over the seeds: epochs, mean seconds, and mean, min and max of the metric.

    All seeds are logged at the same upper iterations."""
    for batch in BATCHES:
        for method in METHODS.values():
            by_place = own(curves[curves["epochs"] > 0], method, batch).groupby("epochs")
            band = by_place[metric].agg(["mean", "min", "max"]).assign(seconds=by_place["seconds"].mean())
            yield method, batch, band.reset_index()


def figure(curves: pd.DataFrame) -> Picture:
    import seaborn
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    drawing = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    rows = drawing.subplots(2, 3, sharex="row", sharey="col")
    colours = dict(zip(BATCHES, seaborn.color_palette("colorblind"), strict=False))
    dashes = dict(zip(METHODS.values(), ("-", "--"), strict=True))
    for axes, (column, label) in zip(rows, {"epochs": "epochs", "seconds": "seconds"}.items(), strict=True):
        for panel, (metric, name) in zip(axes, SHOWN.items(), strict=True):
            for method, batch, band in bands(curves, metric):
                look = {"color": colours[batch], "label": f"{method}, batch {BATCHES[batch]}"}
                panel.plot(band[column], band["mean"], linestyle=dashes[method], **look)
                panel.fill_between(
                    band[column], band["min"], band["max"], color=colours[batch], alpha=0.15, linewidth=0
                )
            panel.set(xscale="log", xlabel=label, ylabel=name)
        axes[0].set_yscale("log")
        axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes[0].yaxis.set_major_formatter("{x:g}")
        axes[0].yaxis.set_minor_locator(NullLocator())
    handles, labels = rows[0][0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside upper center", ncols=3)
    seaborn.despine(drawing)
    return Picture("figure1", "Grazzi et al., Figure 1", "", drawing)


# --- claims


def seeds(frame: pd.DataFrame, method: str, batch: int, value: Callable[[pd.DataFrame], float]) -> Floats:
    """A value of every seed's rows."""
    return np.array([value(rows) for _, rows in own(frame, method, batch).groupby("seed")])


def last_common(curves: pd.DataFrame, axis: str, batches: Sequence[int]) -> float:
    """The last place on the axis that all trials of these batch sizes reached."""
    return min(
        float(seeds(curves, method, batch, lambda rows: float(rows[axis].max())).min())
        for method in METHODS.values()
        for batch in batches
    )


def accuracies(curves: pd.DataFrame, method: str, axis: str, batches: Sequence[int]) -> tuple[float, Floats]:
    """The last common place on the axis, and there the mean test accuracy by batch size; linear between
    points."""
    place = last_common(curves, axis, batches)

    def there(rows: pd.DataFrame) -> float:
        return float(np.interp(place, rows[axis], rows["test_accuracy"]))

    return place, np.array([seeds(curves, method, batch, there).mean() for batch in batches])


def changes(curves: pd.DataFrame, batch: int) -> Floats:
    """By how many per cent the warm start changes the norm of the map, by seed (same start, same batches):
    geometric mean over the points after the first epoch."""
    later = curves[curves["epochs"] > 1]

    def level(rows: pd.DataFrame) -> float:
        return float(np.log(rows["prox_map_norm"]).mean())

    cold, warm = (seeds(later, method, batch, level) for method in METHODS.values())
    return np.asarray(100 * (np.exp(warm - cold) - 1))


def warm_start_claims(trials: pd.DataFrame, curves: pd.DataFrame) -> Iterator[tuple[str, bool, str]]:
    means = []
    for batch, name in BATCHES.items():
        change = changes(curves, batch)
        means.append(float(change.mean()))
        numbers = f"with WS {means[-1]:+.1f} % (seeds: {change.min():+.1f} to {change.max():+.1f})"
        yield f"batch {name}: WS lowers the norm of the map, for every seed", bool(change.max() < 0), numbers
    numbers = ", ".join(f"{name}: {mean:+.1f} %" for name, mean in zip(BATCHES.values(), means, strict=True))
    yield "WS lowers the norm less for smaller batches", means == sorted(means, reverse=True), numbers
    for batch, name in BATCHES.items():
        cold, warm = (own(trials, method, batch) for method in METHODS.values())
        train, test = (
            float(warm[metric].mean() - cold[metric].mean()) for metric in ("train_accuracy", "test_accuracy")
        )
        claim = f"batch {name}: the same accuracies at the end with and without WS, within {LEVEL} points"
        numbers = f"with WS training {train:+.2f}, test {test:+.2f} points"
        yield claim, max(abs(train), abs(test)) <= LEVEL, numbers


def batch_claims(curves: pd.DataFrame) -> Iterator[tuple[str, bool, str]]:
    for method in METHODS.values():
        place, found = accuracies(curves, method, "epochs", list(BATCHES))
        numbers = ", ".join(f"{name}: {v:.2f} %" for name, v in zip(BATCHES.values(), found, strict=True))
        claim = f"{method}: smaller batches are better per epoch (test accuracy after {place:.3g} epochs)"
        yield claim, bool((np.diff(found) < 0).all()), numbers
    for method in METHODS.values():
        place, found = accuracies(curves, method, "seconds", [600, 6000])
        claim = f"{method}: 600 and 6000 are alike per second, within {LEVEL} points (after {place:.2g} s)"
        numbers = f"600: {found[0]:.2f} %, 6000: {found[1]:.2f} %"
        yield claim, bool(np.ptp(found) <= LEVEL), numbers


def memory_claims(peaks: pd.DataFrame, stored: float) -> Iterator[tuple[str, bool, str]]:
    """stored: computed MB of the warm start."""
    cold, warm = (float(own(peaks, method, 600)["peak_mb"].iloc[0]) for method in METHODS.values())
    holds = abs((warm - cold) / stored - 1) <= 0.15
    yield f"batch 600: WS takes {stored:.0f} MB more, within 15 %", holds, f"measured {warm - cold:.0f} MB"


# --- page


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def claims_table(trials: pd.DataFrame, curves: pd.DataFrame, peaks: pd.DataFrame, stored: float) -> str:
    found = [*warm_start_claims(trials, curves), *batch_claims(curves), *memory_claims(peaks, stored)]
    rows = [[claim, "holds" if holds else "does not hold", numbers] for claim, holds, numbers in found]
    return markdown(["claim", "on these numbers it", "numbers"], rows)


def end_table(trials: pd.DataFrame, curves: pd.DataFrame) -> str:
    rows = []
    for batch, name in BATCHES.items():
        for method in METHODS.values():
            ends = own(trials, method, batch)
            cells = [f"{ends['upper_iteration'].iloc[0]:,.0f}", f"{ends['epochs'].iloc[0]:.3g}"]
            cells += [f"{ends['total'].iloc[0] / 1e6:.3g}", f"{ends['seconds'].mean():.3g}"]
            for metric, digits in zip(SHOWN, ("3g", "2f", "2f"), strict=True):
                low, mid, high = (f"{v:.{digits}}" for v in ends[metric].agg(["min", "mean", "max"]))
                cells.append(f"{mid} ({low} to {high})")
            norms = own(curves, method, batch).groupby("upper_iteration")["prox_map_norm"].mean()
            rows.append([name, method, *cells, f"{norms.idxmax()}"])
    head = ["batch", "method", "upper iterations", "epochs", "samples (M)", "seconds", *SHOWN.values()]
    head.append("upper iteration at which the mean norm peaks")
    return markdown(head, rows)


def memory_table(peaks: pd.DataFrame, each: float, stored: float) -> str:
    """Beside what is computed: y of a mini-batch (`each` MB an example) and the remembered rows."""
    rows = []
    for batch, name in BATCHES.items():
        for method, kept in zip(METHODS.values(), (0.0, stored), strict=True):
            before, peak = own(peaks, method, batch)[["before_mb", "peak_mb"]].to_numpy(float)[0]
            figures = (batch * each, kept, before, peak, peak - before)
            rows.append([name, method, *(f"{value:.1f}" for value in figures)])
    head = ["batch", "method", "y, computed", "remembered, computed", "before", "peak", "peak - before"]
    return markdown(head, rows)


def page(
    trials: pd.DataFrame, curves: pd.DataFrame, peaks: pd.DataFrame, problem: Equilibrium, name: str
) -> str:
    scale, published = SCALES[name], SCALES["paper"].iterations
    each = problem.dim_y * problem.dtype.itemsize / 1e6
    stored = each * problem.lower_examples
    sums = trials.groupby("batch_size")[["seconds", "epochs"]].sum()
    epoch = (sums["seconds"] / sums["epochs"]).to_dict()
    runs = "; ".join(
        f"batch {BATCHES[batch]}: {n:,} ({n * batch / problem.upper_examples:.3g} epochs; published code "
        f"{published[batch]:,})"
        for batch, n in scale.iterations.items()
    )
    return f"""# Equilibrium models on MNIST, Figure 1 of Grazzi, Pontil and Salzo (2023)

    python -m recipes.grazzi_figure1 --data-dir DIR --out docs/results/grazzi_figure1 --scale {name}

`equilibrium` on MNIST with d = {problem.width}, {problem.lower_examples:,} training and 10,000 test
examples, float32, data seed 0. t = k = 2 steps of size 1, alpha = 0.5, seeds {SEEDS[0]} to {SEEDS[-1]}, one
run of each; the system starts at -d_y f, as in the published code. Upper iterations:
{runs}.
One thread of a machine with {os.cpu_count()} CPUs, of load average {os.getloadavg()[2]:.1f} at the end;
seconds are of the steps alone.

A point of a curve takes {scale.examples:,} training and {scale.examples:,} test examples, the final
evaluation {problem.evaluation_examples:,} training examples, as in the published code, and all test
examples; y and z by 20 steps from 0 and -d_y f. The published code stores the square of the map's norm; this
is the norm.

![figure](figure1.png)

Curves: mean over the seeds (line), minimum and maximum (band); seconds are averaged over the seeds, point by
point. `curves.csv` has every point, `trials.csv` the final evaluations, `memory.csv` the memory.

## The claims of Section 7.1

{claims_table(trials, curves, peaks, stored)}
The norm of the map: geometric mean over the points after the first epoch; until then every example is met
for the first time, and both methods are the same. The paper's seconds are of a GPU, which it says makes 600
and 6000 alike; here an epoch takes {epoch[600]:.2g} s with 600 and {epoch[6000]:.2g} s with 6000.

## At the end of the runs: mean (minimum to maximum) over the seeds

{end_table(trials, curves)}
A run that ends near the peak of the norm (last column) says little about what comes later.

## Memory in MB

{memory_table(peaks, each, stored)}
Computed: 4 bytes a number; y of one mini-batch, of which a method holds several at a time, and the rows that
the warm start remembers, one for every example. Measured: ru_maxrss of a process of its own, before the
search (data and libraries) and after two upper iterations and the evaluation.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scale", choices=SCALES, default="small")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    scale = SCALES[given.scale]
    problem = Equilibrium(curve_examples=scale.examples)
    problem.setup(given.data_dir, 0, CPU, problem.dtype)
    peaks = memory(problem)
    trials, curves = experiment(problem, scale)
    columns = ["method", "batch_size", "seed", *PLACE, *problem.metric_names]
    tables = {"trials": trials[columns], "curves": curves[columns], "memory": peaks}
    for name, table in tables.items():
        table.to_csv(given.out / f"{name}.csv", index=False, float_format="%.6g")
    with house_style():
        write_figure(figure(curves), given.out)
    text = page(trials, curves, peaks, problem, given.scale)
    (given.out / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
