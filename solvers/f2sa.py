"""F2SA: gradients of both levels only; the lower level enters as a penalty that grows.

For s = 0, 1, ..., with k = s + 1
    T times   y <- y - gamma_k * d_y g(x, y; B1)
              u <- u - alpha_k * (d_y f(x, u; B') + lambda_s * d_y g(x, u; B2))
    h = d_x f(x, u; B'') + lambda_s * (d_x g(x, u; B3) - d_x g(x, y; B4))
    x <- P(x - xi_k * h)
    lambda_{s+1} = lambda_s + delta * lambda_0 * k^(-e)
y is close to the minimiser of g and u to that of f / lambda + g, so that h is the hypergradient up to a bias
of order 1 / lambda.

Symbols: T = lower_steps; gamma_k = lower_step_size * k^(-lower_decay), alpha_k = penalised_step_size *
k^(-penalised_decay), xi_k = upper_step_size * k^(-upper_decay); lambda_0 = penalty, delta = penalty_growth, e
= penalty_decay. B1 to B4 have batch_size examples, B' and B'' upper_batch_size, all of them fresh;
cross_batch = "shared" takes B4 = B3. alpha_k * lambda_s must stay below 2 / (curvature of g).
Cost per upper iteration: (2 T + 2) * batch_size + (T + 1) * upper_batch_size samples, all gradients.

Reference: J. Kwon, D. Kwon, S. Wright, R. Nowak, "A Fully First-Order Method for Stochastic Bilevel
Optimization", ICML 2023, Algorithm 1 and Theorem 4; it writes z for y and y for u, and xi alpha_k for xi_k.
Differs from the paper: x may be projected; the exponents start at k = 1, where the paper's start at k + k_0.
The default exponents are the paper's for noise in both levels: 5/7 of x and u, 4/7 of y, and lambda of
order k^(1/7), which is e = 6/7. The public bilevel benchmark has 4/7 of x and e = 1/7, by which lambda grows
like k^(6/7) and, at its exponent of u, alpha_k * lambda_s without a bound: upper_decay = 4/7, penalty_decay =
1/7 and penalty_growth = 0.1 are that reading. It draws B3 and B4 apart, as the paper does, with a noise in h
of order lambda; "shared" is not in either. What a problem is given as the lower variable is y, as in the
benchmark: u is fitted to the upper level.
"""

import dataclasses
from typing import final

from torch import Tensor

from harness.api import (
    Bias,
    Cost,
    Held,
    MiniBatch,
    Needs,
    Oracle,
    Place,
    SingleLoop,
    State,
    choice,
    count,
    decayed,
    real,
    value_gap,
)


@dataclasses.dataclass(frozen=True)
class F2saState(State):
    """u (N, dim_y): close to the minimiser of f / lambda + g. penalty (N, 1): lambda."""

    u: Tensor
    penalty: Tensor


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class F2sa(SingleLoop[F2saState]):
    """Steps of y on g and of u on f + penalty g; x moves by the difference; the penalty grows."""

    label = "F²SA"
    reference = "Kwon, Kwon, Wright and Nowak 2023, Algorithm 1"
    warm_starts = ("y", "u")
    needs = Needs(loss=True)
    bias = Bias("penalty", rate=-1, stiff=("penalised_step_size",), nested=True)

    lower_steps: Tensor = count("steps of y and of u per upper iteration", symbol="T")
    penalised_step_size: Tensor = real("first step size of u", symbol="alpha")
    lower_step_size: Tensor = real("first step size of y", symbol="gamma")
    penalty: Tensor = real("first weight of g", symbol="lambda_0")
    penalty_growth: Tensor = real(
        "first increase of the penalty, as a share of it", symbol="delta", default=1 / 7
    )
    upper_decay: Tensor = real("exponent of the decay of x's step size", symbol="e_x", default=5 / 7)
    penalised_decay: Tensor = real("exponent of the decay of u's step size", symbol="e_u", default=5 / 7)
    lower_decay: Tensor = real("exponent of the decay of y's step size", symbol="e_y", default=4 / 7)
    penalty_decay: Tensor = real("exponent of the decay of the increases", symbol="e", default=6 / 7)
    cross_batch: str = choice("batches of h", default="apart", choices=("apart", "shared"))

    def cost(self, place: Place) -> Cost:
        lower = 2 * self.lower_samples(place, self.lower_steps) + 2 * self.lower_samples(place)
        inner = place.upper_samples(self.size_of("upper"), "penalised", self.lower_steps)
        return Cost(lower_gradient=lower, upper_gradient=inner + self.upper_samples(place))

    def held(self, place: Place) -> Held:
        return Held(x=6, y=10)

    def init(self, oracle: Oracle) -> F2saState:
        return F2saState(x=oracle.x0, y=oracle.y0, u=oracle.y0, penalty=self.penalty)

    def step(self, oracle: Oracle, state: F2saState) -> F2saState:
        def body(
            batch: MiniBatch,
            value: tuple[Tensor, ...],
            x: Tensor,
            penalty: Tensor,
            alpha: Tensor,
            gamma: Tensor,
        ) -> tuple[Tensor, ...]:
            y, u = value
            lower = oracle.lower_batch("penalised", self.size_of("lower"), within=batch)
            upper = oracle.upper_batch("penalised", self.size_of("upper"), within=batch)
            g_u = oracle.lower_gradient(x, u, lower)
            f_u = oracle.upper_gradient(x, u, upper)[1]
            return y - gamma * oracle.lower_gradient(x, y, batch), u - alpha * (f_u + penalty * g_u)

        x, penalty, s = state.x, state.penalty, oracle.place.iteration
        alpha = decayed(self.penalised_step_size, self.penalised_decay, s)
        operands = (x, penalty, alpha, self.lower_step(oracle.place))
        start, size = (state.y, state.u), self.size_of("lower")
        y, u = oracle.loop("lower", self.lower_steps, body, start, *operands, batch_size=size)
        f_x = self.upper_gradient(oracle, x, u)[0]
        other = "cross" if self.cross_batch == "shared" else "cross_hat"
        batches = self.lower_batch(oracle, "cross"), self.lower_batch(oracle, other)
        h = f_x + penalty * value_gap(oracle, x, u, y, *batches)[0]
        return F2saState(
            x=oracle.projected_step(x, h, self.upper_step(oracle.place)),
            y=y,
            u=u,
            penalty=penalty + decayed(self.penalty_growth * self.penalty, self.penalty_decay, s),
        )
