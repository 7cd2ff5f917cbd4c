"""The figures of a report for notebooks: every panel on axes of one's own.

`View.of(study)` of what `harness.notebook` loads; a panel takes axes and a view, draws, and returns the axes.
`house_style()` is the look of a report, as a context. These names are the promise, not the modules that they
come from.
"""

from reports.compare import profiles
from reports.figures import house_style
from reports.maps import parameter_map
from reports.panels import (
    best_by_effort,
    chosen_at_budget,
    curve,
    sensitivity,
    shares,
    spread,
    to_targets,
    tuning_curve,
)
from reports.view import View

__all__ = [
    "View",
    "best_by_effort",
    "chosen_at_budget",
    "curve",
    "house_style",
    "parameter_map",
    "profiles",
    "sensitivity",
    "shares",
    "spread",
    "to_targets",
    "tuning_curve",
]
