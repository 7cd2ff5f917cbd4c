"""The errors a user can cause.

HarnessError            anything a user can mend: one line, exit code 2
└── PluginError         a problem or solver breaks its contract (also recorded as a trial's reason)
"""

from collections.abc import Iterable
from difflib import get_close_matches


class HarnessError(Exception):
    """What is wrong, where, what was expected, what to do: one line, shown without a traceback."""


class PluginError(HarnessError):
    """A plug-in breaks its contract: wrong declaration, wrong cost, wrong shape."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint for a mistyped name: the closest valid names first, then all of them."""
    names = sorted(valid)
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    guess = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"{guess}valid: {', '.join(names) if names else 'none'}"
