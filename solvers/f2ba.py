"""F2BA and AccF2BA: gradients of both levels only; a constant penalty, both lower solutions in every upper
iteration.

For s = 0, 1, ...
    w = x                                    AccF2BA: w = P(x + m * (x - x'))
    y_hat <- y
    T times   y_hat <- y_hat - eta * d_y g(w, y_hat; B)
              y <- y - eta * (d_y f(w, y; B') / lambda + d_y g(w, y; B))            (from the last y)
    h = d_x f(w, y; B'') + lambda * (d_x g(w, y; C) - d_x g(w, y_hat; C))
    x <- P(w - alpha * h)
AccF2BA then, with k the upper iterations since the last restart and D the sum of |x - x'|^2 over them:
    x' is the x before; but where k * D > max(b, b_0)^2:  x' = x,  k = 0,  D = 0,  b <- c * b
y is close to the minimiser of f / lambda + g and y_hat to that of g, so that h is the hypergradient up to a
bias of order 1 / lambda.

Symbols: T = lower_steps, eta = lower_step_size, lambda = penalty, alpha = upper_step_size, m = momentum, b =
restart_distance, b_0 = least_distance, c = restart_shrink. B is fresh at every step and the same for y and
y_hat, B' too; C is another batch. B and C have batch_size examples, B' and B'' upper_batch_size; 0 is all.
Cost per upper iteration: (2 T + 2) * batch_size + (T + 1) * upper_batch_size samples, all gradients.

Reference: L. Chen, Y. Ma, J. Zhang, "Near-Optimal Nonconvex-Strongly-Convex Bilevel Optimization with Fully
First-Order Oracles", JMLR 26, 2025, F2BA and its accelerated variant.
Differs from the paper: y_hat starts from y in every upper iteration and eta is common to both, as in the
published code, whose experiments have lambda = 10, eta = 100 and alpha = 1000; the paper warm-starts y_hat,
with eta = 1 / L_g and half of it for y. The paper and the code are on full batches, which are the default.
AccF2BA: the paper stops at a restart that comes late enough and gives a mean of iterates; here, as in the
code, iterates go on and b shrinks by c. The code measures the steps of w, and adds the momentum of torch's
SGD, which is the same recursion; w is projected, so that derivatives are taken at feasible points.
"""

import dataclasses
from typing import final

import torch
from torch import Tensor

from harness.api import (
    Bias,
    Cost,
    Held,
    MiniBatch,
    MiniBatches,
    Needs,
    Oracle,
    Place,
    S,
    State,
    count,
    real,
    shared,
    start,
    value_gap,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Penalised(MiniBatches[S]):
    """What both have in common."""

    warm_starts = ("y",)
    needs = Needs(loss=True)
    bias = Bias("penalty", rate=-1, nested=True)

    lower_steps: Tensor = count("steps of y and of y_hat per upper iteration", symbol="T")
    penalty: Tensor = real("weight of g", symbol="lambda")
    batch_size: int = shared("examples of a lower mini-batch; 0: all", symbol="B", default=0, low=0)

    def cost(self, place: Place) -> Cost:
        lower = 2 * self.lower_samples(place, self.lower_steps) + 2 * self.lower_samples(place)
        inner = place.upper_samples(self.size_of("upper"), "lower", self.lower_steps)
        return Cost(lower_gradient=lower, upper_gradient=inner + self.upper_samples(place))

    def hypergradient(self, oracle: Oracle, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """h at x and the new y."""

        def body(
            batch: MiniBatch, value: tuple[Tensor, ...], x: Tensor, penalty: Tensor, eta: Tensor
        ) -> tuple[Tensor, ...]:
            y, y_hat = value
            f_y = oracle.upper_gradient(
                x, y, oracle.upper_batch("lower", self.size_of("upper"), within=batch)
            )[1]
            g_y = oracle.lower_gradient(x, y, batch)
            return y - eta * (f_y / penalty + g_y), y_hat - eta * oracle.lower_gradient(x, y_hat, batch)

        operands, size = (x, self.penalty, self.lower_step_size), self.size_of("lower")
        y, y_hat = oracle.loop("lower", self.lower_steps, body, (y, y), *operands, batch_size=size)
        f_x = self.upper_gradient(oracle, x, y)[0]
        gap = value_gap(oracle, x, y, y_hat, self.lower_batch(oracle, "cross"))[0]
        return f_x + self.penalty * gap, y


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class F2ba(_Penalised[State]):
    """Both lower solutions, of g and of f / penalty + g, in every upper iteration; a constant penalty."""

    label = "F²BA"
    reference = "Chen, Ma and Zhang 2025"

    def held(self, place: Place) -> Held:
        return Held(x=6, y=8)

    def init(self, oracle: Oracle) -> State:
        return start(oracle)

    def step(self, oracle: Oracle, state: State) -> State:
        h, y = self.hypergradient(oracle, state.x, state.y)
        return State(x=self.move(oracle, state.x, h), y=y)


@dataclasses.dataclass(frozen=True)
class AccState(State):
    """old_x (N, dim_x): x', the upper iteration before; x after a restart. since (N, 1): k. moved (N, 1): D.
    distance (N, 1): b."""

    old_x: Tensor
    since: Tensor
    moved: Tensor
    distance: Tensor


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class AccF2ba(_Penalised[AccState]):
    """F2BA with Nesterov's momentum of x, and restarts."""

    label = "AccF²BA"
    reference = "Chen, Ma and Zhang 2025, accelerated"

    momentum: Tensor = real("Nesterov momentum of x", symbol="m", default=0.9, high=1.0)
    restart_distance: Tensor = real("first distance of a restart", symbol="b", default=10.0)
    least_distance: Tensor = real("least distance of a restart", symbol="b_0", default=0.1)
    restart_shrink: Tensor = real("factor of the distance at a restart", symbol="c", default=0.99, high=1.0)

    def held(self, place: Place) -> Held:
        return Held(x=9, y=8)

    def init(self, oracle: Oracle) -> AccState:
        x, none = oracle.x0, torch.zeros_like(self.penalty)
        return AccState(x=x, y=oracle.y0, old_x=x, since=none, moved=none, distance=self.restart_distance)

    def step(self, oracle: Oracle, state: AccState) -> AccState:
        x = state.x
        w = oracle.project(x + self.momentum * (x - state.old_x))
        h, y = self.hypergradient(oracle, w, state.y)
        new, since = self.move(oracle, w, h), state.since + 1
        moved = state.moved + (new - x).square().sum(1, keepdim=True)
        restart = since * moved > torch.maximum(state.distance, self.least_distance) ** 2
        return AccState(
            x=new,
            y=y,
            old_x=torch.where(restart, new, x),
            since=torch.where(restart, 0, since),
            moved=torch.where(restart, 0, moved),
            distance=torch.where(restart, state.distance * self.restart_shrink, state.distance),
        )
