"""A verdict is one line: whether a check holds, and what was found where."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from harness.errors import PluginError, last_line
from harness.surroundings import restored

Checks = Mapping[str, Callable[[], str]]


@dataclasses.dataclass(frozen=True)
class Verdict:
    check: str
    holds: bool
    said: str

    def __str__(self) -> str:
        return f"{'holds' if self.holds else 'fails'}: {self.check}: {self.said}"


def judged(checks: Checks) -> Iterator[Verdict]:
    """Every check in turn, whatever became of the ones before. A check says what it saw, or raises."""
    for name, check in checks.items():
        try:
            with restored() as changed:
                said = check()
            if changed:
                raise PluginError(f"changes {', '.join(changed)} for whatever runs in the process after it")
            yield Verdict(name, True, said)
        except PluginError as error:
            yield Verdict(name, False, str(error))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a plug-in raises is a verdict on it
            yield Verdict(name, False, f"raised {last_line(error)}")


def words(config: Mapping[str, Any]) -> str:
    """A configuration in few words."""
    return " ".join(f"{n}={v:.4g}" if isinstance(v, float) else f"{n}={v}" for n, v in config.items())
