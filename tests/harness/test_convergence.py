"""How `harness check` sets what it judges."""

import dataclasses

import torch
from torch import Tensor

from harness.api import Cost, Oracle, Place, SgdSystem, SystemState, start_with_system
from harness.check.convergence import Convergence
from harness.params import real
from solvers.smb import Smb
from solvers.soba import Soba
from solvers.sustain import Mrbo


def test_a_method_whose_steps_fall_by_default_is_judged_at_constant_steps() -> None:
    """At 1 / sqrt(s + 1) it comes to 1e-4 in the upper iterations of the check."""
    falling = dataclasses.make_dataclass(
        "Falling",
        [(name, Tensor, real("exponent", default=0.5)) for name in ("upper_decay", "lower_decay")],
        bases=(Soba,),
        frozen=True,
        kw_only=True,
    )

    assert "at a still x" in Convergence(falling).checks()["hypergradient"]()


def test_a_method_with_one_dear_step_of_y_per_upper_iteration_is_given_enough_of_them() -> None:
    """100 000 samples are 35 upper iterations of a series of 60 factors at two points."""
    assert "relative error of L" in Convergence(Mrbo).checks()["convergence"]()


def test_noise_is_judged_at_a_shorter_step_too() -> None:
    """A moving average of randomised estimates circles too widely at 0.2 / L, at constant steps."""
    assert "randomised: relative error of L" in Convergence(Smb).checks()["convergence"]()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Late(SgdSystem[SystemState]):
    """Steps x along what the last upper iteration solved, then solves both levels at the new x."""

    label = "Late"
    reference = "none"
    warm_starts = ("y", "z")

    def init(self, oracle: Oracle) -> SystemState:
        return start_with_system(oracle)

    def step(self, oracle: Oracle, state: SystemState) -> SystemState:
        f_x, _ = self.upper_gradient(oracle, state.x, state.y)
        x = self.move(oracle, state.x, self.hypergradient(oracle, state.x, state.y, state.z, f_x))
        y = self.descend(oracle, x, state.y)
        f_y = self.upper_gradient(oracle, x, y)[1]
        return SystemState(x=x, y=y, z=self.solve(oracle, x, y, f_y, torch.zeros_like(y)))

    def cost(self, place: Place) -> Cost:
        one = self.lower_samples(place, self.cross_batches)
        lower, system = self.lower_samples(place, self.lower_steps), self.system_samples(place)
        return Cost(lower, 2 * self.upper_samples(place), system, one)


def test_a_method_may_step_x_before_it_solves_the_lower_level() -> None:
    assert "relative error" in Convergence(Late).checks()["hypergradient"]()
