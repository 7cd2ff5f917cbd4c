"""An experiment of a paper: the studies that it takes, and what is read off their records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from harness.problem import Problem
    from harness.record import Record
    from reports.figures import Picture

Spaces = Mapping[str, Mapping[str, Any]]
SetUp = Callable[..., "Problem"]
"""setup(name, **options): a problem with its data, of data seed 0."""


@dataclass(frozen=True)
class Part:
    """One study, recorded in a folder of this name.

    budget: samples per trial. spaces: by solver, in place of the shipped ones. published: trial 0 is the
    published configuration. alone: one trial at a time, whatever is asked for, since its seconds are read.
    """

    name: str
    problem: str
    solvers: Sequence[str]
    budget: float
    trials: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    spaces: Spaces | None = None
    sampler: str = "random"
    published: bool = False
    seed: int = 1
    data_seed: int = 0
    curves: int = 20
    alone: bool = False


@dataclass(frozen=True)
class Claim:
    """holds: None where the numbers do not tell."""

    text: str
    holds: bool | None
    numbers: str

    @property
    def verdict(self) -> str:
        return "cannot be told" if self.holds is None else "holds" if self.holds else "does not hold"


@dataclass(frozen=True)
class Findings:
    """What a recipe writes. tables: Markdown by title. note: how the numbers came about, in Markdown."""

    claims: Sequence[Claim]
    tables: Mapping[str, str]
    pictures: Sequence[Picture]
    note: str


class Recipe(ABC):
    """title: what is reproduced, of which paper. scales: by name (smoke, small, paper), whatever the recipe
    needs to know of each."""

    title: ClassVar[str]
    scales: ClassVar[Mapping[str, Any]]

    @abstractmethod
    def parts(self, scale: Any, setup: SetUp) -> Iterable[Part]:
        """The studies, in the order in which they run."""

    @abstractmethod
    def findings(self, records: Mapping[str, Record], scale: Any, setup: SetUp) -> Findings:
        """From the records by the names of the parts."""


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
