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
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from harness.errors import HarnessError

_TAIL = re.compile(rb',"seal":"([0-9a-f]{16})"}\n\Z')
_KEYS = {"op_code", "worker_id"}


def sealed(entry: dict[str, Any], number: int) -> bytes:
    """A journal line, its first line being number 1."""
    return with_seal(json.dumps(entry | {"line": number}, separators=(",", ":")).encode()[:-1])


def with_seal(body: bytes) -> bytes:
    """A line: a JSON object without its closing bracket, and the checksum of that."""
    return body + b',"seal":"' + _checksum(body) + b'"}\n'


def seal_of(line: bytes) -> str:
    """The seal at the end of a line, "" where it has none. Raises ValueError where it does not agree."""
    tail = _TAIL.search(line, max(len(line) - 30, 0))
    if tail is None:
        return ""
    if _checksum(memoryview(line)[: tail.start()]) != tail[1]:
        raise ValueError("its checksum does not agree")
    return tail[1].decode()


def _checksum(body: bytes | memoryview) -> bytes:
    return sha256(body).hexdigest()[:16].encode()


def opened(line: bytes) -> tuple[dict[str, Any], int | None]:
    """The entry of a whole line, and the number in its seal; None: it has none.

    Raises ValueError where the line is damaged, in a few words."""
    seal = seal_of(line)
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(entry, dict) or not _KEYS <= set(entry):
        raise ValueError("it is not an entry of Optuna's journal")
    number = entry.pop("line", None)
    if bool(seal) != isinstance(number, int) or entry.pop("seal", "") != seal:
        raise ValueError("its seal is broken")
    return entry, number


class Journal:
    """The lines of a file. The driver, guarded by the study's own lock, is the only writer; a last line that
    is not whole is being written, or torn by a crash, and not read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = 0
        """Read or written so far."""

    def read(self) -> Iterator[dict[str, Any]]:
        """Raises HarnessError where a line is damaged, or not the one that should stand there."""
        self.lines, seals = 0, False
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    return
                try:
                    entry, place = opened(line)
                    if place is None and seals:
                        raise ValueError("it has no seal")
                    if place not in (None, self.lines + 1):
                        raise ValueError(f"it was line {place}")
                except ValueError as error:
                    raise damaged(self.path, f"line {self.lines + 1} is damaged: {error}") from None
                seals = place is not None
                self.lines += 1
                yield entry

    def append(self, entries: Sequence[dict[str, Any]]) -> None:
        """Behind the lines read; see `append`."""
        first = self.lines + 1
        append(self.path, [sealed(entry, number) for number, entry in enumerate(entries, start=first)])
        self.lines += len(entries)


def append(path: Path, lines: Sequence[bytes]) -> None:
    """Write lines through to the disk; where that fails, nothing of them stays."""
    content = b"".join(lines)
    with path.open("ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            if file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise


def damaged(path: Path, what: str) -> HarnessError:
    return HarnessError(
        f"{path}, {what}; restore the file from a copy, or `harness repair {path.parent}` keeps what is "
        "whole and the run command makes the rest again"
    )


def mend(path: Path) -> None:
    """Cut off a last line that was torn by a crash or a full disk; only the driver does this."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        end, whole, block = file.seek(0, os.SEEK_END), 0, 2**20
        for start in range(end - block, -block, -block):
            file.seek(max(start, 0))
            if (found := file.read(min(block, start + block)).rfind(b"\n")) >= 0:
                whole = max(start, 0) + found + 1
                break
        if whole < end:
            file.truncate(whole)
