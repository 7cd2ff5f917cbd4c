"""Regularisation selection: the penalties of a linear classifier, chosen on validation data.

With features u_i, labels l_i, n training and n' validation examples and a classifier W:

    minimise over x   f = 1/n' sum_val loss(W u'_j, l'_j) = L(x) at W = W(x)
    W(x) = argmin g = 1/n sum_i loss(W u_i, l_i) + 1/2 sum_k exp(x_k) |W_k|^2

    ijcnn1    loss log(1 + exp(-l w^T u)), l = 1 or -1; a penalty for each of the 22 features: W_k = w_k.
              n = 49 990, n' = 91 701: the test file is the validation set
    covtype   cross-entropy of seven classes; a penalty for each class: W_k is row k of W (7, 54).
              n = 371 847, n' = 92 962, and 116 203 examples for the test; features standardised with the
              mean and the deviation of the n
    breast_cancer
              for tests: loss and penalties as of ijcnn1, split and standardised as covtype; the 569 examples
              of 30 features of scikit-learn, n = 364, n' = 91, 114 for the test

No intercept. x (22,), (7,) or (30,); y: W, row by row, (22,), (378,) or (30,). With s = W u, the gradient r
and the Hessian S of the loss by s, and exp(x) spread over the entries of W that it weighs:

    d_W = r u^T + exp(x) W,   H V = (S V u) u^T + exp(x) V,   d_x_k = 1/2 exp(x_k) |W_k|^2
    d_x_k <d_W, V> = exp(x_k) <W_k, V_k>

Start and split are the public benchmark's, RandomState(2442), whatever the seeds: y0 standard normal, then
x0 = log of uniform numbers with two classes; x0 = -2, y0 = 0 for covtype; the split. With `seeds` = "own",
start and split come from --seed and --data-seed.

Evaluation: L(x) and |grad L(x)|^2 with W(x) from Newton's method to 1e-10 (`TOLERANCE`); errors in
percent of the W that the method holds. On ijcnn1, which has no other data, test_error is val_error. A study
selects by L(x), which is what the problem is to minimise, whatever the data, and no method gains by a W that
is not the solution. A curve has all of it but for covtype, where Newton's method takes some twenty
seconds: there it has the errors only.

Reference: M. Dagréou, P. Ablin, S. Vaiter, T. Moreau, "A Framework for Bilevel Optimization that Enables
Stochastic and Global Variance Reduction Algorithms", NeurIPS 2022, Section 4, as in its authors' public
benchmark, benchopt/benchmark_bilevel; covtype as in the benchmark. Data: IJCNN 2001 challenge, via LIBSVM;
J. Blackard and D. Dean, Covertype, UCI, 1998.
Differs from the benchmark: errors are in percent; of covtype L(x) is reported too, where the benchmark has
errors only; W(x) is by Newton's method, where it is by L-BFGS.
"""

import dataclasses
import io
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.api import Batch, HarnessError, Metric, Problem, option
from harness.data import parse_npz, read_bzip2, read_gzip, read_local
from problems._linear import Examples, Link, Logistic, Softmax, add_product, by_share, wide_product

DATASETS = ("ijcnn1", "covtype", "breast_cancer")
PUBLIC_SEED = 2442
START = -2.0  # every entry of x0 for covtype
TOLERANCE = 1e-10  # of |d_y g| at W(x), each entry over the square root of its curvature
NEWTON_STEPS = 40  # at most, with those that are halved; about ten as a rule
LEAST_STEP = 2.0**-20  # of a damped Newton step
KEPT = 0.1  # of the gradient is left by a step good enough to keep its Hessian
LARGEST = (
    300.0  # of x in Newton's method: a weight under exp(300) is 0 to the last digit, and nothing overflows
)
BLOCK = 4096  # examples whose scores stay in cache in a Hessian

IJCNN1_FEATURES = 22
# LIBSVM's ijcnn1 and ijcnn1.t, in a repository whose files stay as they are.
IJCNN1_URL = (
    "https://raw.githubusercontent.com/X-DataInitiative/tick-datasets/"
    "9d959b6e53e17145e93e9849ff1f9f6d2de8ae51/binary/ijcnn1/"
)
IJCNN1 = {
    "ijcnn1.trn": "7fe291672c3fefe6a7e3c51529becd23f0e985ba05ffb8d53c9c648c1e91cc19",
    "ijcnn1.tst": "e7b0bbd518641980dc322746c6bc59d019d3153934e6258e48f9d8cfae2c4bb8",
}
COVTYPE_CLASSES = 7
COVTYPE_URL = "https://archive.ics.uci.edu/ml/machine-learning-databases/covtype/covtype.data.gz"
COVTYPE_SHA = "0a9371cef7c964b5475d6053cc3e0894a5aa6f65ad1ed3ecb01c45aa96217945"
COVTYPE_NPZ_SHA = "90ae71f757eb329580cb1c7e40ea4f64f36f3e70c122c592b4a150e3415f2d9f"
WILDERNESS, SOILS = 4, 40  # columns of 0 and 1, one of them 1

Labelled = tuple[NDArray[np.float64], NDArray[np.int64]]


def read_ijcnn1(data_dir: Path | None) -> list[Labelled]:
    """Training and test features (n, 22) and labels 0 and 1 (n,)."""
    from sklearn.datasets import load_svmlight_file

    found = []
    for name, sha in IJCNN1.items():
        text = read_bzip2(data_dir, "ijcnn1", name, f"{IJCNN1_URL}{name}.bz2", sha)
        features, signs = load_svmlight_file(io.BytesIO(text), n_features=IJCNN1_FEATURES, zero_based=False)
        found.append((features.toarray(), (signs > 0).astype(np.int64)))
    return found


def read_covtype(data_dir: Path | None) -> Labelled:
    """Features (n, 54) and labels 0 to 6 (n,), in UCI's order of rows and columns.

    From UCI's text, or from an npz file in the data folder that has the ten measurements (10, n), the
    numbers of the wilderness area and of the soil, and y."""
    packed = read_local(data_dir, "covtype", "covtype.npz", COVTYPE_NPZ_SHA)
    if packed is None:
        text = read_gzip(data_dir, "covtype", "covtype.data", COVTYPE_URL, COVTYPE_SHA)
        rows = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.int16)
        return rows[:, :-1].astype(np.float64), rows[:, -1].astype(np.int64) - 1
    parts = parse_npz(packed, "covtype.npz", ("quant", "wilderness", "soil", "y"))
    columns = [
        parts["quant"].T,
        np.eye(WILDERNESS)[parts["wilderness"]],
        np.eye(SOILS)[parts["soil"]],
    ]
    return np.concatenate(columns, axis=1).astype(np.float64), parts["y"].astype(np.int64) - 1


class Newton(NamedTuple):
    """Of one trial: W (1, dim_y), the scale (dim_y,) that makes H's diagonal 1, and the eigenvalues (dim_y,)
    and eigenvectors of H so scaled: penalties may differ by any number of orders of magnitude."""

    y: Tensor
    scale: Tensor
    values: Tensor
    vectors: Tensor

    @classmethod
    def at(cls, y: Tensor, hessian: Tensor) -> "Newton":
        scale = hessian.diagonal().clamp(min=torch.finfo(y.dtype).tiny).rsqrt()
        return cls(y, scale, *torch.linalg.eigh(scale.unsqueeze(1) * hessian * scale))

    def norm(self, gradient: Tensor) -> float:
        """In that scale, in which it is about the square root of what is left of g."""
        return float((self.scale * gradient).norm())

    def solve(self, right: Tensor) -> Tensor:
        """H^-1 right, shape (1, dim_y); 0 along a direction without curvature."""
        curved = self.values > self.values[-1] * 1e-15
        inverse = torch.where(curved, 1 / self.values.where(curved, 1), 0)
        return (self.scale * right @ self.vectors * inverse) @ self.vectors.T * self.scale


@final
@dataclasses.dataclass(kw_only=True)
class Regularisation(Problem):
    label = "Regularisation selection"
    reference = "Dagréou, Ablin, Vaiter and Moreau 2022, Section 4"
    objective = "value_function"
    headline = "value_function"
    metric_names = {
        "value_function": Metric("upper loss at the lower solution, L(x)", "L(x)"),
        "gradient_norm_squared": Metric("squared norm of the gradient of L", "Sq. gradient"),
        "val_error": Metric("validation error (%)", "Val"),
        "test_error": Metric("test error (%)", "Test"),
    }
    default_budget, default_trials = 1_300_000, 16  # ours; as many trials as its grid has points
    dtype = torch.float64

    dataset: str = option(
        "ijcnn1, breast_cancer: a penalty for each feature; covtype: one for each class",
        default="ijcnn1",
        choices=DATASETS,
    )
    seeds: str = option(
        "start and split: public, the public benchmark's, or own, by --seed and --data-seed",
        default="public",
        choices=("public", "own"),
    )

    def setup(self, data_dir: Path | None, data_seed: int, device: torch.device, dtype: torch.dtype) -> None:
        if self.dataset not in DATASETS:
            raise HarnessError(f"regularisation: dataset must be one of {DATASETS}, but got {self.dataset!r}")
        draw = np.random.RandomState(PUBLIC_SEED if self.seeds == "public" else data_seed)
        self._binary = self.dataset != "covtype"
        sets = _read(self.dataset, data_dir, draw)
        self._link: type[Link] = Logistic if self._binary else Softmax
        classes = 2 if self._binary else COVTYPE_CLASSES
        made = [Examples.make(features, labels, classes, device, dtype) for features, labels in sets]
        self._train, self._val, self._test = made[0], made[1], made[-1]
        self.features = int(self._train.features.shape[1])
        self.scores = len(self._train.targets)
        self.dim_y = self.scores * self.features
        self.dim_x = self.features if self._binary else self.scores
        self.lower_examples, self.upper_examples = len(sets[0][1]), len(sets[1][1])
        self.evaluation_samples = NEWTON_STEPS * self.lower_examples  # at most

    def memory(self, pack: int, batch_size: int | None) -> int:
        """Features four times over while they are read and split; per trial the scores of W and v on a batch
        and on the larger sets, and the dense matrices of H."""
        kept = self.lower_examples + self.upper_examples + len(self._test.features)
        drawn = self.lower_examples if batch_size is None else min(batch_size, self.lower_examples)
        scores = 4 * self.scores * drawn + 2 * self.scores * self.upper_examples
        own = scores + self.dim_y * (3 * self.dim_y + 12) + 6 * self.dim_x
        solver = 4 * self.scores * self.lower_examples
        return 8 * (4 * kept * self.features + drawn * self.features + solver + pack * own)

    def initial(self, seed: int) -> tuple[Tensor, Tensor]:
        if not self._binary:
            return torch.full((self.dim_x,), START, dtype=torch.float64), torch.zeros(self.dim_y).double()
        draw = np.random.RandomState(PUBLIC_SEED if self.seeds == "public" else seed)
        y0 = draw.randn(self.dim_y)
        return torch.from_numpy(np.log(draw.rand(self.dim_x))), torch.from_numpy(y0)

    # --- losses of one trial

    def _penalty(self, x: Tensor) -> Tensor:
        """exp(x) spread over the entries of W, (N, dim_x) to (N, dim_y)."""
        return x.exp().repeat_interleave(self.dim_y // self.dim_x, -1)

    def _losses(self, examples: Examples, y: Tensor, rows: Tensor) -> Tensor:
        scores = y.view(1, self.scores, -1) @ examples.features[rows].T
        return self._link.losses(scores, examples.targets[:, rows]).squeeze(0)

    def lower_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return self._losses(self._train, y, rows) + 0.5 * (self._penalty(x) * y * y).sum()

    def upper_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return self._losses(self._val, y, rows)

    # --- closed forms for N trials: one wide product on the features of the batch serves all

    def _w(self, y: Tensor) -> Tensor:
        return y.view(len(y), -1, self.features)

    def _by_penalty(self, x: Tensor, products: Tensor) -> Tensor:
        """exp(x_k) times the sum of the products (N, dim_y) that belong to k, shape (N, dim_x)."""
        return x.exp() * products.view(len(x), self.dim_x, -1).sum(2)

    def _gradient(self, examples: Examples, y: Tensor, batch: Batch) -> Tensor:
        """Of the mean loss of a batch, shape (N, dim_y)."""
        part, w = examples.of(batch), self._w(y)
        r = self._link.residuals(wide_product(w, part.features), part.targets)
        return self._summed(by_share(r, batch), part)

    def _summed(self, r: Tensor, examples: Examples) -> Tensor:
        """sum r u^T, shape (N, dim_y)."""
        total = r.new_zeros(len(r), self.scores, self.features)
        add_product(total, r, examples.features)
        return total.flatten(1)

    def lower_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        return self._gradient(self._train, y, batch).addcmul_(self._penalty(x), y)

    def joint_lower_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return 0.5 * self._by_penalty(x, y * y), self.lower_gradient(x, y, batch)

    def hessian_vector(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        examples = self._train.of(batch)
        both = torch.cat([self._w(y), self._w(v)], 1)
        scores, along = torch.split(wide_product(both, examples.features), self.scores, 1)
        r = by_share(self._link.curved(scores, along), batch)
        return self._summed(r, examples).addcmul_(self._penalty(x), v)

    def cross(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        """The same on every batch."""
        return self._by_penalty(x, y * v)

    def upper_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """d_x f = 0, as (1, 1)."""
        return y.new_zeros(1, 1), self._gradient(self._val, y, batch)

    def _mean_loss(self, examples: Examples, y: Tensor, batch: Batch) -> Tensor:
        part = examples.of(batch)
        losses = self._link.losses(wide_product(self._w(y), part.features), part.targets)
        return by_share(losses, batch).sum(1)

    def lower_value(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        return self._mean_loss(self._train, y, batch) + 0.5 * (self._penalty(x) * y * y).sum(1)

    def upper_value(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        return self._mean_loss(self._val, y, batch)

    def hessian(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        """Block by block, a block for each pair of scores: sum S_ab u u^T."""
        examples, p = self._train.of(batch), self.features
        total = torch.diag_embed(self._penalty(x))
        for first in range(0, len(batch.rows), BLOCK):
            some = slice(first, first + BLOCK)
            u = examples.features[some]
            weights = batch.weights(y)
            draws = None if weights is None else weights[:, None, None, some]
            curvature = self._link.curvature(wide_product(self._w(y), u))
            curvature = curvature / len(batch.rows) if draws is None else curvature * draws
            for a in range(self.scores):
                for b in range(a + 1):
                    block = (curvature[:, a, b].unsqueeze(1) * u.T) @ u
                    total[:, a * p : a * p + p, b * p : b * p + p] += block
                    if b < a:
                        total[:, b * p : b * p + p, a * p : a * p + p] += block
        return total

    def cross_matrix(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        """Row k has exp(x_k) W_k in its own place, shape (N, dim_x, dim_y)."""
        own = torch.eye(self.dim_x, dtype=y.dtype, device=y.device)
        return own.repeat_interleave(self.dim_y // self.dim_x, 1) * (self._penalty(x) * y).unsqueeze(1)

    # --- metrics and evaluation

    def lower_solution(self, x: Tensor, y: Tensor) -> Newton:
        """Of one trial, x (1, dim_x), from y (1, dim_y) or 0, whichever has the lower g, by Newton's method.

        A Hessian is kept for as long as a step with it takes nine tenths off the gradient. A step with a new
        one is halved until the norm of the gradient falls, as it must: g is convex."""
        every = Batch(torch.arange(self.lower_examples, device=x.device), full=True)

        def at(y: Tensor) -> Newton:
            return Newton.at(y, self.hessian(x, y, every)[0])

        x = x.clamp(max=LARGEST)
        starts = torch.cat([torch.zeros_like(y), y])
        values = self.lower_value(x.repeat(2, 1), starts, every).nan_to_num(nan=torch.inf)
        y = starts[int(values.argmin())].unsqueeze(0)
        gradient, found, size = self.lower_gradient(x, y, every), at(y), 1.0
        for _ in range(NEWTON_STEPS):
            fresh, done = found.y is y, found.norm(gradient) <= TOLERANCE
            if (fresh and done) or size < LEAST_STEP:
                break
            if done:
                found = at(y)
                continue
            there = y - size * found.solve(gradient)
            ahead = self.lower_gradient(x, there, every)
            fall = found.norm(ahead) / found.norm(gradient)
            if fall <= (1 - size / 4 if fresh else KEPT):
                y, gradient, size = there, ahead, 1.0
            elif fresh:
                size /= 2
            if fall > KEPT and found.y is not y:
                found = at(y)
        return found if found.y is y else at(y)

    def _exact(self, x: Tensor, y: Tensor) -> tuple[float, float]:
        """L(x) and |grad L(x)|^2 of one trial, x (1, dim_x), y (1, dim_y)."""
        solution = self.lower_solution(x, y)
        every = Batch(torch.arange(self.upper_examples, device=x.device), full=True)
        z = -solution.solve(self._gradient(self._val, solution.y, every))
        gradient = self._by_penalty(x.clamp(max=LARGEST), solution.y * z)
        return float(self.upper_value(x, solution.y, every)), float((gradient**2).sum())

    def _errors(self, y: Tensor) -> list[dict[str, float]]:
        found = [
            self._link.errors(wide_product(self._w(y), part.features), part.targets).tolist()
            for part in (self._val, self._test)
        ]
        return [dict(zip(("val_error", "test_error"), row, strict=True)) for row in zip(*found, strict=True)]

    def metrics(self, x: Tensor, y: Tensor) -> list[dict[str, float]]:
        """The evaluation's for ijcnn1, the errors for covtype."""
        return self.evaluate_pack(x, y) if self._binary else self._errors(y)

    def evaluate_pack(self, x: Tensor, y: Tensor) -> list[dict[str, float]]:
        """Newton's method one trial after the other: it shares nothing between them."""
        exact = [self._exact(x[n : n + 1], y[n : n + 1]) for n in range(len(x))]
        return [
            dict(zip(("value_function", "gradient_norm_squared"), pair, strict=True)) | errors
            for pair, errors in zip(exact, self._errors(y), strict=True)
        ]

    def evaluate(self, x: Tensor, y: Tensor) -> dict[str, float]:
        return self.evaluate_pack(x.unsqueeze(0), y.unsqueeze(0))[0]


def _read(dataset: str, data_dir: Path | None, draw: np.random.RandomState) -> list[Labelled]:
    """Training, validation and, where there is one, test."""
    if dataset == "ijcnn1":
        return read_ijcnn1(data_dir)
    if dataset == "covtype":
        return _split(*read_covtype(data_dir), draw)
    from sklearn.datasets import load_breast_cancer

    features, labels = load_breast_cancer(return_X_y=True)
    return _split(features, labels, draw)


def _split(
    features: NDArray[np.float64], labels: NDArray[np.int64], draw: np.random.RandomState
) -> list[Labelled]:
    """Training, validation and test: a fifth for the test, a fifth of the rest for validation."""
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    rest, test, rest_labels, test_labels = train_test_split(
        features, labels, test_size=0.2, random_state=draw
    )
    train, val, train_labels, val_labels = train_test_split(
        rest, rest_labels, test_size=0.2, random_state=draw
    )
    scaler = StandardScaler().fit(train)
    pairs = [(train, train_labels), (val, val_labels), (test, test_labels)]
    return [(scaler.transform(part), names) for part, names in pairs]
