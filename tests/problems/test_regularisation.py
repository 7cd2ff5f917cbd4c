"""Regularisation selection: closed forms, Newton's method, the files, the public benchmark's trajectory."""

import bz2
import gzip
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.batch import Batch
from harness.errors import HarnessError
from harness.plugins import Plugins
from harness.rules import Rules
from harness.runner import run_pack
from harness.space import find_space
from problems import regularisation
from problems.regularisation import LARGEST, Labelled, Regularisation, read_covtype, read_ijcnn1
from tests.problems.closed_forms import (
    F64,
    assert_closed_forms,
    assert_dense_forms,
    batches,
    close,
    needs_data,
    normal,
)

CPU = torch.device("cpu")
KINDS = ("ijcnn1", "covtype")
FEATURES = 5


def small(examples: int, classes: int, seed: int) -> Labelled:
    """Features of unequal size, and labels that follow them with noise."""
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(examples, FEATURES)) * np.geomspace(0.3, 3, FEATURES)
    scores = features @ np.random.default_rng(0).normal(size=(FEATURES, classes))
    return features, (scores + draw.gumbel(size=scores.shape)).argmax(1)


def made(kind: str, monkeypatch: pytest.MonkeyPatch, data_seed: int = 0, **options: Any) -> Regularisation:
    """With 300 and 120 examples in place of ijcnn1's, or 500 in place of covtype's."""
    pair = [small(300, 2, 1), small(120, 2, 2)]
    monkeypatch.setattr(regularisation, "read_ijcnn1", lambda data_dir: pair)
    monkeypatch.setattr(regularisation, "read_covtype", lambda data_dir: small(500, 7, 3))
    problem = Regularisation(dataset=kind, **options)
    problem.setup(None, data_seed, CPU, F64)
    return problem


@pytest.fixture(params=KINDS, scope="module")
def problem(request: pytest.FixtureRequest) -> Regularisation:
    with pytest.MonkeyPatch.context() as patch:
        return made(request.param, patch)


def point(problem: Regularisation, trials: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    sizes = (problem.dim_x, problem.dim_y, problem.dim_y)
    x, y, v = (normal(trials, size, seed + n) for n, size in enumerate(sizes))
    return x - 2, y, v


def every(problem: Regularisation) -> Batch:
    return Batch(torch.arange(problem.lower_examples), full=True)


@example(seed=274, trials=1, kind=0)  # a score above 20, where softplus by default is a line
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), trials=st.integers(1, 4), kind=st.integers(0, 3))
def test_closed_forms_equal_the_derived_oracles(
    problem: Regularisation, seed: int, trials: int, kind: int
) -> None:
    (x, y, v), lower = point(problem, trials, seed), batches(problem.lower_examples, 20, trials, seed)[kind]
    assert_closed_forms(problem, x, y, v, lower, batches(problem.upper_examples, 20, trials, seed)[kind])
    assert_dense_forms(problem, x, y, lower)


def test_blocks_of_examples_add_up(problem: Regularisation, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, _ = point(problem, 2, 0)
    whole = problem.hessian(x, y, every(problem))
    monkeypatch.setattr(regularisation, "BLOCK", 64)

    close(problem.hessian(x, y, every(problem)), whole)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.1, 1.0, 10.0, 1000.0]))
def test_newton_solves_the_lower_level_from_anywhere(
    problem: Regularisation, seed: int, scale: float
) -> None:
    """Penalties hundreds of orders of magnitude apart included; from any y the same, and finite."""
    x, y, _ = point(problem, 1, seed)
    x = scale * x
    found = [problem.lower_solution(x, start) for start in (y, 0 * y, 1e3 * y, 1e200 * y)]
    gradient = problem.lower_gradient(x.clamp(max=LARGEST), found[0].y, every(problem))
    values = [problem.evaluate(x[0], start[0]) for start in (y, 1e200 * y)]

    assert found[0].norm(gradient) <= 1e-10
    losses = [float(problem.lower_value(x, each.y, every(problem))) for each in found]
    assert losses == pytest.approx(4 * [losses[0]], rel=1e-12)
    for name in ("value_function", "gradient_norm_squared"):
        assert np.isfinite(values[0][name])
        assert values[0][name] == pytest.approx(values[1][name], rel=1e-6, abs=1e-12)


def test_the_gradient_is_that_of_the_value(problem: Regularisation) -> None:
    """By central differences of L, to 1e-7."""
    x, y, _ = point(problem, 1, 4)
    moves = 1e-4 * torch.eye(problem.dim_x, dtype=F64)
    ahead, behind = (problem.evaluate_pack(x + s * moves, y.expand(len(moves), -1)) for s in (1, -1))
    slopes = [(a["value_function"] - b["value_function"]) / 2e-4 for a, b in zip(ahead, behind, strict=True)]

    assert problem.evaluate(x[0], y[0])["gradient_norm_squared"] == pytest.approx(
        sum(slope**2 for slope in slopes), rel=1e-5
    )


def test_the_value_is_the_validation_loss_at_the_solution(problem: Regularisation) -> None:
    """y plays no part in it, only in the errors, which are counted by hand."""
    x, y, _ = point(problem, 1, 5)
    found = problem.evaluate(x[0], y[0])
    solved = problem.lower_solution(x, y).y[0]
    loss = problem.upper_loss(x[0], solved, torch.arange(problem.upper_examples)).mean()

    assert found["value_function"] == pytest.approx(float(loss), rel=1e-12)
    for name, part in {"val_error": problem._val, "test_error": problem._test}.items():
        scores = (y.view(problem.scores, -1) @ part.features.T).numpy()
        named = scores[0] > 0 if problem.scores == 1 else scores.argmax(0)
        labels = part.targets.numpy()
        right = labels[0] if problem.scores == 1 else labels.argmax(0)
        assert found[name] == pytest.approx(100 * np.mean(named != right), rel=1e-12)


def test_a_pack_is_evaluated_as_its_trials_alone(problem: Regularisation) -> None:
    x, y, _ = point(problem, 3, 6)
    packed = problem.evaluate_pack(x, y)
    curve = problem.metrics(x, y)

    assert packed == [problem.evaluate(*one) for one in zip(x, y, strict=True)]
    if problem.scores == 1:
        assert curve == packed
    else:
        assert [set(found) for found in curve] == 3 * [{"val_error", "test_error"}]


def test_sizes_and_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    binary, classes = (made(kind, monkeypatch) for kind in KINDS)
    draw = np.random.RandomState(2442)

    assert (binary.dim_x, binary.dim_y) == (5, 5)
    assert (classes.dim_x, classes.dim_y) == (7, 35)
    assert (classes.lower_examples, classes.upper_examples, len(classes._test.features)) == (320, 80, 100)
    y0 = draw.randn(5)
    for seed in (0, 3):
        x, y = binary.initial(seed)
        assert np.array_equal(y.numpy(), y0)
        assert np.exp(x.numpy()).max() < 1
    assert np.array_equal(binary.initial(0)[0].numpy(), np.log(draw.rand(5)))
    x, y = classes.initial(0)
    assert (x == -2).all() and not y.any()


def test_start_and_split_are_public_unless_they_are_to_be_own(monkeypatch: pytest.MonkeyPatch) -> None:
    binary, classes = (made(kind, monkeypatch, seeds="own") for kind in KINDS)
    public, other = (made("covtype", monkeypatch, data_seed=seed) for seed in (0, 1))
    again = made("covtype", monkeypatch, data_seed=2442, seeds="own")

    assert not torch.equal(binary.initial(0)[0], binary.initial(1)[0])
    assert torch.equal(public._train.features, other._train.features)
    assert torch.equal(public._train.features, again._train.features)
    assert not torch.equal(public._train.features, classes._train.features)
    close(public._train.features.mean(0), torch.zeros(FEATURES, dtype=F64))


def test_breast_cancer_needs_no_file() -> None:
    problem = Regularisation(dataset="breast_cancer")
    problem.setup(None, 5, CPU, F64)

    assert (problem.dim_x, problem.dim_y, problem.scores) == (30, 30, 1)
    assert (problem.lower_examples, problem.upper_examples, len(problem._test.features)) == (364, 91, 114)
    close(problem._train.features.mean(0), torch.zeros(30, dtype=F64))
    x0, y0 = problem.initial(0)
    start = problem.evaluate(x0, y0)
    after = soba(problem, 300, upper_step_size=3.0, lower_step_size=0.1)

    assert start["val_error"] != start["test_error"]
    assert after["value_function"] < start["value_function"]


def test_an_unknown_data_set_is_refused() -> None:
    problem = Regularisation(dataset="rcv1")
    with pytest.raises(HarnessError, match="dataset must be one of .*, but got 'rcv1'"):
        problem.setup(None, 0, CPU, F64)


# --- files


def test_libsvm_text_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"ijcnn1.trn": b"-1.0 6:1 11:-0.73\n1.0 1:2 22:-0.5\n", "ijcnn1.tst": b"1 7:1 13:0.0\n"}
    sums = {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}
    monkeypatch.setattr(regularisation, "IJCNN1", sums)
    (tmp_path / "ijcnn1").mkdir()
    for name, text in texts.items():
        (tmp_path / "ijcnn1" / f"{name}.bz2").write_bytes(bz2.compress(text))
    (train, labels), (test, test_labels) = read_ijcnn1(tmp_path)

    assert train.shape == (2, 22) and test.shape == (1, 22)
    assert labels.tolist() == [0, 1] and test_labels.tolist() == [1]
    assert train[0, 5] == 1 and train[0, 10] == -0.73 and train[1, 0] == 2 and train[1, 21] == -0.5
    (tmp_path / "ijcnn1" / "ijcnn1.tst.bz2").unlink()
    with pytest.raises(HarnessError, match="ijcnn1.tst.bz2 is missing"):
        read_ijcnn1(tmp_path)


def test_covtype_is_the_same_from_text_and_from_npz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quant, wilderness, soil, y = np.arange(20).reshape(10, 2) - 5, [0, 3], [39, 1], [1, 7]
    rows = np.zeros((2, 55), dtype=int)
    rows[:, :10], rows[:, 54] = quant.T, y
    rows[[0, 1], [10, 13]] = rows[[0, 1], [14 + 39, 14 + 1]] = 1
    text = "".join(",".join(map(str, row)) + "\n" for row in rows).encode()
    buffer = io.BytesIO()
    np.savez(buffer, quant=quant, wilderness=wilderness, soil=soil, y=y)
    monkeypatch.setattr(regularisation, "COVTYPE_SHA", hashlib.sha256(text).hexdigest())
    monkeypatch.setattr(regularisation, "COVTYPE_NPZ_SHA", hashlib.sha256(buffer.getvalue()).hexdigest())
    folder = tmp_path / "covtype"
    folder.mkdir()
    (folder / "covtype.data.gz").write_bytes(gzip.compress(text))
    from_text = read_covtype(tmp_path)
    (folder / "covtype.npz").write_bytes(buffer.getvalue())
    (folder / "covtype.data.gz").unlink()
    for features, labels in (from_text, read_covtype(tmp_path)):
        assert np.array_equal(features, rows[:, :54]) and labels.tolist() == [0, 6]
    (folder / "covtype.npz").write_bytes(buffer.getvalue()[:-1])
    with pytest.raises(HarnessError, match="covtype.npz has SHA-256"):
        read_covtype(tmp_path)
    (folder / "covtype.npz").unlink()
    with pytest.raises(HarnessError, match="covtype.data.gz is missing"):
        read_covtype(tmp_path)


# --- with a search


def test_every_table_of_the_search_space_fits_its_solver() -> None:
    plugins, shipped = Plugins(), find_space("regularisation", None)

    assert set(shipped.solvers()) == set(plugins.names("solver"))
    for name in shipped.solvers():
        assert shipped.space(name, plugins.solver(name)).searched()


def soba(problem: Regularisation, iterations: int, **config: float) -> dict[str, float]:
    """The metrics after so many upper iterations on full batches, steps falling as k^(-1/2)."""
    sizes = {"batch_size": problem.lower_examples, "upper_batch_size": 0}
    cost = 3 * problem.lower_examples + problem.upper_examples
    (result,) = run_pack(
        problem,
        Plugins().solver("soba"),
        [config | sizes | {"upper_decay": 0.5, "lower_decay": 0.5}],
        Rules(max(iterations * cost, 1), {}, seed=0, curves=0),
        CPU,
        problem.dtype,
    )
    assert result.upper_iterations == iterations
    return result.metrics


def test_a_search_lowers_the_value(problem: Regularisation) -> None:
    before, after = (soba(problem, n, upper_step_size=1.0, lower_step_size=0.3) for n in (0, 100))

    assert after["value_function"] < before["value_function"]


@needs_data
def test_the_trajectory_of_the_public_benchmark() -> None:
    """Full-batch SOBA on ijcnn1, steps 2 k^(-1/2) of y and z, 2 * 10^1.5 k^(-1/2) of x: published L(x), which
    is solved by L-BFGS to about 1e-5 there."""
    problem = Regularisation()
    problem.setup(None, 5, CPU, problem.dtype)
    for iterations, value in {0: 0.560235, 4: 0.586195, 8: 0.532298, 20: 0.408093}.items():
        found = soba(problem, iterations, upper_step_size=2 * 10**1.5, lower_step_size=2.0)

        assert found["value_function"] == pytest.approx(value, abs=5e-5)
        if iterations == 0:
            assert found["gradient_norm_squared"] == pytest.approx(0.00253757, rel=1e-4)


@needs_data
def test_covtype_is_split_and_labelled_as_published() -> None:
    problem = Regularisation(dataset="covtype")
    problem.setup(None, 5, CPU, torch.float32)
    parts = (problem._train, problem._val, problem._test)
    classes = sum(part.targets.double().sum(1) for part in parts)

    assert [len(part.features) for part in parts] == [371_847, 92_962, 116_203]
    assert classes.tolist() == [211_840, 283_301, 35_754, 2_747, 9_493, 17_367, 20_510]
    assert (problem.dim_x, problem.dim_y) == (7, 378)
