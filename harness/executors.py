"""Where packs run: in this process, or on Ray Tune. The numbers are the same."""

from __future__ import annotations

import os

import torch

from harness.errors import HarnessError
from harness.study import Executor, Study
from harness.worker import Context, Worker


def inline(context: Context) -> Executor:
    """One pack after another in this process: for tests, debuggers and machines without Ray."""

    def execute(study: Study) -> None:
        spent: dict[str, float] = {}
        study.in_flight_samples = lambda: spent
        worker = Worker(context, spent.__setitem__)
        study.stage = ""
        while (pack := study.next_pack()) is not None:
            study.record(pack, worker.run(pack))

    return execute


def default_workers(device: str, address: str | None) -> int:
    """As many as there are GPUs, or CPUs."""
    if address is not None:
        raise HarnessError("--address needs --workers: how many packs run at once on the cluster")
    return torch.cuda.device_count() if device == "cuda" else len(os.sched_getaffinity(0))
