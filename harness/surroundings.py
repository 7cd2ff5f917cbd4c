"""What a plug-in could change of the process that it runs in, and how it is put back."""

from __future__ import annotations

import contextlib
import io
import os
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import numpy as np
import torch


def _device(device: Any) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)


def _numpy_seed() -> list[Any]:
    return [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()]  # noqa: NPY002


_PARTS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "the recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),  # first: the others need it
    "NumPy's handling of floating-point errors": (np.geterr, lambda state: np.seterr(**state)),
    "the default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "the default device": (torch.get_default_device, _device),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "gradients on or off": (torch.is_grad_enabled, torch.set_grad_enabled),
    "deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "PyTorch's random state": (
        lambda: torch.get_rng_state().numpy().tobytes(),
        lambda state: torch.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8)),
    ),
    "NumPy's random state": (_numpy_seed, lambda state: np.random.set_state(tuple(state))),  # noqa: NPY002
    "Python's random state": (random.getstate, random.setstate),
    "the working directory": (os.getcwd, os.chdir),
}


class _Said(io.TextIOBase):
    """What plug-ins print goes to stderr, and nothing that they do to it closes that."""

    def __init__(self, stderr: TextIO) -> None:
        self._stderr = stderr

    def write(self, text: str) -> int:
        return self._stderr.write(text)

    def flush(self) -> None:
        self._stderr.flush()

    def close(self) -> None:
        """Nothing."""


@contextlib.contextmanager
def restored() -> Iterator[list[str]]:
    """Afterwards the process is as it was, whatever ran; the list then says what had changed. What is printed
    meanwhile goes to stderr: stdout is for results."""
    changed: list[str] = []
    before = {name: read() for name, (read, _) in _PARTS.items()}
    said, path, environment = _Said(sys.stderr), list(sys.path), dict(os.environ)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield changed
    finally:
        sys.path += [entry for entry in path if entry not in sys.path]  # what was added may be needed later
        os.environ |= environment
        for name, (read, write) in _PARTS.items():
            if read() != before[name]:
                changed.append(name)
                write(before[name])
