"""AccBiO: acceleration of all three: Nesterov's method on x and y, heavy ball on the system; full batches.

For s = 0, 1, ...,   u = x at first,   q = upper_rate
    v = eta * u + (1 - eta) * x,    eta = q / (2 + q)
    y' = r = the last y
    t times   y <- r - eta_LL * d_y g(v, r);   r <- y + m * (y - y');   y' <- y
    z = z' = 0
    k times   z, z' <- z - eta_LS * (H(v, y) z + d_y f(v, y)) + m^2 * (z - z'), z
    h = d_x f(v, y) + C(v, y) z
    u <- P(tau * v + (1 - tau) * u - alpha / q * h),    tau = q / 2
    x <- P(v - alpha * h)

Symbols: t = lower_steps, k = system_steps, alpha = upper_step_size, eta_LL = lower_step_size = 1 / L_g, m =
momentum = (sqrt(kappa) - 1) / (sqrt(kappa) + 1) with kappa = L_g / mu_g the condition number of g, eta_LS =
system_step_size, q = upper_rate = sqrt(alpha * mu_x) with mu_x the least curvature of L(x) = f(x, y*(x)). The
paper's eta_LS is 4 / (sqrt(L_g) + sqrt(mu_g))^2 = eta_LL * (1 + m)^2, and its weight of z - z', the larger of
(1 - sqrt(eta_LS mu_g))^2 and (1 - sqrt(eta_LS L_g))^2, is then m^2. It writes x for u here and z for x.
Cost per upper iteration: (t + k + 1) * n_lower + n_upper samples.

Reference: K. Ji, Y. Liang, "Lower Bounds and Accelerated Algorithms for Bilevel Optimization", JMLR 24(22),
2023, Algorithm 1 (arXiv 2102.03926, 2021).
Differs from the paper: it gives steps and momenta by the curvatures, here alpha, q, eta_LL, m and eta_LS are
parameters. Of eta, tau and the step of u only the form was at hand, not the listing; with those above, where
h is exact and alpha at most half the inverse smoothness of L, L(x) - L* + mu_x / 4 |u - x*|^2 falls by
1 - q / 2 in every upper iteration, which is its rate. y is warm-started, as Arbel and Mairal (2022) describe
the method, the system is not; x and u may be projected. A system solve that is not finite falls back to its
start, 0.
"""

import dataclasses
from typing import final

import torch
from torch import Tensor

from harness.api import Cost, MiniBatch, Needs, Oracle, Place, State, TwoLevels, count, real


@dataclasses.dataclass(frozen=True)
class AccState(State):
    """u (N, dim_x): the sequence of long steps."""

    u: Tensor


def _nesterov(
    oracle: Oracle, x: Tensor, y: Tensor, steps: Tensor, step_size: Tensor, momentum: Tensor
) -> Tensor:
    """Accelerated gradient steps on g(x, .) from y."""

    def body(
        batch: MiniBatch, value: tuple[Tensor, ...], x: Tensor, eta: Tensor, m: Tensor
    ) -> tuple[Tensor, ...]:
        y, ahead = value
        new = ahead - eta * oracle.lower_gradient(x, ahead, batch)
        return new, new + m * (new - y)

    y, _ = oracle.loop("lower", steps, body, (y, y), x, step_size, momentum)
    return y


def _heavy_ball(
    oracle: Oracle, x: Tensor, y: Tensor, f_y: Tensor, steps: Tensor, step_size: Tensor, weight: Tensor
) -> Tensor:
    """Steps with momentum on H(x, y) z = -f_y from 0."""

    def body(
        batch: MiniBatch,
        value: tuple[Tensor, ...],
        x: Tensor,
        y: Tensor,
        f_y: Tensor,
        eta: Tensor,
        weight: Tensor,
    ) -> tuple[Tensor, ...]:
        z, old = value
        residual = oracle.hessian_vector(x, y, z, batch) + f_y
        return z - eta * residual + weight * (z - old), z

    zero = torch.zeros_like(y)
    z, _ = oracle.loop("system", steps, body, (zero, zero), x, y, f_y, step_size, weight)
    return oracle.or_start(z, zero)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class AccBio(TwoLevels[AccState]):
    """Nesterov's steps on x and y, heavy-ball steps on the system from 0."""

    label = "AccBiO"
    reference = "Ji and Liang 2023, Algorithm 1"
    warm_starts = ("y",)
    needs = Needs(loss=True)

    lower_steps: Tensor = count("lower steps per upper iteration", symbol="t")
    system_steps: Tensor = count("system steps per upper iteration", symbol="k")
    system_step_size: Tensor = real("step size of z", symbol="eta_LS")
    momentum: Tensor = real("momentum of y; its square is that of z", symbol="m", high=1.0)
    upper_rate: Tensor = real("sqrt(alpha * least curvature of L)", symbol="q", high=1.0)

    def cost(self, place: Place) -> Cost:
        descent, system = (self.lower_samples(place, n) for n in (self.lower_steps, self.system_steps))
        return Cost(descent, self.upper_samples(place), system, self.lower_samples(place))

    def init(self, oracle: Oracle) -> AccState:
        return AccState(x=oracle.x0, y=oracle.y0, u=oracle.x0)

    def step(self, oracle: Oracle, state: AccState) -> AccState:
        q, m = self.upper_rate, self.momentum
        eta, tau = q / (2 + q), q / 2
        v = eta * state.u + (1 - eta) * state.x
        y = _nesterov(oracle, v, state.y, self.lower_steps, self.lower_step_size, m)
        f_x, f_y = self.upper_gradient(oracle, v, y)
        z = _heavy_ball(oracle, v, y, f_y, self.system_steps, self.system_step_size, m * m)
        h = f_x + oracle.cross(v, y, z, self.lower_batch(oracle, "cross"))
        return AccState(
            x=self.move(oracle, v, h),
            y=y,
            u=oracle.project(tau * v + (1 - tau) * state.u - self.upper_step_size / q * h),
        )
