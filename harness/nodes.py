"""The nodes of a Ray cluster, and which of them are set aside in this run."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import ray

from harness.errors import HarnessError
from harness.study import ATTEMPTS

ANSWER = 10.0
"""Seconds that the board may take to answer."""


class Nodes:
    """A node on which no worker can be set up is set aside: it gets no more packs of this run.

    board: where workers say what they do. gpus: that a worker takes."""

    def __init__(self, board: Any, gpus: float) -> None:
        self.board, self.gpus = board, gpus
        self.aside: dict[str, str] = {}
        self._deaths: Counter[str] = Counter()

    def set_aside(self, node: str, cause: str) -> None:
        """Say it once. Raises HarnessError: no node is left."""
        if node in self.aside:
            return
        self.aside[node] = cause
        said = f"{_name(node)}: {cause}"
        if not any(_carries(one, self.gpus) and one["NodeID"] not in self.aside for one in ray.nodes()):
            raise HarnessError(
                f"no node is left that can run this study; {said}; mend it, the same command goes on"
            )
        sys.stderr.write(f"set aside for this run: {said}\n")
        sys.stderr.flush()

    def died_in_setup(self, shift: str) -> bool:
        """Whether the worker of a shift died before it came to work: that is no trial's failure either.

        Raises HarnessError: none can be begun."""
        try:
            node = ray.get(self.board.before_work.remote(shift), timeout=ANSWER)
        except ray.exceptions.RayError:  # the driver's own node is gone
            return False
        if node is None:
            self._deaths[""] = 0
            return False
        self._deaths[node] += 1
        if self._deaths[node] >= ATTEMPTS:
            if not node:
                raise HarnessError(
                    f"Ray starts no workers: {ATTEMPTS} ended at once; see its logs in /tmp/ray"
                )
            self.set_aside(node, f"{ATTEMPTS} workers died while they were set up (killed, or out of memory)")
        return True


def _carries(node: dict[str, Any], gpus: float) -> bool:
    has = node["Resources"]
    return bool(node["Alive"] and has.get("CPU", 0) >= 1 and has.get("GPU", 0) >= gpus)


def _name(node: str) -> str:
    """HOST (ADDRESS, the beginning of its id)."""
    found: dict[str, Any] = next((one for one in ray.nodes() if one["NodeID"] == node), {})
    host, address = found.get("NodeManagerHostname", "?"), found.get("NodeManagerAddress", "?")
    return f"node {host} ({address}, {node[:8]})"
