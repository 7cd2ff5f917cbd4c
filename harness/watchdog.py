"""A driver beside a Ray that no longer answers: Ray itself would let it wait for ever."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import tune
from ray.util import placement_group_table

from harness.study import Study

WATCH = 5.0
"""Seconds between two looks."""
PATIENCE = 6
"""Looks in a row at which a server of somebody else's cluster does not answer until it counts as dead."""


@contextmanager
def watched_ray(address: str | None) -> Iterator[None]:
    """Inside, the driver ends with a line where the head of the cluster, or Ray on this machine, has died."""
    ended, servers = threading.Event(), _servers()
    patience = 1 if address is None else PATIENCE
    again = "the same command goes on" if address is None else "start it again, and the same command goes on"

    def watch() -> None:
        missed = dict.fromkeys(servers, 0)
        while not ended.wait(WATCH):
            for what, place in servers.items():
                missed[what] = 0 if answers(*place) else missed[what] + 1
                if missed[what] >= patience and not ended.is_set():
                    sys.stderr.write(
                        f"error: {what} at {place[0]}:{place[1]} has died, or cannot be reached; what is "
                        f"recorded is safe; {again}\n"
                    )
                    sys.stderr.flush()
                    os._exit(2)  # the main thread may wait inside Ray, where no exception arrives

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _servers() -> dict[str, tuple[str, int]]:
    """Where the two processes listen without which a driver waits for ever."""
    here = ray.get_runtime_context()
    host, _, port = here.gcs_address.rpartition(":")
    (own,) = (node for node in ray.nodes() if node["NodeID"] == here.get_node_id())
    return {
        "the head of the Ray cluster": (host, int(port)),
        "Ray on this machine": (own["NodeManagerAddress"], own["NodeManagerPort"]),
    }


def answers(host: str, port: int, seconds: float = WATCH) -> bool:
    try:
        socket.create_connection((host.strip("[]"), port), timeout=seconds).close()
    except OSError:
        return False
    return True


class Waiting(tune.Callback):
    """Says in a study's stage that the cluster has no place for any of its workers."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._looked = self._placed = time.monotonic()
        self._said = ""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks to resume by itself."""
        return {}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        now = time.monotonic()
        if now - self._looked < WATCH:
            return
        self._looked = now
        if any(trial.status == "RUNNING" for trial in trials) or _has_place():
            self._placed = now
            if self._said and self.study.stage == self._said:
                self.study.stage = ""
            self._said = ""
        elif now - self._placed >= 2 * WATCH:
            self.study.stage = self._said = _full()


def _has_place() -> bool:
    """Whether a worker of this driver has its CPU; the id of a placement group ends with its job's."""
    job = ray.get_runtime_context().get_job_id()
    groups = placement_group_table().values()
    return any(one["placement_group_id"].endswith(job) and one["state"] == "CREATED" for one in groups)


def _full() -> str:
    whole, free = ray.cluster_resources(), ray.available_resources()
    used = [
        f"{whole[name] - free.get(name, 0):g} of {whole[name]:g} {name}s in use"
        for name in ("CPU", "GPU")
        if name in whole
    ]
    return f"waiting for a free place on the cluster ({', '.join(used) or 'it has no CPUs'})"
