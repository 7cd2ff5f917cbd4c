"""One process that runs packs: it sets the problem up once, and turns whatever goes wrong into results."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from harness.budget import Accountant
from harness.device import check_device, described, prepare
from harness.door import checked, require_declared
from harness.errors import HarnessError, PluginError, last_line
from harness.options import not_negative, one_of, pairs, valid_seed
from harness.params import check_values
from harness.plugins import Plugins
from harness.problem import Problem
from harness.result import Result, failed
from harness.rules import Rules
from harness.runner import run_pack
from harness.surroundings import restored

OUT_OF_MEMORY = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""What PyTorch's other errors say where there was no room."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


@dataclasses.dataclass(frozen=True)
class Context:
    """What a worker needs to know, plain data; trial_timeout: seconds per trial, 0 for none. solvers: those
    that it loads when it is set up, so that what one of them lacks on a node is no trial's failure.
    device_share: of a GPU's memory, which a worker may take."""

    problem: str
    options: dict[str, Any]
    data_dir: str | None
    data_seed: int
    device: str
    plugins: list[str]
    rules: Rules
    trial_timeout: float = 0.0
    solvers: list[str] = dataclasses.field(default_factory=list)
    device_share: float = 1.0

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    def find_plugins(self) -> Plugins:
        """Every problem and solver that a pack may name."""
        return Plugins([Path(file) for file in self.plugins])

    @classmethod
    def from_json(cls, text: str) -> Context:
        values = json.loads(text)
        return cls(**values | {"rules": Rules(**values["rules"])})


@dataclasses.dataclass(frozen=True)
class Pack:
    """Trials of one solver that run together. attempt: how often a worker has died of a trial alone."""

    solver: str
    numbers: tuple[int, ...]
    configs: tuple[dict[str, Any], ...]
    attempt: int = 0

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Pack:
        values = json.loads(text)
        return cls(values["solver"], tuple(values["numbers"]), tuple(values["configs"]), values["attempt"])

    def parts(self, most: int) -> list[Pack]:
        """The same trials in packs of at most so many."""
        cuts = [slice(first, first + most) for first in range(0, len(self.numbers), most)]
        return [
            dataclasses.replace(self, numbers=self.numbers[cut], configs=self.configs[cut]) for cut in cuts
        ]

    @property
    def half(self) -> int:
        """Of its trials, rounded up."""
        return -(-len(self.numbers) // 2)


Spent = Callable[[str, float], None]
PULSE = 1.0
"""Seconds between two tellings of how far a pack has come."""


class Worker:
    """spent: told the solver of a pack and the samples it has used, every PULSE seconds; 0: it is over.

    Attributes: fits: by solver, how many trials at once the memory has room for, where that was found out."""

    def __init__(self, context: Context, spent: Spent | None = None) -> None:
        keep_freed_memory()
        torch.set_num_threads(1)  # the products are small: several workers, one thread each
        self.context, self.spent = context, spent
        self.fits: dict[str, int] = {}
        self.device = torch.device(context.device)
        prepare(self.device, context.device_share)
        self.plugins = context.find_plugins()
        for solver in context.solvers:
            self.plugins.solver(solver)
        self.problem = set_up(self.plugins, context)
        self.described = described(self.device)

    @classmethod
    def from_json(cls, text: str) -> Worker:
        return cls(Context.from_json(text))

    def run(self, pack: Pack) -> list[Result]:
        """One result per trial. A pack that is out of memory runs again in halves, down to single trials, and
        from then on no larger one of its solver is tried. One in which anything else goes wrong is run again
        trial by trial, so that only the trial at fault is recorded as failed."""
        parts = pack.parts(self.fits.get(pack.solver, len(pack.numbers)))
        return [result for part in parts for result in self._run(part)]

    def _run(self, pack: Pack) -> list[Result]:
        try:
            results = self.attempt(pack)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - recorded as the trial's reason
            reason, short = last_line(error), out_of_memory(error)
        else:
            if self.spent is not None:
                self.spent(pack.solver, 0.0)
            return results
        free(self.device)  # only here is the error gone, and with its traceback the pack's tensors
        if len(pack.numbers) == 1:
            return [failed(pack.configs[0], reason)]
        if short:
            self.fits[pack.solver] = pack.half
        return [result for part in ([pack] if short else pack.parts(1)) for result in self.run(part)]

    def attempt(self, pack: Pack) -> list[Result]:
        """One result per trial, or whatever a trial raises."""
        solver = self.plugins.solver(pack.solver)
        configs = [check_values(solver, config, pack.solver) for config in pack.configs]
        with restored():
            rules, dtype, pulse = self.context.rules, self.problem.dtype, self._pulse(pack.solver)
            results = run_pack(self.problem, solver, configs, rules, self.device, dtype, pulse)
        plain = (checked(result, self.problem) for result in results)
        return [dataclasses.replace(result, device=self.described) for result in plain]

    def _pulse(self, solver: str) -> Callable[[Accountant], None] | None:
        if self.spent is None:
            return None
        tell, last = self.spent, time.monotonic()

        def watch(accountant: Accountant) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= PULSE:
                last = now
                tell(solver, float(accountant.spent.sum()))

        return watch


def make_context(
    problem: str,
    options: Sequence[str],
    plugins: Sequence[Path],
    data_dir: Path | None,
    data_seed: int | None,
    device: str,
    rules: Rules,
    trial_timeout: float,
    elsewhere: bool = False,
) -> Context:
    """A context from the options of the command line, checked; `data_seed` None is the seed of the rules.
    elsewhere: other machines may work."""
    plugin = Plugins(plugins).problem(problem)
    return Context(
        problem=problem,
        options=check_values(plugin, pairs(options, "--set"), "--set"),
        data_dir=str(data_dir.resolve()) if data_dir else None,
        data_seed=rules.seed if data_seed is None else valid_seed("--data-seed", data_seed),
        device=check_device(one_of("--device", device, ("cpu", "cuda", "auto")), elsewhere),
        plugins=[str(path.resolve()) for path in plugins],
        rules=rules,
        trial_timeout=not_negative("--trial-timeout", trial_timeout),
    )


def set_up(plugins: Plugins, context: Context) -> Problem:
    """The problem of a context with its data. Raises HarnessError: whatever is wrong with them."""
    from harness.data import data_folder

    plugin = plugins.problem(context.problem)
    require_declared(plugin)
    folder = data_folder(Path(context.data_dir) if context.data_dir else None)
    values = check_values(plugin, context.options, context.problem)
    try:
        with restored():
            problem = plugin(**values)
            problem.setup(folder, context.data_seed, torch.device(context.device), problem.dtype)
    except (HarnessError, OSError):
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a plug-in raises, one line
        raise PluginError(f"problem {context.problem!r} cannot be set up: {last_line(error)}") from None
    return problem


def keep_freed_memory() -> None:
    """Let this process keep what it frees: vectors of many megabytes are otherwise mapped, filled with zeros
    and given back, page by page, at every operation. For glibc's allocator; others are left as they are."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def out_of_memory(error: BaseException) -> bool:
    """Whether a GPU, or the CPU's allocator, which has no error of its own, had no room."""
    said = last_line(error)  # str() of a plug-in's error may raise
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(w in said for w in OUT_OF_MEMORY)


def free(device: torch.device) -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def results_to_json(results: Sequence[Result]) -> str:
    return json.dumps([dataclasses.asdict(result) for result in results])


def results_from_json(text: str) -> list[Result]:
    return [Result(**values) for values in json.loads(text)]
