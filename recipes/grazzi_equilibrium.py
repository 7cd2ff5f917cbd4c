"""Equilibrium models on MNIST (Grazzi, Pontil and Salzo 2023, Section 7.1, Figure 1): BSGM and BSGM+WS.

Both methods with three sizes of mini-batches, the last of them all examples, and five seeds: the norm of the
proximal-gradient map, training and test accuracy against epochs and time; the memory that the warm start
takes. A study for each size and seed, one after the other, so that a trial's seconds are its own. Memory
is measured apart, by Linux's /proc.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from harness.plugins import Plugins
from harness.problem import Problem
from harness.record import Record
from harness.rules import Rules
from harness.runner import run_pack
from harness.space import find_space
from recipes.recipe import Claim, Findings, Part, Recipe, SetUp, markdown
from reports.figures import WIDTH, Picture

METHODS = {"bsgm": "BSGM", "bsgm_ws": "BSGM+WS"}
SHOWN = {
    "prox_map_norm": "norm of the prox. map",
    "train_accuracy": "training accuracy (%)",
    "test_accuracy": "test accuracy (%)",
}
SAMPLES = 6  # of an example and upper iteration: t + k + 1 + 1
LEVEL = 0.5  # points of accuracy that count as the same
CPU = torch.device("cpu")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scale:
    """iterations: upper iterations by batch size, the last of all examples. points: of a curve. examples: of
    a point of a curve, both of the training and of the test set. The scale "quarter" has a quarter of the
    paper's upper iterations, but for the full batch."""

    dataset: str
    iterations: Mapping[int, int]
    seeds: int
    points: int
    examples: int

    @property
    def batches(self) -> dict[int, str]:
        """What they are called, by size."""
        *sizes, everything = self.iterations
        return {size: f"{size}" for size in sizes} | {everything: "all"}


class GrazziEquilibrium(Recipe):
    title = "Equilibrium models on MNIST: Figure 1 of Grazzi, Pontil and Salzo (2023)"
    scales = {
        "smoke": Scale("digits", {24: 130, 144: 25, 1437: 4}, 2, 6, 100),
        "small": Scale("mnist", {600: 1500, 6000: 200, 60_000: 60}, 5, 16, 2000),
        "quarter": Scale("mnist", {600: 4166, 6000: 3333, 60_000: 60}, 3, 40, 2000),
        "paper": Scale("mnist", {600: 16_666, 6000: 13_333, 60_000: 3333}, 5, 100, 10_000),
    }

    def parts(self, scale: Scale, setup: SetUp) -> list[Part]:
        return [
            Part(
                f"batch-{name}-seed-{seed}",
                "equilibrium",
                list(METHODS),
                SAMPLES * size * scale.iterations[size],
                options=_options(scale),
                spaces={method: _space(method, size) for method in METHODS},
                seed=seed,
                curves=scale.points,
                alone=True,
            )
            for size, name in scale.batches.items()
            for seed in range(scale.seeds)
        ]

    def findings(self, records: Mapping[str, Record], scale: Scale, setup: SetUp) -> Findings:
        problem = setup("equilibrium", **_options(scale))
        trials, curves = frames(records, problem)
        found = [
            *warm_start_claims(trials, curves, scale.batches),
            *batch_claims(curves, scale.batches),
            memory_claim(problem, min(scale.batches)),
        ]
        tables = {
            "At the end of the runs: mean (minimum to maximum) over the seeds": end_table(
                trials, curves, scale.batches
            ),
        }
        note = _note(problem, scale, self.scales["paper"], trials)
        return Findings(found, tables, [figure(curves, scale.batches)], note)


RECIPE = GrazziEquilibrium()


def _options(scale: Scale) -> dict[str, object]:
    return {"dataset": scale.dataset, "curve_examples": scale.examples}


def _space(method: str, batch_size: int) -> dict[str, object]:
    """The paper's configuration."""
    shipped = find_space("equilibrium", None).space(method, Plugins().solver(method))
    return {name: entry["value"] for name, entry in shipped.entries.items()} | {"batch_size": batch_size}


# --- numbers


def frames(records: Mapping[str, Record], problem: Problem) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Trials, one row each with its final evaluation, and the points of their curves."""
    trials = pd.concat([record.trials for record in records.values()], ignore_index=True)
    points = []
    for record in records.values():
        columns = ["trial", "param.batch_size", "seed"]
        points.append(record.curves.merge(record.trials[columns], on="trial"))
    curves = pd.concat(points, ignore_index=True)
    both = []
    for frame in (trials, curves):
        short = frame.rename(columns={"upper_iterations": "upper_iteration"}).rename(
            columns=lambda name: name.removeprefix("metric.").removeprefix("param.").replace("ledger.", "")
        )
        epochs = short["upper_gradient"] / problem.upper_examples
        both.append(short.assign(method=short["solver"].map(METHODS), epochs=epochs))
    return both[0], both[1]


def warm_start_megabytes(problem: Problem, batch: int) -> float:
    """How much higher the peak of two upper iterations and an evaluation is with the warm start, each in a
    process of its own, a fresh one: a fork could meet locks that threads of this one hold."""
    peaks = []
    for name in METHODS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peaks.append(pool.apply(_peak_megabytes, (problem, name, batch)))
        pool.join()
    cold, warm = peaks
    return warm - cold


def _peak_megabytes(problem: Problem, name: str, batch: int) -> float:
    torch.set_num_threads(1)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before = _high_water()
    solver = Plugins().solver(name)
    config = find_space("equilibrium", None).space(name, solver).resolve({}) | {"batch_size": batch}
    run_pack(problem, solver, [config], Rules(SAMPLES * batch * 2, {}, 0, curves=0), CPU, problem.dtype)
    return _high_water() - before


def _high_water() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


# --- figure

CAPTION = "Mean over the seeds (line), minimum and maximum (band); seconds are averaged point by point."


def own(frame: pd.DataFrame, method: str, batch: int) -> pd.DataFrame:
    """The rows of one method and batch size."""
    return frame[(frame["method"] == method) & (frame["batch_size"] == batch)]


def bands(
    curves: pd.DataFrame, metric: str, batches: Mapping[int, str]
) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """Per method and batch size, over the seeds: epochs, mean seconds, and mean, min and max of the metric.

    All seeds are logged at the same upper iterations."""
    for batch in batches:
        for method in METHODS.values():
            by_place = own(curves[curves["epochs"] > 0], method, batch).groupby("epochs")
            band = by_place[metric].agg(["mean", "min", "max"]).assign(seconds=by_place["seconds"].mean())
            yield method, batch, band.reset_index()


def figure(curves: pd.DataFrame, batches: Mapping[int, str]) -> Picture:
    import seaborn
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    drawing = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    rows = drawing.subplots(2, 3, sharex="row", sharey="col")
    colours = dict(zip(batches, seaborn.color_palette("colorblind"), strict=False))
    dashes = dict(zip(METHODS.values(), ("-", "--"), strict=True))
    for axes, (column, label) in zip(rows, {"epochs": "epochs", "seconds": "seconds"}.items(), strict=True):
        for panel, (metric, name) in zip(axes, SHOWN.items(), strict=True):
            for method, batch, band in bands(curves, metric, batches):
                look = {"color": colours[batch], "label": f"{method}, batch {batches[batch]}"}
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
    return Picture("figure1", "Grazzi et al., Figure 1", CAPTION, drawing)


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


def warm_start_claims(
    trials: pd.DataFrame, curves: pd.DataFrame, batches: Mapping[int, str]
) -> Iterator[Claim]:
    means = []
    for batch, name in batches.items():
        change = changes(curves, batch)
        means.append(float(change.mean()))
        numbers = f"with WS {means[-1]:+.1f} % (seeds: {change.min():+.1f} to {change.max():+.1f})"
        claim = f"batch {name}: WS lowers the norm of the map, for every seed"
        yield Claim(claim, bool(change.max() < 0), numbers)
    numbers = ", ".join(f"{name}: {mean:+.1f} %" for name, mean in zip(batches.values(), means, strict=True))
    holds = means == sorted(means, reverse=True)
    yield Claim("WS lowers the norm less for smaller batches", holds, numbers)
    for batch, name in batches.items():
        cold, warm = (own(trials, method, batch) for method in METHODS.values())
        train, test = (
            float(warm[metric].mean() - cold[metric].mean()) for metric in ("train_accuracy", "test_accuracy")
        )
        claim = f"batch {name}: the same accuracies at the end with and without WS, within {LEVEL} points"
        numbers = f"with WS training {train:+.2f}, test {test:+.2f} points"
        yield Claim(claim, max(abs(train), abs(test)) <= LEVEL, numbers)


def batch_claims(curves: pd.DataFrame, batches: Mapping[int, str]) -> Iterator[Claim]:
    for method in METHODS.values():
        place, found = accuracies(curves, method, "epochs", list(batches))
        numbers = ", ".join(f"{name}: {v:.2f} %" for name, v in zip(batches.values(), found, strict=True))
        claim = f"{method}: smaller batches are better per epoch (test accuracy after {place:.3g} epochs)"
        yield Claim(claim, bool((np.diff(found) < 0).all()), numbers)
    small, large, *_ = batches
    for method in METHODS.values():
        place, found = accuracies(curves, method, "seconds", [small, large])
        claim = f"{method}: {small} and {large} are alike per second, within {LEVEL} points ({place:.2g} s)"
        numbers = f"{small}: {found[0]:.2f} %, {large}: {found[1]:.2f} %"
        yield Claim(claim, bool(np.ptp(found) <= LEVEL), numbers)


def memory_claim(problem: Problem, batch: int) -> Claim:
    stored = problem.dim_y * problem.dtype.itemsize / 1e6 * problem.lower_examples
    measured = warm_start_megabytes(problem, batch)
    claim = f"batch {batch}: WS takes the {stored:.3g} MB of a y for every example more, within 15 %"
    return Claim(claim, abs(measured / stored - 1) <= 0.15, f"measured {measured:.3g} MB")


# --- tables


def end_table(trials: pd.DataFrame, curves: pd.DataFrame, batches: Mapping[int, str]) -> str:
    rows = []
    for batch, name in batches.items():
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


def _note(problem: Problem, scale: Scale, paper: Scale, trials: pd.DataFrame) -> str:
    sums = trials.groupby("batch_size")[["seconds", "epochs"]].sum()
    epoch = (sums["seconds"] / sums["epochs"]).to_dict()
    runs = "; ".join(
        f"batch {scale.batches[size]}: {n:,} ({n * size / problem.upper_examples:.3g} epochs)"
        for size, n in scale.iterations.items()
    )
    published = ", ".join(f"{n:,}" for n in paper.iterations.values())
    seconds = ", ".join(f"{epoch[size]:.2g} s with {name}" for size, name in scale.batches.items())
    return f"""`equilibrium` on {scale.dataset}, {problem.lower_examples:,} training examples, data seed 0.
t = k = 2 steps of size 1, alpha = 0.5, {scale.seeds} seeds, one run of each; the system starts at -d_y f, as
in the published code. Upper iterations: {runs}; the published code has {published}. One thread; seconds are
of the steps alone: an epoch takes {seconds}. The paper's seconds are of a GPU, which it says makes its
two smaller sizes alike. The published code stores the square of the map's norm; this is the norm, as a
geometric mean over the points after the first epoch: until then every example is met for the first time,
and both methods are the same. A run that ends near the peak of the norm says little about what comes
later."""
