"""A study's folder: who may write in it, and which study it holds."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from harness.errors import HarnessError
from harness.journal import mend
from harness.plugins import keep_sources
from harness.points import POINTS
from harness.record import JOURNAL
from harness.repair import Again, reopen
from harness.spec import NAME, StudySpec, differences, grown, read_spec, with_sources


@contextmanager
def sole_driver(folder: Path) -> Iterator[None]:
    """Raises HarnessError where another driver is at work in the folder."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise HarnessError(
            f"another driver is running the study {folder}; wait for it, or use another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def locked(folder: Path, spec: StudySpec, again: Again) -> Iterator[StudySpec]:
    """The specification of a new, resumed or growing study's folder, its lock held and its journal whole.

    Raises HarnessError: another driver is at work, or the folder holds another study."""
    _no_file(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with sole_driver(folder):
        for name in (JOURNAL, POINTS):
            mend(folder / name)
        old = read_spec(folder) if (folder / NAME).exists() else None
        whole = agreed(folder, spec, again.redo)
        keep_sources(folder, spec.plugins)
        if old is not None:
            reopen(folder, old, whole, again)
        if whole != old:
            whole.write(folder)
        yield whole


def agreed(folder: Path, spec: StudySpec, redo: Collection[str] = ()) -> StudySpec:
    """The specification of a folder, new or grown by `spec`; writes nothing. redo: solvers whose source may
    have changed.

    Raises HarnessError: the folder holds another study."""
    _no_file(folder)
    if not (folder / NAME).exists():
        if (folder / JOURNAL).exists():
            raise HarnessError(f"{folder} has a {JOURNAL} but no {NAME}; restore it, or `harness repair` it")
        return spec
    old = read_spec(folder)
    base = with_sources(old, spec, redo)
    found = differences(base, spec)
    if found:
        changed = [what.split(".")[1] for what in found if what.startswith("solvers.") and ".source:" in what]
        hint = f", or --redo {','.join(changed)}" if changed else ""
        raise HarnessError(
            f"{folder} holds another study, {'; '.join(found)}; use another --out or the same settings{hint}"
        )
    return grown(base, spec)


def _no_file(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise HarnessError(f"--out {folder} is a file; give a folder")
