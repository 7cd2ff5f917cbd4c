"""The 20 Newsgroups as word counts: from a file of counts, or made once of what scikit-learn downloads.

One door: `read`. With a data folder it reads 20news/20news_counts_*.npz there; without one the same file in
the user's cache, where it is written once from `sklearn.datasets.fetch_20newsgroups_vectorized`. Either way
one SHA-256 holds for the counts themselves, and no pickle is opened but the one that scikit-learn has just
written in a folder of its own, which is removed when the counts are saved.
"""

import hashlib
import io
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.api import HarnessError, generator
from harness.data import find_or_make

GROUPS = 20
DATASETS = ("20news", "drawn")
DRAWN = {"train": 600, "test": 300}  # documents
DRAWN_LENGTH = (3.5, 1.0)  # of a drawn document: mean and deviation of the logarithm

_FILES = {
    130107: ("all", (), "f6ea10708530a292632dbef17d13fe7f79556edf5a4e23ab16e6a61510451b46"),
    101631: (
        "stripped",
        ("headers", "footers", "quotes"),
        "d19b66526f089fd3f91f2a24201facd0dfef8eb65275768f9703a6b0e15811b1",
    ),
}
FEATURES = tuple(_FILES)

Array = NDArray[Any]


class Counts(NamedTuple):
    """Documents as sparse rows: the non-zero counts and their features (nnz,), row by row; where a row starts
    (n + 1,); the group of each document (n,)."""

    counts: Array
    features: Array
    starts: Array
    groups: Array


_ARRAYS = {"data": "<i2", "indices": "<i4", "indptr": "<i4", "y": "<i2"}  # in a file, in the order of Counts


class Texts(NamedTuple):
    train: Counts
    test: Counts


def read(dataset: str, features: int, data_dir: Path | None, data_seed: int) -> Texts:
    """Training and test documents. features: of 20 Newsgroups 130107 or 101631, of drawn ones any number.

    data_seed: of the drawn ones; the split of 20 Newsgroups is the official one, by date."""
    if dataset == "drawn":
        if features < 2:
            raise HarnessError(f"newsgroups: features must be at least 2, but got {features}")
        return _drawn(features, data_seed)
    if features not in _FILES:
        raise HarnessError(f"newsgroups: features must be one of {FEATURES}, but got {features}")
    kind, _, sha256 = _FILES[features]
    path = find_or_make(
        data_dir, "20news", f"20news_counts_{kind}.npz", lambda path: _download(features, path)
    )
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            texts = Texts(*(_part(file, split) for split in Texts._fields))
        found = digest(texts)
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise HarnessError(f"{path} cannot be read ({' '.join(str(error).split())}): get it again") from None
    if found != sha256:
        raise HarnessError(
            f"{path} holds counts of SHA-256 {found[:12]}…, expected {sha256[:12]}…: get it again"
        )
    return texts


def _part(file: Any, split: str) -> Counts:
    return Counts(*(file[f"{split}_{key}"] for key in _ARRAYS))


def digest(texts: Texts) -> str:
    """SHA-256 of the counts, whatever file they come from."""
    found = hashlib.sha256()
    for array, dtype in zip((*texts.train, *texts.test), 2 * list(_ARRAYS.values()), strict=True):
        found.update(np.ascontiguousarray(array, dtype).tobytes())
    return found.hexdigest()


def _download(features: int, path: Path) -> None:
    """Counts of what scikit-learn downloads and vectorises, beside which it keeps its own files."""
    from sklearn.datasets import fetch_20newsgroups_vectorized

    _, remove, sha256 = _FILES[features]
    parts = []
    for split in Texts._fields:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its retries: the error says it all
            matrix, groups = fetch_20newsgroups_vectorized(
                subset=split, remove=remove, data_home=path.parent, normalize=False, return_X_y=True
            )
        matrix.sort_indices()
        parts.append(Counts(matrix.data, matrix.indices, matrix.indptr, groups))
    texts = Texts(*parts)
    found = digest(texts)
    if found != sha256:
        raise HarnessError(
            f"scikit-learn's 20 Newsgroups have counts of SHA-256 {found[:12]}…, expected {sha256[:12]}…; "
            f"put 20news/{path.name} in a folder and name it with --data-dir"
        )
    arrays: dict[str, Any] = {
        f"{split}_{key}": np.asarray(array, dtype)
        for split, part in texts._asdict().items()
        for (key, dtype), array in zip(_ARRAYS.items(), part, strict=True)
    }
    np.savez_compressed(path, **arrays)


def _drawn(features: int, data_seed: int) -> Texts:
    """Documents whose words follow Zipf's law, with frequencies of each group's own; some are empty, as some
    of the stripped ones are."""
    draw = generator(data_seed, "newsgroups")
    common = 1 / (10 + np.arange(features))
    frequencies = common * np.exp(draw.normal(size=(GROUPS, features)))
    frequencies /= frequencies.sum(1, keepdims=True)
    parts = []
    for documents in DRAWN.values():
        groups = draw.permutation(np.arange(documents) % GROUPS)
        lengths = draw.lognormal(*DRAWN_LENGTH, documents).astype(int)
        lengths[:: documents // 20] = 0
        table = np.stack([draw.multinomial(n, frequencies[g]) for n, g in zip(lengths, groups, strict=True)])
        rows, words = table.nonzero()
        starts = np.searchsorted(rows, np.arange(documents + 1))
        arrays = (table[rows, words], words, starts, groups)
        parts.append(Counts(*(a.astype(dtype) for a, dtype in zip(arrays, _ARRAYS.values(), strict=True))))
    return Texts(*parts)
