"""How often the intervals and tests of the reports are right, in simulated studies whose truth is known.

    python -m upkeep.coverage --studies 1000 > docs/results/coverage.md

Objectives are drawn from a normal, a heavy-tailed (log-normal, sigma 2) and a tied distribution (a normal one
cut off at its median, as where half of the trials score what x0 scores).
"""

import argparse
import sys
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from reports import across, bands, pairwise, statistics

Floats = NDArray[np.float64]
QUANTILES: dict[str, Callable[[Floats], Floats]] = {
    "normal": stats.norm.ppf,
    "heavy-tailed": stats.lognorm(2).ppf,
    "tied": lambda u: np.minimum(stats.norm.ppf(u), 0.0),
}
HEAD = """# Coverage

Simulated studies, made by `python -m upkeep.coverage --studies {studies} > docs/results/coverage.md`; the
standard error of a figure near 95 % is {error:.1f} points. *Exact*: should be 95 %. *At least*: 95 % or
more by construction. A small version runs with the tests (`test_statistics.py`, `test_pairwise.py` and
`test_compare.py` in `tests/reports`).

| what | studies of | should be | covers |
|---|---|---|--:|
"""


def tuning(studies: int, rng: np.random.Generator) -> Iterator[tuple[str, str, str, float]]:
    """The band of the distribution, and the medians of the best of n, all n at once."""
    for size in (10, 30, 100):
        low, high = bands.cdf_band(size)
        level = 1 - 0.5 ** (1 / np.arange(1, size + 1))
        for name, quantile in QUANTILES.items():
            ranks = np.sort(rng.random((studies, size)), axis=1)
            values, truth = quantile(ranks), quantile(level)
            inside = []
            for study in values:
                lower, upper = statistics.best_of_n_band(study, np.arange(1, len(study) + 1), low, high)
                inside.append(bool(((lower <= truth) & (truth <= upper)).all()))
            if name == "normal":  # of ranks only: the same for all continuous distributions
                whole = ((low[1:] <= ranks) & (ranks <= high[:-1])).all(axis=1)
                yield (
                    "band of the distribution",
                    f"{size} trials, any continuous",
                    "exact",
                    float(whole.mean()),
                )
            yield (
                "band of the medians of the best of n",
                f"{size} trials, {name}",
                "at least",
                float(np.mean(inside)),
            )


def bootstrap(studies: int, rng: np.random.Generator) -> Iterator[tuple[str, str, str, float]]:
    """What reports had before: the percentile bootstrap of the expected best, here of 30 normal trials."""
    size, resamples = 30, 300
    rank = np.arange(1, size + 1)
    for n in (1, 5, 10, 20, 30):
        truth = rng.normal(size=(200_000, n)).min(axis=1).mean()
        weights = special.comb(size - rank, n - 1) / special.comb(size, n)
        inside = 0
        for _ in range(studies):
            drawn = np.sort(rng.choice(rng.normal(size=size), size=(resamples, size)), axis=1)
            low, high = np.quantile(drawn @ weights, [0.025, 0.975])
            inside += int(low <= truth <= high)
        yield f"dropped: bootstrap of the expected best of {n}", "30 trials, normal", "95", inside / studies


def intervals(studies: int, rng: np.random.Generator) -> Iterator[tuple[str, str, str, float]]:
    """Shares, medians and interquartile means."""
    for share in (0.05, 0.5):
        hits = rng.binomial(30, share, size=studies)
        spans = {n: statistics.clopper_pearson(n, 30) for n in set(hits.tolist())}
        inside = [spans[n][0] <= share <= spans[n][1] for n in hits.tolist()]
        yield (
            "share of trials (Clopper-Pearson)",
            f"30 trials, share {share:g}",
            "at least",
            float(np.mean(inside)),
        )
    for size in (10, 30):
        spans_of = [statistics.median_interval(rng.normal(size=size)) for _ in range(studies)]
        inside = [low <= 0 <= high for low, high in spans_of]
        yield "median of paired differences", f"{size} pairs", "at least", float(np.mean(inside))
    found = []
    for _ in range(studies):
        scores = [rng.normal(1, 0.1, size=40), rng.normal(3, 1, size=40)]
        _, low, high = across.stratified(scores, rng, resamples=300)
        found.append(low <= 2 <= high)
    yield (
        "interquartile mean across problems (bootstrap)",
        "2 problems, 40 trials",
        "about",
        float(np.mean(found)),
    )


def tests(studies: int, rng: np.random.Generator) -> Iterator[tuple[str, str, str, float]]:
    """Six equal solvers with common draws: how often no pair is called different."""
    for size in (10, 30):
        quiet = 0
        for _ in range(studies):
            trials = rng.normal(size=size) + rng.normal(size=(6, size))
            found = [
                pairwise.compare(trials[i], trials[j], paired=True).p for i in range(6) for j in range(i)
            ]
            quiet += min(pairwise.holm(found)) >= 0.05
        yield (
            "no false difference among 15 pairs (Wilcoxon, Holm)",
            f"{size} trials",
            "at least",
            quiet / studies,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000)
    studies = parser.parse_args().studies
    rng = np.random.default_rng(0)
    sys.stdout.write(HEAD.format(studies=studies, error=100 * np.sqrt(0.95 * 0.05 / studies)))
    for make in (tuning, intervals, tests, bootstrap):
        for what, of, should, covers in make(studies, rng):
            sys.stdout.write(f"| {what} | {of} | {should} | {100 * covers:.1f} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
