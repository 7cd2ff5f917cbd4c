"""A process of its own for plug-ins: it is watched, and ended where it runs too long.

A limit inside a process cannot be kept against what runs there: a library call that does not return, signals
that are blocked, exceptions that are swallowed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from multiprocessing import Pipe
from multiprocessing.connection import Connection

PR_SET_PDEATHSIG = 1  # of Linux's sys/prctl.h


class Died(Exception):
    """The process has ended by itself, or was killed by somebody else."""


class TooLong(Exception):
    """The process did not answer in time, and was ended."""


class Child:
    """A fresh interpreter that runs a module of the harness; text goes in and comes out."""

    def __init__(self, module: str) -> None:
        self._ours, theirs = Pipe()
        command = [sys.executable, "-m", module, str(theirs.fileno())]
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=2, start_new_session=True
        )
        theirs.close()

    def send(self, text: str) -> None:
        try:
            self._ours.send_bytes(text.encode())
        except OSError:
            self.end()
            raise Died from None

    def receive(self, seconds: float | None = None) -> str:
        """The next text. Raises Died, or TooLong after so many seconds; None: waits."""
        try:
            if not self._ours.poll(seconds):
                self.end()
                raise TooLong
            return self._ours.recv_bytes().decode()
        except (EOFError, OSError):
            self.end()
            raise Died from None

    def end(self) -> None:
        """End it and whatever it has started."""
        if self._process.returncode is not None:
            return
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
        self._ours.close()


def parent() -> Connection:
    """In a child: the way to its parent, with which it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    return Connection(int(sys.argv[1]))
