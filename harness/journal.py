"""The journal: Optuna's log of a study, one JSON object a line, each line sealed.

A sealed line ends with its number in the file and the checksum of all that comes before:

    {"op_code":4, ..., "line":17,"seal":"0123456789abcdef"}

so a line that is changed, missing, doubled or moved is never read as another. Optuna passes over the two
keys. Lines without them come from before there were seals: they are read as far as the first sealed one.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from harness.errors import HarnessError

_TAIL = re.compile(rb',"line":(\d{1,18}),"seal":"([0-9a-f]{16})"}\n')
_KEYS = {"op_code", "worker_id"}


def sealed(entry: dict[str, Any], number: int) -> bytes:
    """A journal line, its first line being number 1."""
    body = json.dumps(entry | {"line": number}, separators=(",", ":")).encode()[:-1]
    return body + b',"seal":"' + _seal(body) + b'"}\n'


def _seal(body: bytes) -> bytes:
    return sha256(body).hexdigest()[:16].encode()


def opened(line: bytes) -> tuple[dict[str, Any], int | None]:
    """The entry of a whole line, and the number in its seal; None: it has none.

    Raises ValueError where the line is damaged, in a few words."""
    tail = _TAIL.search(line, max(len(line) - 60, 0))
    if tail and _seal(line[: tail.start(2) - len(b',"seal":"')]) != tail[2]:
        raise ValueError("its checksum does not agree")
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(entry, dict) or not _KEYS <= set(entry):
        raise ValueError("it is not an entry of Optuna's journal")
    if tail is None and {"line", "seal"} & set(entry):
        raise ValueError("its seal is broken")
    return entry, int(tail[1]) if tail else None


class Journal(BaseJournalBackend):
    """The lines of a file. The driver, guarded by the study's own lock, is the only writer; a last line that
    is not whole is being written, or torn by a crash, and not read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ends = [0]  # of the lines read so far, in bytes
        self._sealed = False
        path.touch()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Raises HarnessError where a line is damaged, or not the one that should stand there."""
        with self.path.open("rb") as file:
            first = min(log_number_from, len(self._ends) - 1)
            self._sealed = self._sealed and first > 0
            file.seek(self._ends[first])
            for number, line in enumerate(file, start=first + 1):
                if not line.endswith(b"\n"):
                    return
                entry = self._checked(line, number)
                if number == len(self._ends):
                    self._ends.append(self._ends[-1] + len(line))
                if number > log_number_from:
                    yield entry

    def _checked(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            entry, place = opened(line)
            if place is None and self._sealed:
                raise ValueError("it has no seal")
            if place not in (None, number):
                raise ValueError(f"it was line {place}")
        except ValueError as error:
            raise damaged(self.path, f"line {number} is damaged: {error}") from None
        self._sealed = place is not None
        return entry

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Seal the entries and write them through to the disk; where that fails, nothing of them stays."""
        for _ in self.read_logs(len(self._ends) - 1):
            pass
        first = len(self._ends)
        lines = b"".join(sealed(entry, number) for number, entry in enumerate(logs, start=first))
        with self.path.open("ab", buffering=0) as file:
            try:
                if file.write(lines) < len(lines):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(self._ends[-1])
                raise


def damaged(path: Path, what: str) -> HarnessError:
    return HarnessError(
        f"{path}, {what}; restore the file from a copy, or `harness repair {path.parent}` keeps what is "
        "whole and the run command makes the rest again"
    )


def mend(path: Path) -> None:
    """Cut off a last line that was torn by a crash or a full disk; only the driver does this."""
    if path.exists():
        whole = path.read_bytes().rfind(b"\n") + 1
        if whole < path.stat().st_size:
            os.truncate(path, whole)
