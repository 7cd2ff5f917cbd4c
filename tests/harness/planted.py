"""Right plug-ins, and the same with one mistake each, that `harness check` must catch.

python -m tests.harness.planted > docs/results/planted_mistakes.md
"""

import contextlib  # noqa: F401 - a mistake names it
import dataclasses
import gc
import inspect
import os  # noqa: F401 - a mistake names it
import sys
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from harness.api import (
    Batch,
    Cost,
    Metric,
    MiniBatch,
    Oracle,
    Place,
    Problem,
    Solver,
    State,
    count,
    real,
    shared,
)
from harness.budget import Accountant  # noqa: F401 - a mistake names it
from harness.check import (
    Counting,  # noqa: F401 - a mistake names it
    ExactQuartic,  # noqa: F401 - a mistake names it
    fresh_process,
    judged,
    problem_checks,
    solver_checks,
)
from harness.check.verdict import Checks, Verdict
from harness.oracle import _METERS  # noqa: F401 - a mistake names it

# --- right plug-ins


@dataclasses.dataclass(frozen=True)
class RightState(State):
    z: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class RightSolver(Solver[RightState]):
    """Both levels warm-started, both solved by gradient steps."""

    label = "Right"
    reference = "none"
    warm_starts = ("y", "z")
    calls: ClassVar[list[int]] = []

    lower_steps: Tensor = count("lower steps")
    system_steps: Tensor = count("system steps")
    cross_batches: Tensor = count("batches of the cross product")
    upper_step_size: Tensor = real("step size of x")
    lower_step_size: Tensor = real("step size of y")
    system_step_size: Tensor = real("step size of z")
    batch_size: int = shared("examples per batch", default=9)

    def cost(self, place: Place) -> Cost:
        return Cost(
            lower_gradient=place.lower_samples(self.lower_steps, self.batch_size),
            upper_gradient=place.upper_samples(None),
            hessian_vector=place.lower_samples(self.system_steps, self.batch_size),
            cross=place.lower_samples(self.cross_batches, self.batch_size),
        )

    def init(self, oracle: Oracle) -> RightState:
        return RightState(x=oracle.x0, y=oracle.y0, z=torch.zeros_like(oracle.y0))

    def step(self, oracle: Oracle, state: RightState) -> RightState:
        x, size, alpha = state.x, self.batch_size, self.upper_step_size

        def lower(batch: MiniBatch, y: Tensor, x: Tensor, eta: Tensor) -> Tensor:
            return y - eta * oracle.lower_gradient(x, y, batch)

        def system(batch: MiniBatch, z: Tensor, x: Tensor, y: Tensor, f_y: Tensor, mu: Tensor) -> Tensor:
            return z - mu * (oracle.hessian_vector(x, y, z, batch) + f_y)

        eta, mu = self.lower_step_size, self.system_step_size
        y = oracle.loop("lower", self.lower_steps, lower, state.y, x, eta, batch_size=size)
        f_x, f_y = oracle.upper_gradient(x, y)
        z = oracle.loop("system", self.system_steps, system, state.z, x, y, f_y, mu, batch_size=size)
        h = f_x + oracle.cross(x, y, z, oracle.lower_batches("cross", self.cross_batches, size))
        return RightState(x=oracle.projected_step(x, h, alpha), y=y, z=z)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RightRandomised(Solver[State]):
    """The system solved by a Neumann series of random length p, uniform on 0 to N - 1."""

    label = "Right, randomised"
    reference = "none"
    warm_starts = ("y",)

    system_steps: Tensor = count("longest series, N")
    upper_step_size: Tensor = real("step size of x")
    lower_step_size: Tensor = real("step size of y")
    system_step_size: Tensor = real("step size of the series")
    batch_size: int = shared("examples per batch", default=9)

    def length(self, place: Place) -> Tensor:
        return (place.uniform("length") * self.system_steps.double()).long()

    def cost(self, place: Place) -> Cost:
        once = place.lower_samples(1, self.batch_size)
        series = place.lower_samples(self.length(place), self.batch_size)
        return Cost(once, place.upper_samples(None), series, once)

    def init(self, oracle: Oracle) -> State:
        return State(x=oracle.x0, y=oracle.y0)

    def step(self, oracle: Oracle, state: State) -> State:
        x, size, mu = state.x, self.batch_size, self.system_step_size

        def factor(batch: MiniBatch, z: Tensor, x: Tensor, y: Tensor, mu: Tensor) -> Tensor:
            return z - mu * oracle.hessian_vector(x, y, z, batch)

        g_y = oracle.lower_gradient(x, state.y, oracle.lower_batch("lower", size))
        y = state.y - self.lower_step_size * g_y
        f_x, f_y = oracle.upper_gradient(x, y)
        z = -mu * self.system_steps.unsqueeze(1) * f_y
        z = oracle.loop("system", self.length(oracle.place), factor, z, x, y, mu, batch_size=size)
        h = f_x + oracle.cross(x, y, z, oracle.lower_batch("cross", size))
        return State(x=oracle.projected_step(x, h, self.upper_step_size), y=y)


@dataclasses.dataclass(kw_only=True)
class RightProblem(Problem):
    """g_i = (<a_i, y> - b_i)^2 / 2 + |y - M x|^2 / 2,  f_j = (<a_j, y> - b_j)^2 / 2 + |x|^2 / 20,  |x| <= 3,
    in closed form."""

    label = "Right"
    reference = "none"
    objective = "loss"
    headline = "loss"
    metric_names = {"loss": Metric("upper loss", "f"), "norm": Metric("norm of x", "|x|")}

    def setup(self, data_dir: Path | None, data_seed: int, device: torch.device, dtype: torch.dtype) -> None:
        draw = torch.Generator().manual_seed(data_seed)
        self.dim_x = self.dim_y = 5
        self.lower_examples, self.upper_examples = 29, 17
        self._a = torch.randn(46, 5, generator=draw, dtype=torch.float64).to(dtype)
        self._b = torch.randn(46, generator=draw, dtype=torch.float64).to(dtype)
        self._m = torch.randn(5, 5, generator=draw, dtype=torch.float64).to(dtype)

    def initial(self, seed: int) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(seed)
        return 0.1 * torch.randn(5, generator=draw), torch.zeros(5)

    def lower_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        gap = y - self._m @ x
        return (self._a[rows] @ y - self._b[rows]) ** 2 / 2 + gap @ gap / 2

    def upper_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return (self._a[29 + rows] @ y - self._b[29 + rows]) ** 2 / 2 + x @ x / 20

    def _share(self, batch: Batch) -> Tensor:
        weights = batch.weights(self._a)
        return self._a.new_full((1, len(batch.rows)), 1 / len(batch.rows)) if weights is None else weights

    def lower_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        a, b = self._a[batch.rows], self._b[batch.rows]
        return (self._share(batch) * (y @ a.T - b)) @ a + y - x @ self._m.T

    def hessian_vector(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        a = self._a[batch.rows]
        return (self._share(batch) * (v @ a.T)) @ a + v

    def cross(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        return -v @ self._m

    def upper_gradient(self, x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        a, b = self._a[29 + batch.rows], self._b[29 + batch.rows]
        return x / 10, (self._share(batch) * (y @ a.T - b)) @ a

    def project(self, x: Tensor) -> Tensor:
        norms = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return x * (3 / norms.clamp(min=3))

    def projected_step(self, x: Tensor, direction: Tensor, step_size: Tensor) -> Tensor:
        return self.project(x - step_size * direction)

    def evaluate(self, x: Tensor, y: Tensor) -> dict[str, float]:
        return self.evaluate_pack(x.unsqueeze(0), y.unsqueeze(0))[0]

    def evaluate_pack(self, x: Tensor, y: Tensor) -> list[dict[str, float]]:
        losses = ((x @ self._m.T) @ self._a[29:].T - self._b[29:]).square().mean(1) / 2
        norms = torch.linalg.vector_norm(x, dim=1)
        return [{"loss": float(a), "norm": float(b)} for a, b in zip(losses, norms, strict=True)]


@dataclasses.dataclass(kw_only=True)
class RightMap(Problem):
    """Phi_i = tanh(W y + U x + c_i) / 2 and f_j = |y - d_j|^2 / 2, the products in closed form."""

    label = "Right map"
    reference = "none"
    objective = "loss"
    headline = "loss"
    metric_names = {"loss": Metric("loss of x", "f")}

    def setup(self, data_dir: Path | None, data_seed: int, device: torch.device, dtype: torch.dtype) -> None:
        draw = torch.Generator().manual_seed(data_seed)
        self.dim_x, self.dim_y, self.lower_examples, self.upper_examples = 4, 6, 13, 7
        shapes = ((6, 6), (6, 4), (13, 6), (7, 6))
        parts = (torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype) for shape in shapes)
        self._w, self._u, self._c, self._d = parts
        self._w = self._w / torch.linalg.matrix_norm(self._w, 2)

    def initial(self, seed: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(4), torch.zeros(6)

    def lower_map(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return torch.tanh(self._w @ y + self._u @ x + self._c[rows]) / 2

    def upper_loss(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return (y - self._d[rows]).square().sum(1) / 2

    def _slope(self, x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        """Mean of the derivative of tanh / 2, shape (N, 6)."""
        inner = (y @ self._w.T + x @ self._u.T).unsqueeze(1) + self._c[batch.rows]
        slopes, weights = (1 - torch.tanh(inner) ** 2) / 2, batch.weights(self._c)
        return slopes.mean(1) if weights is None else (weights.unsqueeze(2) * slopes).sum(1)

    def hessian_vector(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        return v - (self._slope(x, y, batch) * v) @ self._w

    def cross(self, x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        return -(self._slope(x, y, batch) * v) @ self._u

    def evaluate(self, x: Tensor, y: Tensor) -> dict[str, float]:
        return {"loss": float(x @ x)}


# --- one mistake each


@dataclasses.dataclass(frozen=True)
class Mistake:
    """`edits` of the source of `base`, each (what stands there once, what stands there now)."""

    name: str
    base: str
    check: str
    edits: tuple[tuple[str, str], ...]


def _edits(base: str, table: Sequence[tuple[str, ...]]) -> list[Mistake]:
    return [
        Mistake(name, base, check, tuple(zip(edits[::2], edits[1::2], strict=True)))
        for name, check, *edits in table
    ]


def _found(*kinds: type) -> Any:
    """The object of these classes that the running trial uses: the last one made."""
    return [value for value in gc.get_objects() if type(value) in kinds][-1]


_UPPER = "f_x, f_y = oracle.upper_gradient(x, y)"
_STEP = "oracle.projected_step(x, h, alpha)"
_LOOP = "y = oracle.loop("
_H = "h = f_x + oracle.cross("
SOLVER_MISTAKES = [
    *_edits(
        "RightSolver",
        [
            ("wrong sign of the system", "hypergradient", "+ f_y)", "- f_y)"),
            ("wrong sign of the cross term", "hypergradient", _H, "h = f_x - oracle.cross("),
            ("d_x f forgotten", "hypergradient", _H, "h = oracle.cross("),
            ("stale y in the upper gradient", "hypergradient", _UPPER, _UPPER.replace("y)", "state.y)")),
            ("stale y in the cross term", "hypergradient", "cross(x, y,", "cross(x, state.y,"),
            ("stale y in the system", "hypergradient", "state.z, x, y, f_y", "state.z, x, state.y, f_y"),
            ("stale z in the cross term", "hypergradient", "cross(x, y, z,", "cross(x, y, state.z,"),
            ("batches of the cross term summed, not averaged", "hypergradient", _H,
             "h = f_x + self.cross_batches.unsqueeze(1) * oracle.cross("),
            ("lower step twice as long", "hypergradient", "y - eta *", "y - 2 * eta *"),
            ("step size of the system applied twice", "hypergradient", "z - mu *", "z - mu * mu *"),
            ("upper step size applied twice", "hypergradient", _STEP, _STEP.replace("h,", "alpha * h,")),
            ("float32 inside", "hypergradient", _STEP, _STEP.replace("h,", "h.float().double(),")),
            ("step of x of a fixed length", "convergence", _STEP,
             _STEP.replace("alpha", "alpha / h.norm(dim=1, keepdim=True)")),
            ("mini-batch gradients as if summed", "mini-batches", "y - eta *",
             "y - eta * 23 / batch.size *"),
            ("upper step twice as long", "upper step", _STEP, _STEP.replace("alpha", "2 * alpha")),
            ("projection forgotten", "feasibility", _STEP, "x - alpha * h"),
            ("a batch missing in the declared cost", "ledger", "self.system_steps, self.batch",
             "self.system_steps - 1, self.batch"),
            ("a batch too many in the declared cost", "ledger", "self.cross_batches, self.batch",
             "self.cross_batches + 1, self.batch"),
            ("upper gradient not declared", "ledger", "place.upper_samples(None)", "0"),
            ("samples declared as another kind", "ledger", "hessian_vector=", "HERE=", "cross=",
             "hessian_vector=", "HERE=", "cross="),
            ("full lower batches declared, short last ones", "ledger",
             "place.lower_samples(self.lower_steps, self.batch_size)", "self.lower_steps * self.batch_size"),
            ("one lower step fewer than declared", "ledger", '"lower", self.lower_steps',
             '"lower", self.lower_steps - 1'),
            ("upper gradient past the oracle", "ledger", "place.upper_samples(None)", "0", _UPPER,
             "f_x, f_y = _METERS[id(oracle)].problem.upper_gradient(x, y, Batch(torch.arange(11)))"),
            ("two points of a trial in one call", "ledger", "oracle.lower_gradient(x, y, batch)",
             "oracle.lower_gradient(torch.cat([x, x]), torch.cat([y, y]), batch)[:len(y)]"),
            ("two products as one complex one", "ledger", "oracle.hessian_vector(x, y, z, batch)",
             "oracle.hessian_vector(x, y, torch.complex(z, z), batch).real"),
            ("products by vmap", "ledger", "oracle.hessian_vector(x, y, z, batch)",
             "torch.func.vmap(lambda v: oracle.hessian_vector(x, y, v, batch))(z.unsqueeze(0))[0]"),
            ("a product by differentiating a gradient", "ledger", "oracle.hessian_vector(x, y, z, batch)",
             "torch.func.jvp(lambda y: oracle.lower_gradient(x, y, batch), (y,), (z,))[1]"),
            ("a product from a gradient's graph", "ledger", "oracle.hessian_vector(x, y, z, batch)",
             "torch.autograd.grad(oracle.lower_gradient(x, w := y.clone().requires_grad_(), batch),"
             " w, z)[0]"),
            ("a batch for nobody", "ledger", "oracle.lower_gradient(x, y, batch)",
             "oracle.lower_gradient(x, y, dataclasses.replace(batch, trials=slice(0, 0)))"),
            ("a mask in place of positions", "ledger", "oracle.lower_gradient(x, y, batch)",
             "oracle.lower_gradient(x, y, dataclasses.replace(batch, trials=torch.zeros(len(x)).bool()))"),
            ("a negative number of batches", "ledger", "oracle.lower_gradient(x, y, batch)",
             "oracle.lower_gradient(x, y, dataclasses.replace(batch, number=-torch.ones(len(x)).long()))"),
            ("all examples for the price of a batch", "ledger", "oracle.lower_gradient(x, y, batch)",
             "oracle.lower_gradient(x, y, dataclasses.replace(batch, size=None))"),
            ("upper examples for a lower derivative", "ledger", "oracle.lower_gradient(x, y, batch)",
             "oracle.lower_gradient(x, y, oracle.upper_batch())"),
            ("more steps than declared", "ledger", '"lower", self.lower_steps',
             '"lower", self.lower_steps + 1'),
            ("the problem found among all objects", "ledger", _UPPER,
             "f_x, f_y = _found(Counting, ExactQuartic).upper_gradient(x, y, Batch(torch.arange(11)))"),
            ("its loss, the error caught", "ledger", _UPPER, _UPPER
             + "\n        with contextlib.suppress(Exception):"
             "\n            _found(Counting, ExactQuartic).lower_loss(x[0], y[0], torch.arange(9))"),
            ("its evaluation", "ledger", _UPPER, _UPPER
             + "\n        _found(Counting, ExactQuartic).evaluate(x[0], y[0])"),
            ("a copy of the problem", "ledger", _UPPER, _UPPER + "\n        copy = Counting()"
             "\n        copy.setup(None, 0, torch.device('cpu'), torch.float64)"
             "\n        copy.lower_loss(x[0], y[0], torch.arange(9))"),
            ("the meter switched off", "ledger", _UPPER, "_METERS[id(oracle)]._closed = False"
             "\n        f_x, f_y = _METERS[id(oracle)].problem.upper_gradient(x, y, Batch(torch.arange(11)))"
             "\n        oracle.upper_gradient(x, y)"),
            ("the ledger wiped", "ledger", _UPPER, _UPPER
             + "\n        _found(Accountant)._used -= _found(Accountant)._used // 2"),
            ("a second step of an epoch-wise stream", "ledger", _UPPER,
             "f_x, f_y = oracle.upper_gradient(x, y, oracle.upper_batch('epochs', None, 1))"),
            ("a field left over from another mini-batch", "by example", '("y", "z")', '("y",)'),
            ("mean over the pack in the direction", "pack", _STEP,
             _STEP.replace("h,", "h.mean(0).expand_as(h),")),
            ("step size of the pack's first trial", "pack", _STEP, _STEP.replace("alpha", "alpha[:1]")),
            ("every trial takes the pack's most lower steps", "pack", '"lower", self.lower_steps',
             '"lower", self.lower_steps.max().expand_as(self.lower_steps)'),
            ("noise from the global generator", "same seed", _STEP,
             _STEP.replace("h,", "h + 1e-3 * torch.randn_like(h),")),
            ("a counter shared by all trials", "same seed", _LOOP,
             "self.calls.append(1)\n        alpha = alpha / len(self.calls)\n        " + _LOOP),
            ("depends on the process", "fresh process", _STEP,
             _STEP.replace("alpha", "alpha * (1 + 1e-9 * os.getpid())")),
            ("state changed in place", "pure step", "return y - eta *", "return y.sub_(eta *",
             "lower_gradient(x, y, batch)", "lower_gradient(x, y, batch))"),
            ("another answer when asked again", "pure step", _LOOP,
             "self.calls.append(1)\n        alpha = alpha * (1 + len(self.calls) % 2)\n        " + _LOOP),
            ("a number for the whole pack in the state", "pure step", "z=z)", "z=z.mean(0))"),
            ("lower warm start declared, not done", "warm starts", "state.y, x, eta", "oracle.y0, x, eta"),
            ("warm start of the system not declared", "warm starts", '("y", "z")', '("y",)'),
        ],
    ),
    *_edits(
        "RightRandomised",
        [
            ("random series with the wrong sign", "hypergradient", "z = -mu", "z = mu"),
            ("length of the random series forgotten", "hypergradient",
             "self.system_steps.unsqueeze(1) * f_y", "f_y"),
            ("random series with plus", "hypergradient", "return z - mu", "return z + mu"),
        ],
    ),
]  # fmt: skip

_SHARE = "(self._share(batch) * (y @ a.T - b)) @ a + y"
PROBLEM_MISTAKES = [
    *_edits(
        "RightProblem",
        [
            ("gradient scaled by the batch size", "lower gradient", _SHARE,
             "(len(batch.rows) * " + _SHARE.replace(" @ a +", ") @ a +")),
            ("batch rows ignored, always the full gradient", "lower gradient",
             "a, b = self._a[batch.rows], self._b[batch.rows]",
             "a, b, batch = self._a[:29], self._b[:29], Batch(torch.arange(29))"),
            ("wrong sign of d_y f", "upper gradient", "x / 10, (self", "x / 10, -(self"),
            ("d_x f forgotten", "upper gradient", "return x / 10,", "return 0 * x,"),
            ("upper examples from the lower set", "upper gradient", "self._a[29 + batch.rows], self",
             "self._a[batch.rows], self"),
            ("regulariser missing in the Hessian", "Hessian-vector product", "@ a + v", "@ a"),
            ("Hessian not symmetric", "symmetry", "@ a + v", "@ a + v @ self._m"),
            ("Hessian-vector product not linear", "linearity", "* (v @ a.T)", "* (v @ a.T).clamp(-1, 1)"),
            ("cross product transposed", "cross product", "-v @ self._m", "-v @ self._m.T"),
            ("wrong sign of the cross product", "cross product", "-v @ self._m", "v @ self._m"),
            ("repeated rows counted once", "closed forms", "batch.weights(self._a)", "None"),
            ("float32 in a product", "closed forms", "(v @ a.T)", "(v.float() @ a.float().T).double()"),
            ("float32 inside a float64 problem", "precision", "3 / norms.clamp(min=3))",
             "3 / norms.clamp(min=3)).float()",
             "return x * (", "return x.float() * ("),
            ("full batches take another path", "mini-batches", _SHARE,
             _SHARE + " * (0.5 if batch.full else 1)"),
            ("loss is the mean of the batch", "losses", "+ gap @ gap / 2", "+ gap @ gap / 2).mean()",
             "return (self._a[rows]", "return ((self._a[rows]"),
            ("loss ignores the rows", "losses", "(self._a[rows] @ y - self._b[rows]) ** 2 / 2",
             "((self._a @ y - self._b) ** 2 / 2).mean().expand(len(rows))"),
            ("loss of an example depends on the batch", "losses", "gap = y -",
             "gap = self._a[rows].mean(0) + y -"),
            ("noise in the loss", "losses", "+ x @ x / 20", "+ x @ x / 20 + 1e-3 * torch.randn(len(rows))"),
            ("a derivative overwrites y", "derivatives in a pack", _SHARE, _SHARE + ".mul_(1.1)"),
            ("mean over the pack in a derivative", "derivatives in a pack", "x @ self._m.T\n\n    def hess",
             "x.mean(0) @ self._m.T\n\n    def hess"),
            ("projection goes half the way", "projection", "x * (3 / norms.clamp(min=3))",
             "x * (3 / norms.clamp(min=3) + 1) / 2"),
            ("projection expansive", "projection", "x * (3 / norms.clamp(min=3))",
             "torch.where(norms > 3, 0, x)"),
            ("projection of the pack as one vector", "projection",
             "vector_norm(x, dim=1, keepdim=True)\n        return", "vector_norm(x)\n        return"),
            ("start not feasible", "projection", "0.1 * torch.randn", "9 * torch.randn"),
            ("projection forgotten in projected_step", "projected step",
             "self.project(x - step_size * direction)", "x - step_size * direction"),
            ("one step size for the pack", "projected step", "x - step_size *", "x - step_size[:1] *"),
            ("data from the global generator", "data seed", "torch.randn(46, 5, generator=draw, ",
             "torch.randn(46, 5, "),
            ("start from the global generator", "sizes", "torch.randn(5, generator=draw)", "torch.randn(5)"),
            ("sizes not set", "sizes", "self.lower_examples, self.upper_examples = 29, 17",
             "self.lower_examples = 29"),
            ("evaluation mixes the pack", "evaluation", ".square().mean(1) / 2",
             ".square().mean().expand(len(x)) / 2"),
            ("a metric missing", "evaluation", '{"loss": float(a), "norm": float(b)}', '{"loss": float(a)}'),
        ],
    ),
    *_edits(
        "RightMap",
        [
            ("map: d_y Phi not transposed", "Hessian-vector product", "* v) @ self._w", "* (v @ self._w.T))"),
            ("map: wrong sign of the cross product", "cross product", "-(self._slope", "(self._slope"),
            ("map: identity forgotten", "Hessian-vector product", "return v - (", "return -("),
        ],
    ),
]  # fmt: skip


@cache
def build(base: str, mistake: str = "") -> type[Any]:
    """A right plug-in, or the one with that mistake."""
    source = inspect.getsource(globals()[base])
    for known in (*SOLVER_MISTAKES, *PROBLEM_MISTAKES):
        if known.base == base and known.name == mistake:
            for old, new in known.edits:
                if source.count(old) != 1:
                    raise ValueError(f"{mistake}: {old!r} stands {source.count(old)} times in {base}")
                source = source.replace(old, new)
    space = dict(globals())
    exec(source, space)  # noqa: S102 - the edited source is a class of this file
    plugin: type[Any] = space[base]
    return plugin


def checks_of(base: str, mistake: str, elsewhere: Executor) -> Checks:
    if issubclass(globals()[base], Solver):
        return solver_checks(partial(build, base, mistake), elsewhere, packs=2)
    return problem_checks(build(base, mistake), None)


def main() -> None:
    rows = []
    with fresh_process() as elsewhere:
        for mistake in (*SOLVER_MISTAKES, *PROBLEM_MISTAKES):
            verdicts = {v.check: v for v in judged(checks_of(mistake.base, mistake.name, elsewhere))}
            rows.append(_row(mistake, verdicts))
    sys.stdout.write(PAGE + "\n".join(rows) + "\n")


def _row(mistake: Mistake, verdicts: dict[str, Verdict]) -> str:
    found = verdicts[mistake.check]
    others = [check for check, verdict in verdicts.items() if not verdict.holds and check != mistake.check]
    cells = (
        mistake.name,
        f"`{mistake.base}`",
        mistake.check if not found.holds else f"NOT CAUGHT by {mistake.check}",
        ", ".join(others) or "–",
        found.said.replace("|", "\\|").replace("<", "&lt;"),
    )
    return f"| {' | '.join(cells)} |"


PAGE = """# Planted mistakes

Right plug-ins of `tests/harness/planted.py`, each with one mistake in it, and what `harness check` says of
them; the right ones pass every check. Written by
`python -m tests.harness.planted > docs/results/planted_mistakes.md`.

| mistake | plug-in | caught by | and by | what the verdict says |
|---|---|---|---|---|
"""

if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
