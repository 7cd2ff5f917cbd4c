"""Logistic regression on 20 Newsgroups with an l2 parameter of its own for every feature.

With documents A_i in R^d (word counts, each row of norm 1) of groups l_i, of which there are c = 20, half of
the training documents to train on and half to validate:

    minimise over x in R^d   f = mean over validation documents of CE(Y^T A_i, l_i)
    Y(x) = argmin g = mean over training documents of CE(Y^T A_i, l_i) + rho/2 sum_j exp(x_j) |Y_j|^2

x (d,): log-parameters; y (d * c,): Y, feature by feature, so that what a word adds to the logits is c
numbers side by side. With A the rows of a mini-batch of b, E their groups one-hot, P = softmax(A Y) and
R = (P - E) / b:

    d_Y g = A^T R + rho exp(x) Y              H V = A^T (P * (T - <P, T>)) / b + rho exp(x) V,  T = A V
    C v = rho exp(x) <Y, V>, feature by feature, whatever the mini-batch;    d_x g = rho/2 exp(x) |Y|^2
    d_x f = 0,   d_Y f = A^T R

Sparse all the way: A Y sums rows of Y over the non-zeros of a document, A^T R rows of R over those of a
feature, both `embedding_bag`. A mini-batch is cut out, and a small one sorted by feature, once for a pack.

x0 = 0 (every parameter 1), y0 = 0. Evaluation: the current Y as the method holds it, not trained any further.

Reference: M. Arbel, J. Mairal, "Amortized Implicit Differentiation for Stochastic Bilevel Optimization",
ICLR 2022, Section 5.2 and Appendix F.2, who take it from R. Grazzi, L. Franceschi, M. Pontil, S. Salzo, "On
the Iteration Complexity of Hypergradient Computation", ICML 2020.
Differs from the paper: its code, as its forerunners', has rho = 1 / (c d), half of what the paper prints
(`regulariser`), and keeps headers, footers and quotes, so that d = 130107 where the paper says 101631
(`features`): without them a linear support vector machine on the same half reaches 62 % test accuracy, with
them 79 %, and the paper's figures exceed 80 %.
"""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from harness.api import Batch, Metric, Problem, option
from problems._texts import DATASETS, GROUPS, Counts, read

LARGE = 0.25  # a share of all documents above which A^T R goes over all non-zeros rather than sort its own


class Bags(NamedTuple):
    """A sparse matrix row by row: columns and values of the non-zeros (nnz,), and where a row starts (n,)."""

    columns: Tensor
    values: Tensor
    starts: Tensor

    def lengths(self) -> Tensor:
        """Non-zeros of each row, shape (n,)."""
        return torch.diff(self.starts, append=self.starts.new_full((1,), len(self.columns)))

    def owners(self) -> Tensor:
        """The row of each non-zero, shape (nnz,)."""
        lengths = self.lengths()
        places = torch.arange(len(lengths), dtype=torch.int32, device=lengths.device)
        return torch.repeat_interleave(places, lengths, output_size=len(self.columns))

    def times(self, dense: Tensor) -> Tensor:
        """The product with a dense matrix (columns, c)."""
        return embedding_bag(self.columns, dense, self.starts, mode="sum", per_sample_weights=self.values)

    def part(self, rows: Tensor) -> "Bags":
        begins, lengths = self.starts.index_select(0, rows), self.lengths().index_select(0, rows)
        ends = lengths.cumsum(0, dtype=torch.int32)
        shifts = torch.repeat_interleave(begins - ends + lengths, lengths)
        places = torch.arange(len(shifts), dtype=torch.int32, device=rows.device).add_(shifts)
        found = self.columns.index_select(0, places), self.values.index_select(0, places)
        return Bags(*found, ends - lengths)

    def transposed(self, columns: int) -> "Bags":
        """The same matrix column by column, of which there are so many."""
        order = torch.sort(self.columns, stable=True).indices
        counts = torch.bincount(self.columns, minlength=columns)
        found = self.owners().index_select(0, order), self.values.index_select(0, order)
        return Bags(*found, (counts.cumsum(0) - counts).to(torch.int32))


@dataclasses.dataclass
class Documents:
    """Rows of norm 1 (n, features) and groups (n,); of a mini-batch also what it is cut out of, and where."""

    words: Bags
    groups: Tensor
    features: int
    part_of: "tuple[Documents, Tensor] | None" = None

    @classmethod
    def make(cls, texts: Counts, features: int, device: torch.device, dtype: torch.dtype) -> "Documents":
        starts, counts = texts.starts, texts.counts.astype(np.float64)
        sums = np.concatenate([[0], np.cumsum(counts**2)])
        norms = np.repeat(np.sqrt(np.diff(sums[starts])), np.diff(starts))
        words = (torch.as_tensor(texts.features), torch.as_tensor(counts / norms).to(dtype))
        bags = Bags(*(value.to(device) for value in (*words, torch.as_tensor(starts[:-1]))))
        return cls(bags, torch.as_tensor(texts.groups.astype(np.int64)).to(device), features)

    @cached_property
    def by_word(self) -> Bags:
        return self.words.transposed(self.features)

    def part(self, rows: Tensor) -> "Documents":
        words, groups = self.words.part(rows), self.groups.index_select(0, rows)
        return Documents(words, groups, self.features, (self, rows))

    def logits(self, y: Tensor) -> Tensor:
        """A Y of N trials, y (N, d, c), shape (N, n, c)."""
        return torch.stack([self.words.times(table) for table in y])

    def back(self, r: Tensor, scales: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """A^T R of N trials, r (N, n, c), plus scales (N, d, 1) * y (N, d, c), shape (N, d * c)."""
        words = self
        if self.part_of is not None and len(self.groups) > LARGE * len(self.part_of[0].groups):
            words, rows = self.part_of
            r = r.new_zeros(len(r), len(words.groups), r.shape[2]).index_copy_(1, rows, r)
        out = r.new_empty(len(r), self.features, r.shape[2])
        for n, (own, into) in enumerate(zip(r, out, strict=True)):
            product = words.by_word.times(own)
            if scales is None or y is None:
                into.copy_(product)
            else:
                torch.addcmul(product, scales[n], y[n], out=into)
        return out.flatten(1)

    def losses(self, logits: Tensor) -> Tensor:
        """Cross-entropies (N, n)."""
        right = logits.gather(2, self.groups.expand(len(logits), -1).unsqueeze(2)).squeeze(2)
        return torch.logsumexp(logits, 2) - right


def _inner(u: Tensor, v: Tensor) -> Tensor:
    """<u_j, v_j> of every feature j, u and v (N, d, c), shape (N, d); one trial at a time stays in cache."""
    ones = u.new_ones(u.shape[2])
    return torch.stack([torch.mv(a * b, ones) for a, b in zip(u, v, strict=True)])


def _by_draws(r: Tensor, batch: Batch) -> Tensor:
    """r (N, b, c) times each document's share of the draws."""
    weights = batch.weights(r)
    return r.div_(r.shape[1]) if weights is None else r.mul_(weights.unsqueeze(2))


def _mean(losses: Tensor, batch: Batch) -> Tensor:
    """Over the draws, losses (N, b), shape (N,)."""
    weights = batch.weights(losses)
    return losses.mean(1) if weights is None else (losses * weights).sum(1)


@final
@dataclasses.dataclass(kw_only=True)
class Newsgroups(Problem):
    label = "20 Newsgroups"
    reference = "Arbel and Mairal 2022, Section 5.2"
    objective = "val_loss"
    headline = "test_accuracy"
    metric_names = {
        "val_loss": Metric("validation loss", "Val loss"),
        "val_accuracy": Metric("validation accuracy (%)", "Val", "higher"),
        "test_accuracy": Metric("test accuracy (%)", "Test", "higher"),
    }
    default_budget, default_trials = 14_000_000, 32  # ours; the points of the paper's grid

    dataset: str = option(
        "20news, or documents drawn at random: small, and nothing to download",
        default="20news",
        choices=DATASETS,
    )
    features: int = option(
        "of 20news 130107, headers, footers and quotes kept, as in the published code, or 101631 without, as "
        "in the paper's text; of drawn documents any number",
        default=130107,
    )
    regulariser: str = option(
        "rho: 1 / (c d) as in the published code, twice that as in the paper",
        default="code",
        choices=("code", "paper"),
    )

    def setup(self, data_dir: Path | None, data_seed: int, device: torch.device, dtype: torch.dtype) -> None:
        """The split in halves is stratified; at data seed 0 it is that of the forerunners' published code."""
        from sklearn.model_selection import train_test_split

        texts = read(self.dataset, self.features, data_dir, data_seed)
        groups = texts.train.groups
        halves = train_test_split(
            np.arange(len(groups)), stratify=groups, test_size=0.5, random_state=data_seed
        )
        every, test = (Documents.make(part, self.features, device, dtype) for part in texts)
        parts = (every.part(torch.as_tensor(half).to(device)) for half in halves)
        self._train, self._val = (dataclasses.replace(part, part_of=None) for part in parts)
        self._test = test
        self._cut: dict[str, tuple[Tensor, Documents]] = {}
        self.dim_x, self.dim_y = self.features, self.features * GROUPS
        self.lower_examples, self.upper_examples = map(len, halves)
        self._rho = (1 if self.regulariser == "code" else 2) / self.dim_y
        self._nonzeros = sum(len(part.counts) for part in texts)

    def memory(self, pack: int, batch_size: int | None) -> int:
        """The counts, in both orders and while they are read; per trial six vectors as large as y, as many as
        a step of conjugate gradients makes in passing, and the logits of a level."""
        most = max(self.lower_examples, self.upper_examples, len(self._test.groups))
        return 60 * self._nonzeros + 4 * pack * 6 * (self.dim_y + self.dim_x + most * GROUPS)

    def initial(self, seed: int) -> tuple[Tensor, Tensor]:
        """Neither depends on the seed."""
        return torch.zeros(self.dim_x), torch.zeros(self.dim_y)

    # --- losses of one trial

    def _losses(self, documents: Documents, y: Tensor, rows: Tensor) -> Tensor:
        part = documents.part(rows)
        words = y.view(-1, GROUPS).index_select(0, part.words.columns) * part.words.values.unsqueeze(1)
        logits = torch.zeros_like(words[: len(rows)]).index_add(0, part.words.owners(), words)
        return part.losses(logits.unsqueeze(0)).squeeze(0)

    def lower_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        norms = (y * y).view(-1, GROUPS).sum(1)
        return self._losses(self._train, y, rows) + self._rho / 2 * (x.exp() * norms).sum()

    def upper_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return self._losses(self._val, y, rows)

    # --- closed forms for N trials

    def _documents(self, level: str, batch: Batch) -> Documents:
        """Those of the batch; the last one of each level is kept for single loops and conjugate gradients."""
        every = self._train if level == "lower" else self._val
        if batch.full:
            return every
        if level not in self._cut or self._cut[level][0] is not batch.rows:
            self._cut[level] = batch.rows, every.part(batch.rows)
        return self._cut[level][1]

    def _scales(self, x: Tensor) -> Tensor:
        """The curvature of the regulariser, shape (N, d)."""
        return x.exp().mul_(self._rho)

    def _residuals(self, documents: Documents, y: Tensor, batch: Batch) -> Tensor:
        """P - E times each document's share, y (N, d, c), shape (N, b, c)."""
        r = torch.softmax(documents.logits(y), 2)
        r[:, torch.arange(r.shape[1], device=r.device), documents.groups] -= 1
        return _by_draws(r, batch)

    def lower_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        documents, y = self._documents("lower", batch), _tables(y)
        return documents.back(self._residuals(documents, y, batch), self._scales(x).unsqueeze(2), y)

    def joint_lower_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.cross(x, y, y, batch).div_(2), self.lower_gradient(x, y, batch)

    def hessian_vector(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        documents, v = self._documents("lower", batch), _tables(v)
        p, t = torch.softmax(documents.logits(_tables(y)), 2), documents.logits(v)
        r = p.mul_(t - (p * t).sum(2, keepdim=True))
        return documents.back(_by_draws(r, batch), self._scales(x).unsqueeze(2), v)

    def cross(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        return self._scales(x).mul_(_inner(_tables(y), _tables(v)))

    def upper_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """d_x f = 0, as (1, 1)."""
        documents = self._documents("upper", batch)
        return y.new_zeros(1, 1), documents.back(self._residuals(documents, _tables(y), batch))

    def lower_value(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        documents, y = self._documents("lower", batch), _tables(y)
        regulariser = (self._scales(x) * _inner(y, y)).sum(1) / 2
        return _mean(documents.losses(documents.logits(y)), batch) + regulariser

    def upper_value(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        documents = self._documents("upper", batch)
        return _mean(documents.losses(documents.logits(_tables(y))), batch)

    # --- metrics and evaluation

    def evaluate(self, x: Tensor, y: Tensor) -> dict[str, float]:
        return self.evaluate_pack(x.unsqueeze(0), y.unsqueeze(0))[0]

    def evaluate_pack(self, x: Tensor, y: Tensor) -> list[dict[str, float]]:
        val, test = (documents.logits(_tables(y)) for documents in (self._val, self._test))
        columns = (
            self._val.losses(val).double().mean(1),
            _accuracies(val, self._val.groups),
            _accuracies(test, self._test.groups),
        )
        rows = torch.stack(columns, 1).tolist()
        return [dict(zip(self.metric_names, row, strict=True)) for row in rows]

    def metrics(self, x: Tensor, y: Tensor) -> list[dict[str, float]]:
        return self.evaluate_pack(x, y)


def _tables(y: Tensor) -> Tensor:
    """(N, d * c) as (N, d, c)."""
    return y.view(len(y), -1, GROUPS)


def _accuracies(logits: Tensor, groups: Tensor) -> Tensor:
    """In percent, shape (N,)."""
    return (logits.argmax(2) == groups).double().mean(1) * 100
