"""Building blocks that many bilevel methods share, in the notation of the papers.

Signs: the system is H z + d_y f = 0 and the hypergradient d_x f + C z (so z = -v in Grazzi et al. 2023).
"""

import dataclasses

import torch
from torch import Tensor

from harness.budget import Cost
from harness.oracle import Oracle
from harness.params import count, real, shared
from harness.problem import Batch
from harness.solver import S, Solver


@dataclasses.dataclass(frozen=True, kw_only=True)
class NestedLoops(Solver[S]):
    """Parameters and cost of a method with t lower steps, k system steps and J cross batches per upper
    iteration: (t + k + J) * batch_size + n_upper samples."""

    lower_steps: Tensor = count("lower steps per upper iteration, 1 to 10000", symbol="t")
    system_steps: Tensor = count("system steps per upper iteration, usually t", symbol="k")
    cross_batches: Tensor = count("batches of the cross product, 1 to k", symbol="J")
    upper_step_size: Tensor = real("step size of x, 1e3 to 1e9 in data poisoning", symbol="alpha")
    lower_step_size: Tensor = real("step size of y, 1e-4 to 10", symbol="eta_LL")
    system_step_size: Tensor = real("step size of z, usually that of y", symbol="eta_LS")
    batch_size: int = shared("examples per lower, system and cross batch", symbol="B", default=90)

    def cost(self, oracle: Oracle) -> Cost:
        return Cost(
            lower_gradient=oracle.lower_samples(self.lower_steps, self.batch_size),
            upper_gradient=oracle.upper_samples(),
            hessian_vector=oracle.lower_samples(self.system_steps, self.batch_size),
            cross=oracle.lower_samples(self.cross_batches, self.batch_size),
        )


def lower_sgd(
    oracle: Oracle, x: Tensor, y: Tensor, steps: Tensor, step_size: Tensor, batch_size: int | None
) -> Tensor:
    """y <- y - step_size * d_y g(x, y; batch), `steps` times. Cost: steps * batch_size lower gradients."""

    def body(batch: Batch, y: Tensor, x: Tensor, step_size: Tensor) -> Tensor:
        return torch.addcmul(y, step_size, oracle.lower_gradient(x, y, batch), value=-1)

    return oracle.loop("lower", steps, body, y, x, step_size, batch_size=batch_size)


def system_sgd(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    f_y: Tensor,
    z: Tensor,
    steps: Tensor,
    step_size: Tensor,
    batch_size: int | None,
) -> Tensor:
    """z <- z - step_size * (H(x, y; batch) z + d_y f), `steps` times; a diverged solve gives its start.

    The fallback is the published code's (CSML-IIT-UCL/bioptexps). Cost: steps * batch_size
    Hessian-vector products.
    """

    def body(batch: Batch, z: Tensor, x: Tensor, y: Tensor, f_y: Tensor, step_size: Tensor) -> Tensor:
        return z - step_size * (oracle.hessian_vector(x, y, z, batch) + f_y)

    solved = oracle.loop("system", steps, body, z, x, y, f_y, step_size, batch_size=batch_size)
    return oracle.or_start(solved, z)
