"""A share of a study's trials, for machines without a common cluster."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import HarnessError


@dataclass(frozen=True)
class Share:
    """Of each solver the trials number - 1, number - 1 + of, number - 1 + 2 of, ..."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Share:
        """Of "2/5". Raises HarnessError."""
        number, _, of = text.partition("/")
        if not (
            number.isascii() and of.isascii() and number.isdecimal() and of.isdecimal() and len(text) < 20
        ):
            raise HarnessError(f"--shard must be NUMBER/OF, e.g. 2/5, but got {text[:40]!r}")
        if not 1 <= int(number) <= int(of):
            raise HarnessError(f"--shard {text}: the shares of {of} are 1/{of} to {of}/{of}")
        return cls(int(number), int(of))

    def has(self, trial: int) -> bool:
        return trial % self.of == self.number - 1

    def count(self, trials: int) -> int:
        """Of so many trials."""
        return len(range(self.number - 1, trials, self.of))


WHOLE = Share()
