"""What the author of a solver or a problem imports: `from harness.api import ...`.

These names are the promise; the modules they come from are not.
"""

from harness.batch import Batch, MiniBatch
from harness.blocks import (
    MiniBatches,
    NestedLoops,
    NeumannEstimates,
    SgdSystem,
    SingleLoop,
    SystemState,
    TwoLevels,
    conjugate_gradients,
    decayed,
    joint_directions,
    lower_sgd,
    neumann,
    neumann_series,
    random_neumann,
    recursive_momentum,
    start,
    start_with_system,
    system_sgd,
    truncation,
    value_gap,
)
from harness.budget import Cost
from harness.errors import HarnessError
from harness.oracle import Oracle
from harness.params import choice, count, option, real, shared
from harness.place import Place, whole
from harness.problem import Problem
from harness.result import Metric
from harness.solver import Bias, Held, Needs, S, Solver, State
from harness.streams import generator

__all__ = [
    "Batch",
    "Bias",
    "Cost",
    "HarnessError",
    "Held",
    "Metric",
    "MiniBatch",
    "MiniBatches",
    "Needs",
    "NestedLoops",
    "NeumannEstimates",
    "Oracle",
    "Place",
    "Problem",
    "S",
    "SgdSystem",
    "SingleLoop",
    "Solver",
    "State",
    "SystemState",
    "TwoLevels",
    "choice",
    "conjugate_gradients",
    "count",
    "decayed",
    "generator",
    "joint_directions",
    "lower_sgd",
    "neumann",
    "neumann_series",
    "option",
    "random_neumann",
    "real",
    "recursive_momentum",
    "shared",
    "start",
    "start_with_system",
    "system_sgd",
    "truncation",
    "value_gap",
    "whole",
]
