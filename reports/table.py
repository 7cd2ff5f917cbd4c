"""What a table is."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Column:
    """Cells as readers see them; `keys` sort them, `bold` marks the best, `links` are anchors in the page."""

    heading: str
    cells: list[str]
    keys: Sequence[Any]
    bold: Sequence[bool] = ()
    links: Sequence[str] = ()


@dataclass(frozen=True)
class Table:
    """`columns` to read, `data` with full precision, `behind` the trials a solver's statistics come from."""

    name: str
    title: str
    caption: str
    columns: list[Column]
    data: pd.DataFrame
    behind: dict[str, list[str]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return len(self.columns[0].cells)
