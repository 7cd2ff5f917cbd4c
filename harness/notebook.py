"""The door for notebooks: a study as data frames, one trial, one study. Its figures: `reports.notebook`.

Options are those of `harness run` and `harness trial`, written as in a study file (`harness.config`):
`data_seed=3`, `set={"dataset": "digits"}`, `plugin=["my_method.py"]`. They go to the very commands, so that
defaults, checks and numbers are theirs. Errors are raised: HarnessError, in one line.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.record import Record

__all__ = ["HarnessError", "load", "run_study", "run_trial"]


def load(place: str | Path, *others: str | Path) -> Record:
    """A study, finished or not, with others of the same protocol: folders, or files of `harness export`.

    `trials`: a row for each trial, with `param.`, `metric.` and `ledger.` columns. `curves`: a row for each
    point. `evaluations`: the same for `--evaluate-at`. `spec`: the specification. `confirmations`: studies.
    """
    from harness.exchange import load_together

    return load_together(Path(place), [Path(other) for other in others])


def run_study(problem: str, out: str | Path, **options: Any) -> Record:
    """`harness run PROBLEM --out OUT` with its options: run a study or go on with it; then `load` it."""
    code = _command(["run", problem, "--out", str(out)], options)
    if code:
        raise KeyboardInterrupt  # recorded trials are safe; the same call goes on from there
    return load(out)


def run_trial(problem: str, solver: str, config: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """`harness trial PROBLEM SOLVER` with a configuration: its result, as `--json` has it."""
    taken: list[dict[str, Any]] = []
    words = [f"{name}={value}" for name, value in config.items()]
    _command(["trial", problem, solver, *words], options, taken)
    return taken[0]


def _command(
    words: Sequence[str], options: Mapping[str, Any], taken: list[dict[str, Any]] | None = None
) -> int:
    """The exit code of a command. taken: gets the result of a trial."""
    from harness import cli
    from harness.config import by_parameter

    name = words[0]
    known = inspect.signature(getattr(cli, name)).parameters
    defaults = {name: by_parameter(options, known, f"harness {name}", Path())}
    settings = cli.Settings(show=None if taken is None else taken.append)
    try:
        return int(cli.app(list(words), standalone_mode=False, default_map=defaults, obj=settings) or 0)
    except Exception as error:  # noqa: BLE001 - a user's mistake in one line, all else as it is
        text = cli.explained(error)
        if text is None:
            raise
        raise HarnessError(text) from None
