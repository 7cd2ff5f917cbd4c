"""Random search on x: points around x0, of which the best by the upper loss is kept. A floor for all methods.

For s = 0, 1, ...
    x' = P(x0 + sigma * n),   n standard normal,  sigma = alpha * 10^(-decades * v),  v uniform on [0, 1)
    y' <- y0;   t times   y' <- y' - eta_LL * d_y g(x', y'; batch)
    where f(x', y') < the least so far:   x <- x',  y <- y'
At s = 0 the point x0 itself is tried first, in the same way.

Symbols: t = lower_steps, eta_LL = lower_step_size, alpha = upper_step_size, the largest sigma; n and v are
common to the trials of a seed.
Cost per upper iteration: t * batch_size lower gradients and n_upper values of f; twice that at the first one.

Reference: J. Bergstra, Y. Bengio, "Random Search for Hyper-Parameter Optimization", JMLR 13, 2012.
Differs from the paper: it draws from a box with a distribution chosen for every hyperparameter; here x has
thousands of entries and no box, so they share one scale, and that is drawn anew for every point. Every y'
starts from y0, so that points are compared after the same work. f is always over all upper examples, as
values on different mini-batches cannot be compared; for the same reason the method is undefined where the
lower level falls apart by example.
"""

import dataclasses
from typing import final

import torch
from torch import Tensor

from harness.api import Cost, Held, Needs, Oracle, Place, State, TwoLevels, count, lower_sgd, real, shared


@dataclasses.dataclass(frozen=True)
class BestState(State):
    """best (N, 1): f at x and y, the least so far."""

    best: Tensor


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomX(TwoLevels[BestState]):
    """Points drawn around x0, lower steps at each, the best by f kept."""

    label = "Random search on x"
    reference = "Bergstra and Bengio 2012"
    warm_starts = ("y",)
    needs = Needs(one_lower_problem=True)
    estimates_hypergradient = False

    upper_step_size: Tensor = real("largest standard deviation of x about x0", symbol="alpha")
    lower_steps: Tensor = count("lower steps for every x", symbol="t")
    decades: Tensor = real("decades from the largest standard deviation to the least", default=3.0)
    batch_size: int = shared("examples of a lower mini-batch", symbol="B", default=64)

    def cost(self, place: Place) -> Cost:
        points = 1 if place.iteration else 2
        drawn = self.lower_samples(place, self.lower_steps)
        return Cost(lower_gradient=points * drawn, value=points * place.upper_samples(None))

    def held(self, place: Place) -> Held:
        return Held(x=6, y=6)

    def init(self, oracle: Oracle) -> BestState:
        x, y = oracle.x0, oracle.y0
        return BestState(x=x, y=y, best=torch.full_like(x[:, :1], torch.inf))

    def step(self, oracle: Oracle, state: BestState) -> BestState:
        start, place = oracle.x0, oracle.place
        if place.iteration == 0:
            state = self._better(oracle, state, start)
        sigma = self.upper_step_size * 10 ** (-self.decades * place.uniform("scale"))
        away = oracle.normal("x", start).expand_as(start)
        return self._better(oracle, state, oracle.projected_step(start, -away, sigma))

    def _better(self, oracle: Oracle, state: BestState, x: Tensor) -> BestState:
        """The state or x with its y, whichever has the lesser f; a value that is not a number is no less."""
        y = lower_sgd(oracle, x, oracle.y0, self.lower_steps, self.lower_step_size, self.batch_size)
        value = oracle.upper_value(x, y)
        less = value < state.best
        return BestState(
            x=torch.where(less, x, state.x),
            y=torch.where(less, y, state.y),
            best=torch.where(less, value, state.best),
        )
