"""Data cleaning: closed forms, the split and the corruption, errors of the current classifier, and the public
benchmark's trajectory."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.datasets import load_digits
from torch import Tensor

from harness.errors import HarnessError
from harness.plugins import Plugins
from harness.rules import Rules
from harness.runner import run_pack
from harness.space import find_space
from problems.data_cleaning import DataCleaning
from tests.problems.closed_forms import F64, assert_closed_forms, batches, close, needs_data, normal

CPU = torch.device("cpu")


def made(data_seed: int = 0, **options: Any) -> DataCleaning:
    problem = DataCleaning(**{"dataset": "digits", **options})
    problem.setup(None, data_seed, CPU, F64)
    return problem


DIGITS = made()


def point(trials: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    sizes = (DIGITS.dim_x, DIGITS.dim_y, DIGITS.dim_y)
    x, y, v = (normal(trials, size, seed + n) for n, size in enumerate(sizes))
    return 2 * x - 1, 0.1 * y, v


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), trials=st.integers(1, 4), kind=st.integers(0, 3))
def test_closed_forms_equal_the_derived_oracles(seed: int, trials: int, kind: int) -> None:
    lower = batches(DIGITS.lower_examples, 40, trials, seed)[kind]
    upper = batches(DIGITS.upper_examples, 30, trials, seed)[kind]
    assert_closed_forms(DIGITS, *point(trials, seed), lower, upper)


def test_the_cross_product_touches_the_rows_of_the_batch_only() -> None:
    batch = batches(DIGITS.lower_examples, 10, 2, 0)[0]
    rows = torch.zeros(DIGITS.dim_x, dtype=torch.bool)
    rows[batch.rows] = True
    found = DIGITS.cross(*point(2, 0), batch)

    assert (found[:, rows] != 0).all() and not found[:, ~rows].any()


def test_sizes_and_start() -> None:
    """A third and a twelfth of the training images of the data set."""
    x0, y0 = DIGITS.initial(7)

    assert (DIGITS.lower_examples, DIGITS.upper_examples) == (479, 119)
    assert len(DIGITS._test.features) == 360
    assert torch.equal(x0, torch.full((479,), -2.0)) and torch.equal(y0, torch.zeros(640))


def test_images_are_standardised_by_those_of_the_training() -> None:
    """A pixel that is the same in all of them stays 0."""
    features = DIGITS._train.features
    deviation = features.std(0, correction=0)

    close(features.mean(0), torch.zeros(64, dtype=F64))
    assert ((deviation - 1).abs().lt(1e-12) | deviation.eq(0)).all()
    assert DIGITS._val.features.mean(0).abs().max() > 1e-3


def test_a_share_of_the_training_labels_is_drawn_anew_from_all_classes() -> None:
    clean, dirty = made(corruption=0.0), made(corruption=1.0)
    changed = (clean._labels != DIGITS._labels).double().mean()

    assert clean.corrupted == 0 and dirty.corrupted == 479 and 200 < DIGITS.corrupted < 280
    assert float(changed) == pytest.approx(0.45, abs=0.06)
    assert float((clean._labels != dirty._labels).double().mean()) == pytest.approx(0.9, abs=0.05)
    for part in ("_train", "_val", "_test"):
        assert torch.equal(getattr(clean, part).features, getattr(DIGITS, part).features)
    assert torch.equal(clean._val_labels, DIGITS._val_labels)


def test_the_split_is_public_whatever_the_data_seed_unless_it_is_to_be_own() -> None:
    other, own, same = made(1), made(1, seeds="own"), made(32, seeds="own")

    assert torch.equal(other._train.features, DIGITS._train.features)
    assert torch.equal(other._labels, DIGITS._labels)
    assert not torch.equal(own._labels, DIGITS._labels)
    assert torch.equal(same._train.features, DIGITS._train.features)
    assert torch.equal(same._labels, DIGITS._labels)


def test_errors_are_those_of_the_current_classifier() -> None:
    """Counted by hand; x plays no part, and W = 0 names class 0."""
    x, y, _ = point(3, 1)
    found = DIGITS.evaluate_pack(x, y)
    for row, metrics in zip(y, found, strict=True):
        for name, part in {"val_error": DIGITS._val, "test_error": DIGITS._test}.items():
            named = (part.features @ row.view(10, 64).T).argmax(1).numpy()
            wrong = np.mean(named != part.targets.argmax(0).numpy())

            assert metrics[name] == pytest.approx(100 * wrong, rel=1e-12)
    assert DIGITS.metrics(x, y) == found == DIGITS.evaluate_pack(0 * x, y)
    labels = load_digits().target
    assert DIGITS.evaluate(x[0], 0 * y[0])["test_error"] == pytest.approx(
        100 * (1 - np.mean(labels == 0)), abs=1
    )


def test_a_classifier_that_is_trained_at_x_is_the_lower_solution_whatever_the_method_holds() -> None:
    """As SciPy finds it on the derived loss."""
    problem = made(judged="trained")
    x, y, _ = point(2, 3)
    rows = torch.arange(problem.lower_examples)

    def loss(w: np.ndarray, own: Tensor) -> tuple[float, np.ndarray]:
        at = torch.from_numpy(w).requires_grad_()
        value = problem.lower_loss(own, at, rows).mean()
        (slope,) = torch.autograd.grad(value, at)
        return value.item(), slope.numpy()

    starts = np.zeros(problem.dim_y)
    solved = [minimize(loss, starts, own, "L-BFGS-B", jac=True, tol=1e-13).x for own in x]
    exact = torch.from_numpy(np.stack(solved))
    assert float((problem._trained(x, problem._training_steps) - exact).norm()) < 1e-5 * float(exact.norm())
    assert problem.evaluate_pack(x, y) == problem.metrics(x, exact)
    assert problem.evaluate_pack(x, y) == [problem.evaluate(*one) for one in zip(x, y, strict=True)]
    assert problem.metrics(x, y) == DIGITS.evaluate_pack(x, y) != problem.evaluate_pack(x, y)
    assert problem.evaluation_samples == problem._training_steps * problem.lower_examples
    assert problem.part_of_evaluation(x, y) == 3 / problem._training_steps


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"corruption": 1.5}, "corruption must be from 0 to 1, but got 1.5"),
        ({"corruption": -0.1}, "corruption must be from 0 to 1, but got -0.1"),
        ({"reg": -1.0}, "reg must be at least 0, but got -1"),
        ({"reg": 0.0, "judged": "trained"}, "judged = trained needs a reg above 0"),
    ],
)
def test_options_that_make_no_problem_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(HarnessError, match=f"data_cleaning: {said}"):
        made(**options)


def test_every_table_of_the_search_space_fits_its_solver() -> None:
    plugins, shipped = Plugins(), find_space("data_cleaning", None)
    for name in shipped.solvers():
        assert shipped.space(name, plugins.solver(name)).searched()


def test_a_search_cleans_digits() -> None:
    """SOBA's falling steps, well chosen, halve the error of the classifier that weighs all images alike."""
    config = dict(upper_step_size=3e3, lower_step_size=0.3, upper_decay=0.5, lower_decay=0.5)
    flat = dict(config, upper_step_size=0.0)
    rules = Rules(300 * 4 * 64, {}, seed=1, curves=0)
    sizes = {"batch_size": 64, "upper_batch_size": 64}
    problem = DataCleaning(dataset="digits")
    problem.setup(None, 0, CPU, problem.dtype)
    cleaned, alike = run_pack(
        problem, Plugins().solver("soba"), [config | sizes, flat | sizes], rules, CPU, problem.dtype
    )

    assert cleaned.objective < 0.8 * alike.objective


@needs_data
def test_the_trajectory_of_the_public_benchmark() -> None:
    """Full-batch SOBA on MNIST, corruption 0.5, steps k^(-1/2) of y and z, 1e5 k^(-1/2) of x: published test
    errors, to the last digit."""
    problem = DataCleaning()
    problem.setup(None, 5, CPU, problem.dtype)
    config = dict(
        upper_step_size=1e5,
        lower_step_size=1.0,
        upper_decay=0.5,
        lower_decay=0.5,
        batch_size=20_000,
        upper_batch_size=0,
    )
    for iterations, error in {0: 90.20, 4: 20.71, 8: 15.72, 20: 14.39}.items():
        rules = Rules(max(iterations * 65_000, 1), {}, seed=0, curves=0)
        (result,) = run_pack(problem, Plugins().solver("soba"), [config], rules, CPU, problem.dtype)

        assert result.upper_iterations == iterations
        assert result.metrics["test_error"] == pytest.approx(error, abs=1e-9)
