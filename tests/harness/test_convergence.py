"""How `harness check` sets what it judges."""

import dataclasses

from torch import Tensor

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
