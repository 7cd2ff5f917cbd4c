"""The errors a user can cause.

HarnessError            anything a user can mend: one line, exit code 2
└── PluginError         a problem or solver breaks its contract (also recorded as a trial's reason)
"""

import re
import sys
import traceback
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

NOT_AN_AUTHORS = {"harness", "torch", "numpy", "scipy", "sklearn", "pandas", "ray", "optuna"}
"""Top-level modules in which an author's mistake surfaces, but does not lie."""
LONGEST = 1200
"""Letters of an error that is shown."""


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


def one_line(text: str) -> str:
    """`text` in one line of at most LONGEST characters, without any that a terminal would obey."""
    line = "".join(letter if letter.isprintable() else "�" for letter in " ".join(text.split()))
    half = LONGEST // 2
    return line if len(line) <= LONGEST else f"{line[:half]} … {line[-half:]}"


def last_line(error: BaseException) -> str:
    """Type and message of an error in one line of at most 500 characters that any file can hold, and where
    in an author's file it was raised."""
    text = "".join(traceback.format_exception_only(error)).encode("utf-8", "replace").decode()
    text = re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", text).strip()
    place = f" ({found})"[:200] if (found := raised_at(error)) else ""
    return text[: 500 - len(place)] + place


def raised_at(error: BaseException) -> str:
    """FILE:LINE of the innermost line that is neither the engine's nor a library's; empty: there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}"
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if module not in NOT_AN_AUTHORS and module not in sys.stdlib_module_names:
            found = f"{Path(frame.f_code.co_filename).name}:{line}"
    return found


def show_traceback(error: BaseException) -> None:
    """With every error that led to it, also those that a message in one line stands for."""
    cause: BaseException | None = error
    while cause is not None:
        cause.__suppress_context__ = False
        cause = cause.__cause__ or cause.__context__
    traceback.print_exception(error)
