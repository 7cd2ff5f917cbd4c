"""The numbers of a report: pure functions of arrays and frames, lower is better everywhere.

A trial without a usable objective (failed: NaN; ranked last: +inf) is never dropped from a statistic of a
search: `failures_last` makes it +inf, worse than any number and the same whatever other trials did.
Randomness enters as a `Generator`.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def top(trials: pd.DataFrame, k: int) -> pd.DataFrame:
    """The `k` trials of lowest finite `objective` (or as many as there are), best first, ties by `number`."""
    usable = trials[np.isfinite(trials["objective"].to_numpy(dtype=float))]
    best_first: pd.DataFrame = usable.sort_values(["objective", "number"], kind="stable")
    return best_first.head(k)


def mean_std(values: ArrayLike) -> tuple[float, float]:
    """Mean and sample standard deviation (divisor n - 1) of the finite values; NaN where undefined."""
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    mean = float(finite.mean()) if finite.size else float("nan")
    return mean, float(finite.std(ddof=1)) if finite.size > 1 else float("nan")


def failures_last(values: ArrayLike) -> Floats:
    """`values` with +inf for everything not finite: a failed trial ranks behind every other."""
    ranked = np.array(values, dtype=float)
    ranked[~np.isfinite(ranked)] = np.inf
    return ranked


def effort_grid(size: int) -> NDArray[np.int64]:
    """1, ..., N, of more than 200 those that can be told apart on a log axis."""
    spread = np.geomspace(1, max(size, 1), 200).round().astype(int)
    return np.arange(1, size + 1) if size <= 200 else np.unique(np.concatenate([np.arange(1, 101), spread]))


def best_of_n_mean(values: ArrayLike, n: NDArray[np.int64]) -> Floats:
    """Expected minimum of n of the N values drawn without replacement, for each n.

    With x_(1) <= ... <= x_(N), i the rank,

        E_n = sum_i  C(N - i, n - 1) / C(N, n)  x_(i),

    the mean over all subsets of size n, hence unbiased for the expected best of n fresh independent trials;
    +inf for as long as a subset can hold nothing but failures. The estimate of Dodge et al. 2019, "Show Your
    Work", draws with replacement and is biased (for a minimum: upwards); this one is that of Tang et al.
    2020, "Showing Your Work Doesn't Always Work".
    """
    ordered = np.sort(failures_last(values))
    usable = int(np.isfinite(ordered).sum())
    expected = [_best_of_n_weights(ordered.size, int(one), usable) @ ordered[:usable] for one in n]
    return np.where(n > ordered.size - usable, np.asarray(expected, dtype=float), np.inf)


def best_of_n_median(values: ArrayLike, n: NDArray[np.int64]) -> Floats:
    """Median of the best of n fresh trials, for each n: the quantile 1 - 2^(-1/n) of the N values.

    The best of n exceeds y with probability (1 - F(y))^n, one half at that quantile of F; here F is the
    empirical distribution.
    """
    ordered = np.sort(failures_last(values))
    place = np.ceil(_median_levels(n) * ordered.size - 1e-12).astype(int) - 1
    return np.asarray(ordered[place], dtype=float)


def best_of_n_band(
    values: ArrayLike, n: NDArray[np.int64], cdf_low: Floats, cdf_high: Floats
) -> tuple[Floats, Floats]:
    """Band of the median of the best of n, for each n: `(low, high)`, infinite where it has no bound.

    cdf_low, cdf_high: `(N + 1,)`, a simultaneous band of the distribution F at level L: with probability L,
    cdf_low[j] <= F(y) <= cdf_high[j] for all y in [x_(j), x_(j+1)) and all j at once (`bands.cdf_band`). Then
    all medians lie in the band at once with probability L at least, whatever F is.
    """
    ordered = np.sort(failures_last(values))
    level = _median_levels(n)
    low = np.concatenate([[-np.inf], ordered])[np.searchsorted(cdf_high, level, side="left")]
    high = np.concatenate([[-np.inf], ordered, [np.inf]])[np.searchsorted(cdf_low, level, side="left")]
    return low, high


def _median_levels(n: NDArray[np.int64]) -> Floats:
    return np.asarray(1 - 0.5 ** (1 / n), dtype=float)


def best_so_far(values: ArrayLike) -> Floats:
    """Best of the first n values in their order, for n = 1, ..., N."""
    return np.asarray(np.minimum.accumulate(failures_last(values)), dtype=float)


def _best_of_n_weights(size: int, n: int, ranks: int) -> Floats:
    """C(N - i, n - 1) / C(N, n) for i = 1, ..., ranks, as products that never overflow."""
    i = np.arange(1, max(ranks, 1))
    ratios = np.clip((size - i - n + 1) / (size - i), 0, None)
    return np.asarray(n / size * np.cumprod(np.concatenate([[1.0], ratios])), dtype=float)[:ranks]


def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Exact binomial confidence interval of a proportion (Clopper and Pearson 1934); (0, 1) for no trial."""
    from scipy.stats import beta

    tail = (1 - level) / 2
    low = float(beta.ppf(tail, successes, trials - successes + 1)) if successes else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, trials - successes)) if successes < trials else 1.0
    return low, high


def running_median(x: ArrayLike, y: ArrayLike, window: int) -> tuple[Floats, Floats]:
    """Median of x and of y over every `window` neighbours in x, of many windows over 200 of them; empty with
    fewer points than one."""
    across, values = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if across.size < window:
        return np.empty(0), np.empty(0)
    order = np.argsort(across, kind="stable")
    both = np.stack([across[order], values[order]])
    last = across.size - window
    starts = np.unique(np.linspace(0, last, min(last + 1, 200)).astype(int))
    middle = np.array([np.median(both[:, start : start + window], axis=1) for start in starts])
    return middle[:, 0], middle[:, 1]


def local_median(points: Floats, values: ArrayLike, at: Floats, k: int) -> Floats:
    """`(M,)`: at each of `at (M, 2)` the median of `values` at the `k` nearest of `points (N, 2)` and at all
    that are as near as the last of these, failures worst; of an even number the upper of the two in the
    middle."""
    ranked, last = failures_last(values), min(k, len(points)) - 1
    across, up = np.ascontiguousarray(points.T)

    def middle(place: Floats) -> float:
        """One place at a time, so that no M x N array is held."""
        away = (across - place[0]) ** 2 + (up - place[1]) ** 2
        near = ranked[away <= np.partition(away, last)[last]]
        return float(np.partition(near, len(near) // 2)[len(near) // 2])

    return np.array([middle(place) for place in at], dtype=float)


def share_at_or_below(values: ArrayLike) -> tuple[Floats, Floats]:
    """Empirical distribution `(value, share of all values at or below it)`; not finite is never reached."""
    observed = np.asarray(values, dtype=float)
    reached = np.sort(observed[np.isfinite(observed)])
    return reached, np.arange(1, reached.size + 1) / max(observed.size, 1)


def sample_grid(curves: pd.DataFrame, budget: float, points: int = 80) -> Floats:
    """Log-spaced sample counts from the first one logged above zero to the budget; empty without one."""
    logged = curves["ledger.total"].to_numpy(dtype=float)
    logged = logged[np.isfinite(logged) & (logged > 0)]
    if not logged.size:
        return np.empty(0)
    return np.geomspace(logged.min(), max(budget, logged.max()), points)


def on_grid(points: pd.DataFrame, column: str, grid: Floats) -> Floats:
    """`(trials, grid)`: at every count of `grid` the last value of `column` at or before it, NaN before the
    first; trials of `points` in order of `number`.

    Before its first upper iteration a trial stands at x0, where its first point is.
    """
    numbers, at, values = (points[name].to_numpy() for name in ("number", "ledger.total", column))
    trials, row = np.unique(numbers, return_inverse=True)
    usable = ~np.isnan(values.astype(float)) & np.isfinite(at.astype(float))
    row, at, values = row[usable], at[usable].astype(float), values[usable].astype(float)
    order = np.lexsort((at, row))
    row, place, values = row[order], np.searchsorted(grid, at[order], side="left"), values[order]
    last = np.append((row[1:] != row[:-1]) | (place[1:] != place[:-1]), True)[: row.size]
    shown = last & (place < grid.size)
    result = np.full((trials.size, grid.size), np.nan)
    result[row[shown], place[shown]] = values[shown]
    known = np.where(np.isnan(result), 0, np.arange(grid.size))  # 0 before the first, which is NaN there
    np.maximum.accumulate(known, axis=1, out=known)
    return np.take_along_axis(result, known, axis=1)


def quantiles(values: Floats, levels: Sequence[float]) -> Floats:
    """`(levels, grid)`: quantiles down `values (trials, grid)`, NaN where half of them or more have none."""
    result = np.full((len(levels), values.shape[1]), np.nan)
    present = 2 * np.isfinite(values).sum(axis=0) > len(values)
    if present.any():
        result[:, present] = np.nanquantile(values[:, present], levels, axis=0, method="inverted_cdf")
    return result


def best_at_budget(points: pd.DataFrame, objective: str, headline: str, grid: Floats) -> pd.DataFrame:
    """Of one solver, the trial to choose at every budget: columns `samples, number, objective, headline`.

    At a budget B every trial stands at its last point at or before B, as if stopped there, a diverged one at
    what its rule says from then on; the trial of lowest `objective` is chosen and its `headline` reported.
    NaN where no trial has a point.
    """
    result = pd.DataFrame({"samples": grid, "number": np.nan, "objective": np.nan, "headline": np.nan})
    if points.empty:
        return result
    selection = failures_last(on_grid(points, objective, grid))
    chosen = selection.argmin(axis=0)
    place = (chosen, np.arange(grid.size))
    there = np.isfinite(selection[place])
    numbers = np.sort(points["number"].unique()).astype(float)
    result["number"] = np.where(there, numbers[chosen], np.nan)
    result["objective"] = np.where(there, selection[place], np.nan)
    reported = selection if headline == objective else on_grid(points, headline, grid)
    result["headline"] = np.where(there, reported[place], np.nan)
    return result


def targets(values: ArrayLike, start: float) -> list[float]:
    """Targets of an objective, easy to hard: quantiles 0.5, 0.25 and 0.1 of all values, failures last, but
    for what the start (NaN: not known) has reached already."""
    observed = failures_last(values)
    if not observed.size:
        return []
    found = np.quantile(observed, [0.5, 0.25, 0.1], method="inverted_cdf")
    return [float(target) for target in dict.fromkeys(found) if np.isfinite(target) and not target >= start]


def samples_to_target(
    points: pd.DataFrame, objective: str, target: float
) -> tuple[Floats, NDArray[np.bool_]]:
    """Per trial of `points`, in order of number: samples at its first point at or below `target`, or at its
    last point where there is none, and whether there is one."""
    if points.empty:
        return np.empty(0), np.empty(0, dtype=bool)
    number, total = (points[name].to_numpy(dtype=float) for name in ("number", "ledger.total"))
    order = np.lexsort((total, number))
    number, total = number[order], total[order]
    hit = points[objective].to_numpy(dtype=float)[order] <= target
    begins = np.flatnonzero(np.append(True, number[1:] != number[:-1]))
    first = np.minimum.reduceat(np.where(hit, np.arange(hit.size), hit.size), begins)
    reached = first < hit.size
    used = np.where(reached, total[np.minimum(first, hit.size - 1)], np.fmax.reduceat(total, begins))
    return used, reached


def expected_running_time(used: ArrayLike, reached: ArrayLike) -> float:
    """Samples that a search with restarts needs on average to reach a target, one trial after the other, each
    a fresh draw: all samples used over the number of trials that reached it (Hansen et al. 2021, COCO)."""
    successes = int(np.sum(reached))
    return float(np.sum(used)) / successes if successes else float("inf")


def restarted(used: ArrayLike, reached: ArrayLike, rng: np.random.Generator, runs: int = 1000) -> Floats:
    """Samples to the target in `runs` simulated searches: trials drawn until one gets there."""
    samples, hits = np.asarray(used, dtype=float), np.asarray(reached, dtype=bool)
    if not hits.any():
        return np.full(runs, np.inf)
    total, going = np.zeros(runs), np.arange(runs)
    while going.size:
        drawn = rng.integers(samples.size, size=going.size)
        total[going] += samples[drawn]
        going = going[~hits[drawn]]
    return total


def median_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Exact, distribution-free interval of a median: the order statistics whose ranks a fair coin leaves
    between them with probability `level` at least; infinite where N is too small."""
    from scipy.stats import binom

    ordered = np.sort(np.asarray(values, dtype=float))
    rank = int(binom.ppf((1 - level) / 2, ordered.size, 0.5)) if ordered.size else 0
    if rank == 0:
        return -np.inf, np.inf
    return float(ordered[rank - 1]), float(ordered[-rank])
