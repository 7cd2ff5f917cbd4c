"""20 Newsgroups: sparse products, closed forms, two readings of the paper, the one door to the counts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness import data, derive
from harness.batch import Batch
from harness.errors import HarnessError
from problems import _texts
from problems._texts import Counts, Texts, digest, read
from problems.newsgroups import Bags, Documents, Newsgroups

CPU, F64 = torch.device("cpu"), torch.float64


def make(data_seed: int = 0, dtype: torch.dtype = F64, **options: Any) -> Newsgroups:
    problem = Newsgroups(**{"dataset": "drawn", "features": 60, **options})
    problem.setup(None, data_seed, CPU, dtype)
    return problem


PROBLEM = make()


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


def point(trials: int, seed: int, problem: Newsgroups = PROBLEM) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and a direction v shaped like y."""
    draw = torch.Generator().manual_seed(seed)
    sizes = (problem.dim_x, problem.dim_y, problem.dim_y)
    x, y, v = (torch.randn(trials, size, generator=draw, dtype=F64) for size in sizes)
    return x, y, v


def batches(trials: int, seed: int) -> list[Batch]:
    """Some examples, all, some with counts, all with counts: of either level, which are equally large."""
    draw = torch.Generator().manual_seed(seed)
    size = PROBLEM.lower_examples
    some = torch.randperm(size, generator=draw)[:70].sort().values
    counts = torch.randint(0, 3, (trials, size), generator=draw)
    counts[:, 0] = 1
    return [
        Batch(some),
        Batch(torch.arange(size), full=True),
        Batch(some, counts=counts[:, :70]),
        Batch(torch.arange(size), counts=counts, full=True),
    ]


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), trials=st.integers(1, 3), kind=st.integers(0, 3))
def test_closed_forms_equal_the_derived_oracles(seed: int, trials: int, kind: int) -> None:
    (x, y, v), batch = point(trials, seed), batches(trials, seed)[kind]
    problem = PROBLEM
    pairs = [
        (problem.lower_gradient(x, y, batch), derive.lower_gradient(problem, x, y, batch)),
        (problem.hessian_vector(x, y, v, batch), derive.hessian_vector(problem, x, y, v, batch)),
        (problem.cross(x, y, v, batch), derive.cross(problem, x, y, v, batch)),
        (problem.lower_value(x, y, batch), derive.lower_value(problem, x, y, batch)),
        (problem.upper_value(x, y, batch), derive.upper_value(problem, x, y, batch)),
        (problem.upper_gradient(x, y, batch)[1], derive.upper_gradient(problem, x, y, batch)[1]),
    ]
    joint, expected = (
        problem.joint_lower_gradient(x, y, batch),
        derive.joint_lower_gradient(problem, x, y, batch),
    )
    for closed, derived in [*pairs, *zip(joint, expected, strict=True)]:
        close(closed, derived)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_small_and_large_parts_give_the_same(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorted by feature on its own, or as rows of all documents."""
    (x, y, v), batch = point(2, 4), batches(2, 4)[0]
    expected = derive.hessian_vector(PROBLEM, x, y, v, batch), derive.upper_gradient(PROBLEM, x, y, batch)[1]
    monkeypatch.setattr("problems.newsgroups.LARGE", share)
    close(PROBLEM.hessian_vector(x, y, v, batch), expected[0])
    close(PROBLEM.upper_gradient(x, y, batch)[1], expected[1])


def literal(problem: Newsgroups, documents: Documents, x: Tensor, y: Tensor) -> Tensor:
    """The lower loss by the formula of the published code, on dense rows."""
    dense = torch.zeros(len(documents.groups), problem.dim_x, dtype=F64)
    dense[documents.words.owners(), documents.words.columns.long()] = documents.words.values
    table = y.view(-1, 20)
    regulariser = 0.5 * ((table.T**2) * x.exp()).mean()
    return cross_entropy(dense @ table, documents.groups) + regulariser


def test_the_lower_loss_is_the_published_codes_and_the_papers_regulariser_is_twice_that() -> None:
    (x, y, _), batch = point(1, 3), batches(1, 0)[1]
    paper = make(regulariser="paper")
    expected = literal(PROBLEM, PROBLEM._train, x[0], y[0])
    more = 0.5 * ((y.view(-1, 20).T ** 2) * x.exp()).mean()
    close(PROBLEM.lower_value(x, y, batch)[0], expected)
    close(paper.lower_value(x, y, batch)[0], expected + more)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 12), columns=st.integers(1, 12))
def test_sparse_products_equal_dense_ones(seed: int, rows: int, columns: int) -> None:
    """Rows in any order and repeated, empty rows and columns, a matrix of zeros."""
    draw = np.random.default_rng(seed)
    dense = draw.normal(size=(rows, columns)) * (draw.random((rows, columns)) < draw.random())
    sparse = scipy.sparse.csr_matrix(dense)
    bags = Bags(*map(torch.from_numpy, (sparse.indices, sparse.data, sparse.indptr[:-1].copy())))
    chosen = draw.integers(0, rows, draw.integers(1, 9))
    table, back = (torch.from_numpy(draw.normal(size=(n, 3))) for n in (columns, len(chosen)))
    part = bags.part(torch.from_numpy(chosen))
    close(bags.times(table), torch.from_numpy(dense) @ table)
    close(part.times(table), torch.from_numpy(dense[chosen]) @ table)
    close(part.transposed(columns).times(back), torch.from_numpy(dense[chosen].T) @ back)


def test_a_pack_gives_bit_for_bit_what_its_trials_give_alone() -> None:
    problem = make(dtype=torch.float32)
    x, y, v = (value.float() for value in point(3, 1))
    for batch in batches(3, 1)[:2]:
        packed = [
            problem.lower_gradient(x, y, batch),
            problem.hessian_vector(x, y, v, batch),
            problem.cross(x, y, v, batch),
            problem.upper_gradient(x, y, batch)[1],
        ]
        for n in range(3):
            a, b, c = x[n : n + 1], y[n : n + 1], v[n : n + 1]
            alone = [
                problem.lower_gradient(a, b, batch),
                problem.hessian_vector(a, b, c, batch),
                problem.cross(a, b, c, batch),
                problem.upper_gradient(a, b, batch)[1],
            ]
            assert all(torch.equal(p[n : n + 1], q) for p, q in zip(packed, alone, strict=True))


def test_rows_have_norm_one_and_empty_documents_stay_empty() -> None:
    words = PROBLEM._test.words
    norms = torch.zeros(300, dtype=F64).index_add(0, words.owners(), words.values**2)

    empty = words.lengths() == 0
    assert empty.any() and not norms[empty].any()
    close(norms[~empty], torch.ones_like(norms[~empty]))
    with torch.no_grad():
        value = PROBLEM.evaluate(*(value.to(F64) for value in PROBLEM.initial(0)))
    assert value["val_loss"] == pytest.approx(np.log(20))


def test_the_metrics_are_those_of_the_current_classifier() -> None:
    x, y, _ = point(2, 5)
    found = PROBLEM.evaluate_pack(x, y)
    for n, metrics in enumerate(found):
        val, test = (part.logits(y[n].view(1, -1, 20))[0] for part in (PROBLEM._val, PROBLEM._test))
        expected = {
            "val_loss": float(cross_entropy(val, PROBLEM._val.groups)),
            "val_accuracy": 100 * float((val.argmax(1) == PROBLEM._val.groups).double().mean()),
            "test_accuracy": 100 * float((test.argmax(1) == PROBLEM._test.groups).double().mean()),
        }
        assert metrics == pytest.approx(expected) and PROBLEM.metrics(x, y)[n] == metrics
        assert PROBLEM.evaluate(x[n], y[n]) == metrics


def test_the_halves_are_stratified_and_depend_on_the_data_seed_only() -> None:
    from sklearn.model_selection import train_test_split

    first, again, other = make(1), make(1), make(2)

    assert first.lower_examples == first.upper_examples == 300
    assert torch.equal(first._train.groups.bincount(), first._val.groups.bincount())
    assert all(map(torch.equal, first._train.words, again._train.words))
    assert not torch.equal(first._train.groups, other._train.groups)
    texts = read("drawn", 60, None, 1)
    train, _ = train_test_split(
        texts.train.groups, stratify=texts.train.groups, test_size=0.5, random_state=1
    )
    assert first._train.groups.tolist() == train.tolist()


def test_memory_grows_with_the_pack() -> None:
    """At full size 1.2 GB were measured for AmIGO-CG in a pack of 8, 0.26 GB for it alone."""
    assert PROBLEM.memory(4, 10) - PROBLEM.memory(3, 10) >= 4 * 6 * PROBLEM.dim_y


# --- the door to the counts


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Texts:
    """Counts that stand for those of 20 Newsgroups without headers."""
    texts = read("drawn", 40, None, 7)
    monkeypatch.setitem(_texts._FILES, 101631, ("stripped", ("headers",), digest(texts)))
    return texts


def saved(root: Path, texts: Texts, **changed: Any) -> Path:
    arrays = {
        f"{split}_{key}": value
        for split, part in texts._asdict().items()
        for key, value in zip(("data", "indices", "indptr", "y"), part, strict=True)
    } | changed
    (root / "20news").mkdir(parents=True, exist_ok=True)
    path = root / "20news" / "20news_counts_stripped.npz"
    np.savez_compressed(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def same(found: Texts, expected: Texts) -> bool:
    return all(map(np.array_equal, (*found.train, *found.test), (*expected.train, *expected.test)))


def test_a_folder_with_the_file_is_read(tmp_path: Path, small: Texts) -> None:
    saved(tmp_path, small)
    assert same(read("20news", 101631, tmp_path, 0), small)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.ones(3))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncated, "cannot be read"),
        (flipped, "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_bytes(b"no archive"), "cannot be read"),
        (one_array, "cannot be read"),
        (Path.unlink, "is missing; put it there, or drop --data-dir"),
    ],
    ids=["truncated", "a bit flipped", "empty", "no archive", "one array", "missing"],
)
def test_a_damaged_file_is_one_line(
    tmp_path: Path, small: Texts, damage: Callable[[Path], object], said: str
) -> None:
    damage(saved(tmp_path, small))
    with pytest.raises(HarnessError, match=f"20news_counts_stripped.npz {said}") as caught:
        read("20news", 101631, tmp_path, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"train_y": None}, "cannot be read"),
        ({"train_y": np.array(["a", "b"])}, "cannot be read"),
        ({"train_y": np.array([{}], dtype=object)}, "cannot be read"),
        ({"train_y": np.zeros(600, "<i2")}, "holds counts of SHA-256"),
    ],
    ids=["an array missing", "words", "a pickle", "other numbers"],
)
def test_other_content_is_refused(tmp_path: Path, small: Texts, changed: dict[str, Any], said: str) -> None:
    saved(tmp_path, small, **changed)
    with pytest.raises(HarnessError, match=f"20news_counts_stripped.npz {said}"):
        read("20news", 101631, tmp_path, 0)


class Fetcher:
    """In the place of scikit-learn's: what it was asked, and the counts it gives."""

    def __init__(self, texts: Texts) -> None:
        self.texts, self.asked = texts, []

    def __call__(self, **asked: Any) -> tuple[Any, np.ndarray[Any, Any]]:
        self.asked.append(asked)
        part: Counts = getattr(self.texts, asked["subset"])
        (Path(asked["data_home"]) / "of its own.pkl").write_bytes(b"")
        matrix = scipy.sparse.csr_matrix((part.counts, part.features, part.starts))
        return matrix, part.groups.astype(int)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data folder, and a user's cache of its own."""
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.setattr(data, "user_cache_path", lambda name: tmp_path / name)
    return tmp_path / "bilevel-harness" / "20news"


def test_without_a_folder_scikit_learn_is_asked_once(
    cache: Path, small: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own files are gone afterwards: the counts alone are kept, and read like those of a folder."""
    fetcher = Fetcher(small)
    monkeypatch.setattr("sklearn.datasets.fetch_20newsgroups_vectorized", fetcher)
    first, again = (read("20news", 101631, None, 0) for _ in range(2))

    assert same(first, small) and same(again, small)
    assert [asked["subset"] for asked in fetcher.asked] == ["train", "test"]
    assert all(asked["remove"] == ("headers",) and not asked["normalize"] for asked in fetcher.asked)
    assert [path.name for path in cache.iterdir()] == ["20news_counts_stripped.npz"]


def test_other_counts_from_scikit_learn_are_not_kept(
    cache: Path, small: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sklearn.datasets.fetch_20newsgroups_vectorized", Fetcher(read("drawn", 40, None, 8)))
    with pytest.raises(HarnessError, match="scikit-learn's 20 Newsgroups have counts of SHA-256"):
        read("20news", 101631, None, 0)
    assert not list(cache.iterdir())


def test_no_network_is_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(**_: Any) -> None:
        raise ConnectionError("no\nroute")

    monkeypatch.setattr("sklearn.datasets.fetch_20newsgroups_vectorized", nowhere)
    with pytest.raises(
        HarnessError, match="could not be downloaded .ConnectionError.; put 20news/"
    ) as caught:
        read("20news", 101631, None, 0)
    assert "\n" not in str(caught.value) and not list(cache.iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dataset": "20news", "features": 1000}, r"one of \(130107, 101631\), but got 1000"),
        ({"features": 1}, "at least 2, but got 1"),
    ],
)
def test_features_that_there_are_not_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(HarnessError, match=said):
        make(**options)


def test_drawn_documents_depend_on_the_data_seed_alone() -> None:
    first, again, other = (read("drawn", 40, None, seed) for seed in (1, 1, 2))

    assert same(first, again) and not same(first, other)
    assert {part.counts.min() for part in first} == {1}
