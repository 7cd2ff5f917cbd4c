"""Which part of a study a report shows, under which names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from harness.errors import HarnessError, nearest

if TYPE_CHECKING:
    from harness.record import Record


@dataclass(frozen=True)
class Choice:
    """solvers: those shown, in this order; none: all. labels: by solver, in place of its own. params: the
    parameters shown; none: all. What is left out is left out of all that is computed, and named."""

    solvers: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    params: Sequence[str] = ()

    def of(self, study: Record) -> Record:
        """The study of these solvers. Raises HarnessError for a name that it does not have."""
        known = study.spec["solvers"]
        _require("--solvers", self.solvers, known)
        _require("--rename", self.labels, known)
        _require("--params", self.params, {name for s in known.values() for name in s.get("space", {})})
        chosen = list(dict.fromkeys(self.solvers)) or list(known)
        told = {name: known[name] | self._label(name) for name in chosen}
        left_out = [known[name].get("label", name) for name in known if name not in chosen]
        spec = study.spec | {"solvers": told, "left_out": left_out, "params": list(self.params)}
        return replace(
            study,
            spec=spec,
            trials=_of(study.trials, chosen),
            curves=_of(study.curves, chosen),
            evaluations=_of(study.evaluations, chosen),
        )

    def _label(self, name: str) -> dict[str, Any]:
        return {"label": self.labels[name]} if name in self.labels else {}


def _require(option: str, given: Iterable[str], known: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            raise HarnessError(f"{option}: the study has no {name!r}; {nearest(name, known)}")


def _of(frame: pd.DataFrame, solvers: list[str]) -> pd.DataFrame:
    return frame[frame["solver"].isin(solvers)] if len(frame) else frame
