"""Few-shot meta-learning: closed forms, the network, what is computed once, tasks, forms of the data."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from harness.batch import Batch
from harness.errors import HarnessError
from harness.plugins import Plugins
from harness.problem import Problem
from harness.rules import Rules
from harness.runner import run_pack
from harness.streams import generator
from problems._fewshot import SPLITS, ClassImages, _area, _different, draw_tasks, read
from problems.meta_learning import ADAPTATION_STEP_SIZE, ADAPTATION_STEPS, REGULARISER, MetaLearning
from tests.problems.closed_forms import assert_closed_forms, close, needs_data, normal

CPU, F64 = torch.device("cpu"), torch.float64
CONVENTIONS = ("task", "batch")


def made(data_seed: int = 3, dtype: torch.dtype = F64, **options: object) -> MetaLearning:
    """Six tasks of three ways, with two support and one query image of a class."""
    small = {"dataset": "digits", "channels": 6, "ways": 3, "shots": 2, "queries": 1, "tasks": 6}
    problem = MetaLearning(**(small | {"evaluation_tasks": 5, "curve_tasks": 2} | options))  # type: ignore[arg-type]
    problem.setup(None, data_seed, CPU, dtype)
    return problem


@pytest.fixture(scope="module", params=CONVENTIONS)
def problem(request: pytest.FixtureRequest) -> MetaLearning:
    return made(statistics=request.param)


def point(problem: Problem, trials: int, tasks: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    x0, _ = problem.initial(seed)
    x = x0 + 0.1 * normal(trials, problem.dim_x, seed)
    y, v = (normal(trials, tasks * problem.dim_y, seed + n) for n in (1, 2))
    return x, y, v


def batches(trials: int) -> list[Batch]:
    """Some tasks, all, and both drawn with counts, which by example are the same for all tasks."""
    some, every = torch.tensor([0, 2, 3, 5]), torch.arange(6)
    counts = torch.arange(1, trials + 1).unsqueeze(1)
    return [
        Batch(some),
        Batch(every, full=True),
        Batch(some, counts.expand(-1, 4)),
        Batch(every, counts.expand(-1, 6), full=True),
    ]


@pytest.mark.parametrize("trials", [1, 3])
def test_closed_forms_equal_the_derived_oracles(problem: MetaLearning, trials: int) -> None:
    for seed, batch in enumerate(batches(trials)):
        x, y, v = point(problem, trials, len(batch.rows), seed)
        assert_closed_forms(problem, x, y, v, batch, batch)
        assert (problem.cross(x, y, v, batch).norm(dim=1) > 0.01).all()


def test_nothing_computed_earlier_shows(problem: MetaLearning) -> None:
    """The same tensors, fewer trials, others in another order, other tasks, tensors written to."""
    x, y, v = point(problem, 4, 4, 7)
    some, others = torch.tensor([0, 1, 2, 4]), torch.tensor([1, 2, 3, 5])

    def check(x: Tensor, y: Tensor, v: Tensor, rows: Tensor) -> None:
        assert_closed_forms(problem, x, y, v, Batch(rows), Batch(rows))

    check(x, y, v, some)
    check(x[:2], y[:2], v[:2], some)
    shuffled = torch.tensor([2, 0, 3])
    check(x[shuffled], y[shuffled], v[shuffled], some)
    check(x, y, v, others)
    check(x[1:3], y[1:3], v[1:3], some)
    x[0].mul_(0.5)
    check(x, y, v, some)
    some[3] = 5
    check(x, y, v, some)


def test_the_network_is_passed_once_for_every_new_x(monkeypatch: pytest.MonkeyPatch) -> None:
    """In steps of y and z, whichever trials are left in a loop; at x0, where all are alike, once in all."""
    problem, passes = made(), []
    network = MetaLearning._network

    def counted(self: MetaLearning, x: Tensor, images: Tensor) -> Tensor:
        passes.append(len(images))
        return network(self, x, images)

    monkeypatch.setattr(MetaLearning, "_network", counted)
    x, y, v = point(problem, 4, 3, 0)
    batch = Batch(torch.arange(3))
    for rows in ([0, 1, 2, 3], [0, 1, 2, 3], [0, 1], [3, 1, 0], [2], [0, 1, 2, 3]):
        chosen = torch.tensor(rows)
        problem.lower_gradient(x[chosen], y[chosen], batch)
        problem.hessian_vector(x[chosen], y[chosen], v[chosen], batch)
    assert passes == [3] * 4
    x0 = problem.initial(0)[0].repeat(4, 1)
    problem.lower_gradient(x0, y, batch)
    assert passes == [3] * 5


# --- the network and the levels


def published(problem: MetaLearning, x: Tensor) -> nn.Sequential:
    """The network as the published code builds it, with the parameters x."""
    layers: list[nn.Module] = []
    inputs = 1
    for _ in range(3):
        norm = nn.BatchNorm2d(problem.channels, affine=True, track_running_stats=False)
        convolution = nn.Conv2d(inputs, problem.channels, 3, padding=1)
        layers += [convolution, nn.ReLU(inplace=True), nn.MaxPool2d(2), norm]
        inputs = problem.channels
    network = nn.Sequential(*layers, nn.Flatten(), nn.Tanh()).to(F64)
    nn.utils.vector_to_parameters(x, network.parameters())
    return network


def images_of(problem: MetaLearning, tasks: Tensor, places: slice) -> Tensor:
    """Levels in [0, 1], class by class, (T, n, 1, 8, 8)."""
    return problem._pixels[tasks[:, :, places].flatten(1)].to(F64).permute(0, 1, 4, 2, 3) / 16


def literal_features(problem: MetaLearning, x: Tensor, tasks: Tensor, places: slice) -> Tensor:
    images, network = images_of(problem, tasks, places), published(problem, x)
    if problem.statistics == "batch":
        return network(images.flatten(0, 1)).view(*images.shape[:2], -1)
    return torch.stack([network(own) for own in images])


def test_the_losses_are_those_of_the_published_network(problem: MetaLearning) -> None:
    x, y, _ = point(problem, 1, 4, 5)
    rows = torch.tensor([0, 2, 3, 5])
    tasks, layers = problem._images_of["tasks"][rows], y[0].view(4, -1, 3)
    found = {"lower": problem.lower_loss(x[0], y[0], rows), "upper": problem.upper_loss(x[0], y[0], rows)}

    for level, places, size in (("lower", slice(2), 2), ("upper", slice(2, 3), 1)):
        phi = literal_features(problem, x[0], tasks, places).detach()
        labels = torch.arange(3).repeat_interleave(size)
        for n, own in enumerate(layers):
            expected = nn.functional.cross_entropy(phi[n] @ own[:-1] + own[-1], labels)
            if level == "lower":
                expected = expected + REGULARISER / 2 * (own**2).sum()
            close(found[level][n], expected)


def test_by_batch_a_task_depends_on_the_others_and_by_task_it_does_not() -> None:
    x, y, _ = point(made(), 1, 4, 5)
    rows = torch.tensor([0, 2, 3, 5])
    for statistics in CONVENTIONS:
        problem = made(statistics=statistics)
        alone = problem.lower_loss(x[0], y[0, : problem.dim_y], rows[:1])
        among = problem.lower_loss(x[0], y[0], rows)[:1]
        assert torch.allclose(alone, among, rtol=1e-9) == (statistics == "task")


def solved(problem: MetaLearning, x: Tensor, batch: Batch) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """y*(x) by Newton's method, and what solves with H there."""
    y = torch.zeros(1, len(batch.rows) * problem.dim_y, dtype=F64)

    def inverse(y: Tensor) -> Callable[[Tensor], Tensor]:
        columns = torch.eye(y.shape[1], dtype=F64)
        hessian = torch.cat([problem.hessian_vector(x, y, e.unsqueeze(0), batch) for e in columns])
        return lambda right: torch.linalg.solve(hessian, right.T).T

    for _ in range(12):
        y = y - inverse(y)(problem.lower_gradient(x, y, batch))
    close(problem.lower_gradient(x, y, batch), torch.zeros_like(y))
    return y, inverse(y)


def test_the_hypergradient_is_the_slope_of_the_true_objective(problem: MetaLearning) -> None:
    """Central differences of f(x, y*(x)), short enough to meet no kink; C z is a sum over tasks, f a mean."""
    x, _, _ = point(problem, 1, 1, 11)
    batch = Batch(torch.tensor([1, 2, 4]))
    y, inverse = solved(problem, x, batch)
    f_x, f_y = problem.upper_gradient(x, y, batch)
    h = f_x + problem.cross(x, y, -inverse(f_y), batch)

    size = float(h.norm())
    assert size > 0.01

    def objective(x: Tensor) -> float:
        return float(problem.upper_value(x, solved(problem, x, batch)[0], batch))

    for seed in range(3):
        u = normal(1, problem.dim_x, seed)
        u = 1e-6 * u / u.norm()
        slope = (objective(x + u) - objective(x - u)) / 2
        assert float((h * u).sum()) == pytest.approx(slope, abs=1e-11 * size)


def test_the_start_is_pytorchs_and_depends_on_the_seed_only() -> None:
    problem = made(channels=16)
    x, y = problem.initial(1)

    assert not y.any() and len(x) == sum(p.numel() for p in published(problem, x).parameters())
    for block in problem._blocks(x):
        bound = block.weight[0].numel() ** -0.5
        for part in (block.weight, block.bias):
            assert 0.7 * bound < float(part.abs().max()) <= bound
        assert float(block.weight.std()) == pytest.approx(bound / 3**0.5, rel=0.15)
        assert (block.scale == 1).all() and not block.shift.any()
    assert torch.equal(problem.initial(1)[0], x) and not torch.equal(problem.initial(2)[0], x)


# --- evaluation and the ledger


def test_the_evaluation_equals_a_literal_one(problem: MetaLearning) -> None:
    """In float64, with the published code's network, its pairs of tasks, and SGD on every last layer."""
    x, _, _ = point(problem, 2, 1, 4)
    for row, found, curve in zip(
        x, problem.evaluate_pack(x, x.new_empty(2, 0)), problem.metrics(x, x.new_empty(2, 0)), strict=True
    ):
        for split in SPLITS:
            losses, hits = [], []
            for pair in torch.split(problem._images_of[split], 2):
                support, query = (
                    literal_features(problem, row, pair, places).detach()
                    for places in (slice(2), slice(2, 3))
                )
                for own, judged in zip(support, query, strict=True):
                    w, b = (torch.zeros(*shape, dtype=F64, requires_grad=True) for shape in ((6, 3), (3,)))
                    sgd = torch.optim.SGD([w, b], lr=ADAPTATION_STEP_SIZE, weight_decay=REGULARISER)
                    labels = torch.arange(3).repeat_interleave(2)
                    for _ in range(ADAPTATION_STEPS):
                        sgd.zero_grad()
                        nn.functional.cross_entropy(own @ w + b, labels).backward()
                        sgd.step()
                    logits = judged @ w.detach() + b.detach()
                    losses.append(float(nn.functional.cross_entropy(logits, torch.arange(3))))
                    hits.append(float((logits.argmax(1) == torch.arange(3)).double().mean()))
            assert found[f"{split}_loss"] == pytest.approx(np.mean(losses), rel=1e-9)
            assert found[f"{split}_accuracy"] == pytest.approx(100 * np.mean(hits), rel=1e-9)
            assert curve[f"{split}_loss"] == pytest.approx(np.mean(losses[:2]), rel=1e-9)
    assert problem.evaluation_samples == 3 * 5 * 10 * 6


def test_a_task_is_worth_its_images_in_the_ledger() -> None:
    """A batch of four tasks, then one of two; six support and three query images each."""
    problem = made(dtype=torch.float32)
    config = {"lower_steps": 3, "system_steps": 2, "cross_batches": 1, "batch_size": 4, "upper_batch_size": 0}
    steps = {"upper_step_size": 0.1, "lower_step_size": 0.05, "system_step_size": 0.05}
    solver = Plugins().solver("bsgm")
    budget = 6 * (6 * 6 + 3)  # an epoch, exactly
    (result,) = run_pack(problem, solver, [config | steps], Rules(budget, {}, seed=0), CPU, torch.float32)

    assert result.state == "completed" and result.upper_iterations == 2
    expected = {
        "lower_gradient": 6 * 3 * 6,
        "hessian_vector": 6 * 2 * 6,
        "cross": 6 * 6,
        "upper_gradient": 6 * 3,
    }
    assert {kind: result.ledger[kind] for kind in expected} == expected
    assert result.ledger["total"] == budget


def test_bsgm_learns_features() -> None:
    """With the paper's step sizes, fresh tasks of unseen images are told apart better than at x0."""
    problem = made(
        dtype=torch.float32, channels=8, ways=5, shots=3, queries=3, tasks=100, evaluation_tasks=40
    )
    config = {
        "lower_steps": 10,
        "system_steps": 10,
        "cross_batches": 1,
        "batch_size": 5,
        "upper_batch_size": 0,
    }
    steps = {"upper_step_size": 0.2, "lower_step_size": 0.05, "system_step_size": 0.05}
    budget = 40 * 5 * (15 * 21 + 15)
    solver = Plugins().solver("bsgm")
    (result,) = run_pack(problem, solver, [config | steps], Rules(budget, {}, seed=0), CPU, torch.float32)
    x0, y0 = problem.initial(0)
    before = problem.evaluate(x0.float(), y0.float())

    assert result.upper_iterations == 40
    assert result.metrics["val_loss"] < before["val_loss"] - 0.1
    assert result.metrics["test_accuracy"] > before["test_accuracy"] + 3


def test_memory_grows_with_the_pack_and_by_batch_with_the_mini_batch() -> None:
    task, batch = (made(statistics=statistics, tasks=500) for statistics in CONVENTIONS)
    trial = task.memory(2, 8) - task.memory(1, 8)

    assert trial == task.memory(3, 8) - task.memory(2, 8) > 12 * 8 * task.dim_y * 8
    assert batch.memory(1, 4) == task.memory(1, 4) and batch.memory(1, 40) > task.memory(1, 40)
    assert task.memory(1, None) == task.memory(1, 500) == task.memory(1, 501)


# --- tasks


def classes(sizes: list[int]) -> ClassImages:
    ends = np.cumsum([0, *sizes])
    own = {str(n): np.arange(*pair) for n, pair in enumerate(zip(ends[:-1], ends[1:], strict=True))}
    return ClassImages({"train": own}, 255, lambda numbers: numbers)


def test_different_numbers_are_drawn_evenly() -> None:
    """All 60 ordered draws of 3 out of 5, each within four standard deviations of its share."""
    found = _different(generator(0, "even").random((60_000, 3)), np.full(60_000, 5))
    kinds, counts = np.unique(found, axis=0, return_counts=True)

    assert len(kinds) == 60 and all(len(set(kind)) == 3 for kind in kinds.tolist())
    assert abs(counts - 1000).max() < 4 * 1000**0.5


def test_a_task_has_different_classes_and_different_images_of_each() -> None:
    sizes = [4, 7, 5, 9]
    tasks = draw_tasks(classes(sizes), "train", 200, 3, 4, generator(1, "tasks"))
    owners = np.repeat(np.arange(4), sizes)[tasks]

    assert tasks.shape == (200, 3, 4)
    assert (owners == owners[:, :, :1]).all()
    assert all(len(set(task)) == 3 for task in owners[:, :, 0].tolist())
    assert all(len(set(images)) == 4 for task in tasks.tolist() for images in task)
    assert set(tasks.ravel()) == set(range(sum(sizes)))
    again = draw_tasks(classes(sizes), "train", 50, 3, 4, generator(1, "tasks"))
    assert (again == tasks[:50]).all()


def test_tasks_depend_on_the_data_seed_only() -> None:
    first, again, other = made(3), made(3), made(4)
    more = made(3, tasks=20)
    for name, tasks in first._images_of.items():
        same, different = (p._pixels[p._images_of[name]] for p in (again, other))
        assert torch.equal(first._pixels[tasks], same) and not torch.equal(same, different)
    assert torch.equal(more._pixels[more._images_of["tasks"][:6]], first._pixels[first._images_of["tasks"]])


def test_no_image_of_the_digits_is_in_two_splits() -> None:
    found = read("digits", None, 5).classes
    images = {split: set(np.concatenate(list(found[split].values())).tolist()) for split in SPLITS}

    assert sum(map(len, images.values())) == len(set().union(*images.values())) == 1797
    assert all(len(found[split]) == 10 for split in SPLITS)
    assert [len(images[split]) for split in SPLITS] == pytest.approx([1078, 359, 359], abs=10)


def test_a_smaller_pixel_is_the_mean_of_those_it_covers() -> None:
    area = _area(105, 28)
    np.testing.assert_allclose(area.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(area.sum(0), 28 / 105, rtol=1e-6)
    np.testing.assert_allclose(area[0, :5], np.array([1, 1, 1, 0.75, 0]) / 3.75, rtol=1e-6)


# --- forms of mini-ImageNet, and what is refused


def mini(root: Path, form: str, side: int = 84, images: int = 3) -> Path:
    """Two classes a split, in one of the forms that are read."""
    folder = root / form / "mini-imagenet"
    (folder / "images").mkdir(parents=True)
    draw, arrays = np.random.default_rng(0), {}
    for n, split in enumerate(SPLITS):
        levels = draw.integers(0, 256, (2 * images, side, side, 3), dtype=np.uint8)
        labels = np.repeat([2 * n, 2 * n + 1], images)
        if form == "npz":
            arrays |= {f"{split}_images": levels, f"{split}_labels": labels}
            continue
        lines = ["filename,label"]
        for i, (image, label) in enumerate(zip(levels, labels, strict=True)):
            Image.fromarray(image).save(folder / "images" / f"{split}{i}.png")
            lines.append(f"{split}{i}.png,n{label}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    if form == "npz":
        np.savez(folder / "mini_imagenet.npz", **arrays)
    return root / form


MINI = {"dataset": "mini_imagenet", "ways": 2, "shots": 1, "queries": 1, "channels": 2}


def test_both_forms_of_mini_imagenet_give_the_same_tasks(tmp_path: Path) -> None:
    found = {}
    for form in ("npz", "folder"):
        problem = MetaLearning(tasks=5, evaluation_tasks=4, **MINI)  # type: ignore[arg-type]
        problem.setup(mini(tmp_path, form), 0, CPU, torch.float32)
        found[form] = {name: problem._pixels[tasks] for name, tasks in problem._images_of.items()}
        assert problem.features == 2 * 25 and problem._pixels.shape[1:] == (84, 84, 3)

    assert all(torch.equal(found["npz"][name], found["folder"][name]) for name in found["npz"])


def test_images_of_another_size_are_made_84_wide(tmp_path: Path) -> None:
    images = read("mini_imagenet", mini(tmp_path, "folder", side=30), 0)

    assert images.decode(np.arange(4)).shape == (4, 84, 84, 3)


def refused(root: Path | None, said: str, **options: object) -> None:
    problem = MetaLearning(**(MINI | {"tasks": 2, "evaluation_tasks": 2} | options))  # type: ignore[arg-type]
    with pytest.raises(HarnessError, match=said) as caught:
        problem.setup(root, 0, CPU, torch.float32)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dataset", ["mini_imagenet", "tiny_imagenet_stand_in", "omniglot_stand_in"])
def test_data_that_are_not_there_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str
) -> None:
    refused(tmp_path, "is missing", dataset=dataset)
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    refused(None, "is not downloaded.*dataset=digits", dataset=dataset)
    for folder, name in (
        ("omniglot", "omniglot.npz"),
        ("tiny-imagenet-fewshot", "tiny_imagenet_fewshot100.npz"),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_bytes(b"something else")
    refused(tmp_path, "is missing" if dataset == "mini_imagenet" else "has SHA-256", dataset=dataset)


def test_other_forms_of_mini_imagenet_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "mini-imagenet"
    folder.mkdir()
    refused(tmp_path, r"none of the forms that are read: expected mini-imagenet/ with train.csv.*npz$")
    (folder / "mini-imagenet-cache-train.pkl").write_bytes(b"")
    refused(tmp_path, "a pickle can run code and is not read")
    (folder / "mini_imagenet.npz").write_bytes(b"no zip")
    refused(tmp_path, "mini_imagenet.npz is not an npz file with train_images, train_labels, val_images")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"val_images": np.zeros((6, 84, 84, 3))}, "val_images is float64"),
        ({"test_images": np.zeros((6, 80, 84, 3), dtype=np.uint8)}, r"test_images is uint8 \(6, 80, 84, 3\)"),
        ({"train_images": np.zeros((6, 84), dtype=np.uint8)}, "train_images is uint8"),
        ({"test_labels": np.zeros(5)}, r"test_labels has shape \(5,\); expected \(6,\)"),
    ],
)
def test_a_wrong_npz_is_refused(tmp_path: Path, change: dict[str, np.ndarray], said: str) -> None:
    path = mini(tmp_path, "npz") / "mini-imagenet" / "mini_imagenet.npz"
    with np.load(path) as arrays:
        changed = dict(arrays) | change
    buffer = io.BytesIO()
    np.savez(buffer, **changed)  # type: ignore[arg-type]
    path.write_bytes(buffer.getvalue())
    refused(tmp_path / "npz", said)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("val.csv", "file,label\nval0.png,n2\n", "val.csv, line 1: expected the head filename,label"),
        (
            "val.csv",
            "filename,label\nval0.png\n",
            "val.csv, line 2: expected filename,label, but got 'val0.png'",
        ),
        ("val.csv", "filename,label\n../val0.png,n2\n", "val.csv, line 2: expected filename,label"),
        ("val.csv", "filename,label\nval0.png,n0\n", "class n0 is in two of the lists"),
        ("images/test0.png", "no image", "test0.png is not an image that can be read"),
    ],
)
def test_a_wrong_folder_is_refused(tmp_path: Path, name: str, content: str, said: str) -> None:
    root = mini(tmp_path, "folder")
    (root / "mini-imagenet" / name).write_text(content)
    refused(root, said, tasks=20, evaluation_tasks=20)


def test_tasks_that_cannot_be_drawn_are_refused(tmp_path: Path) -> None:
    root = mini(tmp_path, "npz")
    refused(root, "ways is 3, but the train split has 2 classes; expected no more", ways=3)
    refused(root, "class 0 of the train split has 3 images, but a task takes 4 of a class", shots=3)
    refused(root, "ways is 11, but the train split has 10 classes", dataset="digits", ways=11)


@pytest.mark.parametrize(
    "option", ["ways", "shots", "queries", "channels", "tasks", "evaluation_tasks", "curve_tasks"]
)
def test_nothing_less_than_one_is_taken(option: str) -> None:
    refused(None, f"{option} must be at least 1, but got 0", **{option: 0})


# --- the stand-ins


@needs_data
@pytest.mark.parametrize(
    ("dataset", "number", "pixels", "colours", "features"),
    [
        ("tiny_imagenet_stand_in", (64, 16, 20), 64, 3, 512),
        ("omniglot_stand_in", (813, 151, 659), 28, 1, 32),
    ],
)
def test_the_stand_ins(
    dataset: str,
    number: tuple[int, ...],
    pixels: int,
    colours: int,
    features: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """How many classes, how many images of each, and a forward pass of the paper's network."""
    images = read(dataset, None, 0)
    each = 550 if dataset.startswith("tiny") else 20
    assert tuple(len(images.classes[split]) for split in SPLITS) == number
    assert all(len(own) == each for split in SPLITS for own in images.classes[split].values())

    monkeypatch.setattr("problems.meta_learning.read", lambda *_: images)
    problem = MetaLearning(dataset=dataset, tasks=2, evaluation_tasks=1)
    problem.setup(None, 0, CPU, torch.float32)
    assert problem._pixels.shape[1:] == (pixels, pixels, colours)
    assert problem.dim_y == (features + 1) * 5
    assert problem.dim_x == 32 * 9 * (colours + 96) + 12 * 32
    x, y = problem.initial(0)
    loss = problem.upper_loss(x.float(), y.float().repeat(2), torch.arange(2))
    assert torch.allclose(loss, torch.full((2,), float(np.log(5))))
