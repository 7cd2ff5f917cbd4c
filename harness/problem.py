"""What a bilevel problem is to the harness.

    minimise over x in a convex set   f(x, y*(x)),   y*(x) = argmin_y g(x, y)   or   y* = Phi(x, y*)

Both levels are means over examples. An author writes the losses (or the contraction Phi) for *one* trial
and one value per example; the batched derivatives follow (`harness.derive`). Where speed matters a problem
overrides any of the derivatives with a closed form, and a test holds it against the derived one.

A lower level that falls apart into one small problem per example is marked `by_example`: then y holds one
y_i of dim_y numbers for each example of the current upper mini-batch, every derivative of an upper
iteration is taken on that mini-batch, and the lower level is the sum of the small problems.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from harness import derive
from harness.batch import Batch
from harness.result import Metric


@dataclass(kw_only=True)
class Problem(ABC):
    """A bilevel problem; its options are dataclass fields made by `harness.params.option`.

    `setup` fills the sizes and the data. Variables are flat: x (dim_x,), y (dim_y,); in a pack of N
    trials x (N, dim_x), y (N, dim_y). By example, y is (B * dim_y,) for a batch of B.
    A problem writes `lower_loss` or, for a fixed-point lower level, `lower_map`.
    default_budget, default_trials: what a study takes that says nothing else, samples of a trial and
    configurations of a solver; where the problem is a paper's, the paper's.
    """

    label: ClassVar[str]
    reference: ClassVar[str]
    objective: ClassVar[str]
    headline: ClassVar[str]
    metric_names: ClassVar[dict[str, Metric]]
    dtype: ClassVar[torch.dtype] = torch.float32
    by_example: ClassVar[bool] = False
    default_budget: ClassVar[float] = 100_000
    default_trials: ClassVar[int] = 20

    dim_x: int = field(init=False, default=0)
    dim_y: int = field(init=False, default=0)
    lower_examples: int = field(init=False, default=0)
    upper_examples: int = field(init=False, default=0)
    lower_worth: int = field(init=False, default=1)
    upper_worth: int = field(init=False, default=1)
    evaluation_samples: int = field(init=False, default=0)

    @abstractmethod
    def setup(self, data_dir: Path | None, data_seed: int, device: torch.device, dtype: torch.dtype) -> None:
        """Read the data, split it by `data_seed`, and set the sizes above.

        lower_worth, upper_worth: samples that one example of a level is worth, where it holds several (a
        few-shot task of K images is worth K). evaluation_samples: single-sample gradients that `evaluate`
        takes for one trial."""

    @abstractmethod
    def initial(self, seed: int) -> tuple[Tensor, Tensor]:
        """x0 (dim_x,) and y0 (dim_y,)."""

    @classmethod
    def is_map(cls) -> bool:
        """Whether the lower level is y = Phi(x, y)."""
        return cls.lower_map is not Problem.lower_map

    # A problem has one of the next two, so that neither can be abstract.

    def lower_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        """Lower losses of examples `rows` (B,) for one trial: shape (B,); g is their mean (by example
        their sum)."""
        raise NotImplementedError(f"{type(self).__name__} has neither lower_loss nor lower_map")

    def lower_map(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        """A contraction in y for one trial, of examples `rows` (B,): shape (B, dim_y); Phi is their mean
        (by example row i is Phi_i(x, y_i)). The lower gradient is then y - Phi, the Hessian-vector product
        (I - d_y Phi)^T z, the cross product -(d_x Phi)^T z."""
        raise NotImplementedError(f"{type(self).__name__} has no lower_map")

    @abstractmethod
    def upper_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        """Upper losses of examples `rows` (B,) for one trial: shape (B,); f is their mean."""

    @abstractmethod
    def evaluate(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """The final protocol on one trial's output: every metric of `metric_names`.

        x (dim_x,); y (dim_y,): the lower variable that the method holds there, for a protocol that judges it
        as it is; by example it is empty, as a method holds the rows of a mini-batch only."""

    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the feasible set, rows of x (N, dim_x) one by one."""
        return x

    def projected_step(self, x: Tensor, direction: Tensor, step_size: Tensor) -> Tensor:
        """P(x - step_size * direction), shapes (N, dim_x), (N, dim_x), (N, 1)."""
        return self.project(torch.addcmul(x, direction, step_size, value=-1))

    def metrics(self, x: Tensor, y: Tensor) -> list[dict[str, float]]:
        """Cheap metrics of N trials at their current x, y, for curves; none unless overridden."""
        return [{} for _ in range(len(x))]

    def evaluate_pack(self, x: Tensor, y: Tensor) -> list[dict[str, float]]:
        """`evaluate` for N trials; override it where they can share work."""
        return [self.evaluate(*one) for one in zip(x, y, strict=True)]

    def part_of_evaluation(self, x: Tensor, y: Tensor) -> float:
        """Do some of `evaluate_pack`, and say which share of its work that is: `harness run --dry-run` times
        it so. All of it, unless overridden, as it should be where one trial takes more than a second."""
        self.evaluate_pack(x, y)
        return 1.0

    def memory(self, pack: int, batch_size: int | None) -> int:
        """Bytes a worker needs for its data and for the derivatives and the evaluation of a pack, at that
        many examples a mini-batch (None: all); what solvers hold is added to it. A problem with large data
        overrides it."""
        copies = 1
        if self.by_example:
            copies = self.upper_examples if batch_size is None else min(batch_size, self.upper_examples)
        return self.dtype.itemsize * pack * (6 * self.dim_x + 12 * copies * self.dim_y)

    def lower_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        """d_y g on the batch, shape (N, dim_y)."""
        return derive.lower_gradient(self, x, y, batch)

    def joint_lower_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """d_x g and d_y g on the batch, shapes (N, dim_x) and (N, dim_y); a map has none."""
        return derive.joint_lower_gradient(self, x, y, batch)

    def hessian_vector(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        """(d2_yy g) v on the batch, shape (N, dim_y); for a map (I - d_y Phi)^T v."""
        return derive.hessian_vector(self, x, y, v, batch)

    def cross(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        """(d2_xy g) v = d_x <d_y g, v> on the batch, shape (N, dim_x); for a map -(d_x Phi)^T v."""
        return derive.cross(self, x, y, v, batch)

    def upper_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """d_x f and d_y f on the batch, shapes (N, dim_x) and (N, dim_y); a d_x f that is 0 may be (1, 1), so
        that nobody writes millions of zeros."""
        return derive.upper_gradient(self, x, y, batch)

    def lower_value(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        """g on the batch, shape (N,); a map has none."""
        return derive.lower_value(self, x, y, batch)

    def upper_value(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        """f on the batch, shape (N,)."""
        return derive.upper_value(self, x, y, batch)

    def hessian(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        """d2_yy g on the batch, column by column, shape (N, dim_y, dim_y)."""
        columns = [self.hessian_vector(x, y, e, batch) for e in _units(y)]
        return torch.stack(columns, 2)

    def cross_matrix(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        """d2_xy g on the batch, column by column, shape (N, dim_x, dim_y)."""
        return torch.stack([self.cross(x, y, e, batch) for e in _units(y)], 2)


DERIVATIVES = ("lower_gradient", "joint_lower_gradient", "hessian_vector", "cross", "upper_gradient")
"""What a problem may have in closed form, and `harness.derive` derives where it does not."""


def _units(y: Tensor) -> Tensor:
    """The unit vectors of y's space, each for N trials: shape (dim_y, N, dim_y)."""
    trials, dim_y = y.shape
    return torch.eye(dim_y, dtype=y.dtype, device=y.device).unsqueeze(1).expand(-1, trials, -1)
