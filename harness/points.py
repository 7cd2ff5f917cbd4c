"""The curves of a study's trials, and their evaluations on the way: a line for each, beside the journal.

    {"trial":"soba/3","curve":{"total":[0,90, ...], ...},"evaluations":{},"seal":"0123456789abcdef"}

A line ends with the checksum of what comes before, and the trial's result in the journal names that checksum.
Points are on the disk before the result that names them, so that no result ever lacks them. Lines that no
result names were left by a crash, or are of trials that ran again; they are passed over.
"""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from harness.journal import append, seal_of, with_seal

POINTS = "points.log"
KINDS = ("curve", "evaluations")
Columns = dict[str, list[Any]]
"""Points by column: numbers, those that JSON lacks as the words inf, -inf and nan; None where a point has no
such number."""


def columns(points: Sequence[Mapping[str, Any]]) -> Columns:
    names = dict.fromkeys(name for point in points for name in point)
    return {name: [plain(point.get(name)) for point in points] for name in names}


def plain(value: Any) -> Any:
    """A number that JSON lacks as a word, so that any reader can open it."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def points_line(trial: str, curve: Columns, evaluations: Columns) -> bytes:
    """Nothing for a trial without points."""
    if not curve and not evaluations:
        return b""
    values = {"trial": trial, "curve": curve, "evaluations": evaluations}
    return with_seal(json.dumps(values, separators=(",", ":")).encode()[:-1])


def read_line(line: bytes) -> dict[str, Columns]:
    """curve and evaluations of a line, or of nothing."""
    return dict.fromkeys(KINDS, {}) | (json.loads(line) if line else {})


class Points:
    """The file of a folder; there may be none."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / POINTS

    def places(self) -> dict[str, int]:
        """By seal, where in the file each whole line begins whose checksum agrees."""
        return dict(self._sound())

    def _sound(self) -> Iterator[tuple[str, int]]:
        if not self.path.exists():
            return
        place = 0
        with self.path.open("rb") as file:
            for line in file:
                try:
                    yield seal_of(line), place
                except ValueError:
                    pass  # refused where a result names it
                place += len(line)

    def line(self, place: int) -> bytes:
        self._opened.seek(place)
        return self._opened.readline()

    @cached_property
    def _opened(self) -> BinaryIO:
        """Once for all lines: to open the file takes longer than to read one."""
        file = self.path.open("rb")
        weakref.finalize(self, file.close)
        return file

    def append(self, lines: Sequence[bytes]) -> list[str]:
        """Write lines through to the disk, all or none; their seals, "" for an empty one."""
        if any(lines):
            append(self.path, lines)
        return [seal_of(line) for line in lines]
