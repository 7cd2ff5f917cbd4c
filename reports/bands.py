"""Exact, simultaneous, distribution-free bands of a distribution function, from opda.

N independent draws of a continuous distribution have ranks whose law is known, so a band around the
empirical distribution can have exactly its level for all of F at once, whatever F is (Lourie, Cho and He
2023, "Show Your Work with Confidence"; Learned-Miller and DeStefano 2008). With ties it covers at least as
often.
"""

from __future__ import annotations

import json
import os
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

METHOD = "ld_equal_tailed"
LEVEL = 0.95
MOST, RANKS = 1000, 100


@lru_cache(maxsize=32)
def cdf_band(size: int, level: float = LEVEL) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`(low, high)`, each `(N + 1,)`: bounds of F on [x_(j), x_(j+1)), j = 0, ..., N, from N draws.

    opda simulates its cut-off, for seconds to minutes; it depends on N and the level only and is kept in the
    user's cache. For N above MOST, where that takes hours, `by_ranks`.
    """
    if size > MOST:
        return by_ranks(size, level)
    path = _cache() / f"{METHOD}-{size}-{level:g}.json"
    try:
        low, high = (np.array(bounds, dtype=float) for bounds in json.loads(path.read_text("utf-8")))
        if low.shape == high.shape == (size + 1,):
            return low, high
    except (OSError, ValueError):
        pass  # not there yet, or damaged: made anew
    low, high = _made(size, level)
    _keep(path, json.dumps([low.tolist(), high.tolist()]))
    return low, high


def by_ranks(size: int, level: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`(low, high)` as of `cdf_band`, which covers F at least at its level: F(x_(j)) is Beta(j, N - j + 1),
    exact intervals at some ranks hold together by Bonferroni's inequality, and F rises between them."""
    from scipy.stats import beta

    tails = np.geomspace(1, size, RANKS)  # close to each other where F is steep on a log axis
    spread = np.concatenate([tails, size + 1 - tails, np.linspace(1, size, RANKS)])
    ranks = np.unique(spread.round().astype(int))
    tail = (1 - level) / 2 / ranks.size
    below, above = (beta.ppf(q, ranks, size - ranks + 1) for q in (tail, 1 - tail))
    place = np.arange(size + 1)
    low = np.append(0.0, below)[np.searchsorted(ranks, place, side="right")]
    high = np.append(above, 1.0)[np.searchsorted(ranks, place, side="right")]
    return low, high


def described(size: int) -> str:
    """What kind of band it is, for captions."""
    if size > MOST:
        return (
            "simultaneous, distribution-free 95 % band (or wider: exact intervals at some ranks, Bonferroni)"
        )
    return "exact, simultaneous, distribution-free 95 % band (opda)"


def _cache() -> Path:
    return user_cache_path("bilevel-harness") / "bands"


def _made(size: int, level: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from opda.nonparametric import EmpiricalDistribution

    low, _, high = EmpiricalDistribution.confidence_bands(
        np.arange(1.0, size + 1), level, generator=np.random.default_rng(0), method=METHOD, n_jobs=1
    )
    between = np.arange(size + 1) + 0.5
    return np.asarray(low.cdf(between), dtype=float), np.asarray(high.cdf(between), dtype=float)


def _keep(path: Path, content: str) -> None:
    """Whole or not at all; a cache that cannot be written to is done without."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
        os.replace(name, path)
    except OSError:
        return
