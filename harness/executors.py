"""Where packs run: in this process, or on Ray Tune. The numbers are the same."""

from __future__ import annotations

import os

import torch

from harness.child import Died
from harness.errors import HarnessError
from harness.result import DIED
from harness.sizing import free_memory
from harness.study import Executor, Study
from harness.watched import working
from harness.worker import Context


def inline(context: Context) -> Executor:
    """One pack after another in this process, or in one beside it where trials have a time limit: for tests,
    debuggers and machines without Ray."""

    def execute(study: Study) -> None:
        spent: dict[str, float] = {}
        study.in_flight_samples = lambda: spent
        with working(context, spent.__setitem__) as worker:
            if context.device == "cuda":
                study.packing = study.packing.on(free_memory(context.device), 1.0)
            study.stage = ""
            while (pack := study.next_pack()) is not None:
                try:
                    study.record(pack, worker.run(pack))
                except Died:
                    study.died(pack, DIED)

    return execute


def on_ray(context: Context, workers: int, address: str | None) -> Executor:
    """Packs on a Ray started here, or on the cluster at `address`. One started here listens to this machine
    only; Ray reads that from the environment when it is imported."""
    if address is None:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    from harness import ray_executor

    return ray_executor.on_ray(context, workers, address)


def default_workers(device: str, address: str | None) -> int:
    """As many as there are GPUs, or CPUs."""
    if address is not None:
        raise HarnessError("--address needs --workers: how many packs run at once on the cluster")
    return torch.cuda.device_count() if device == "cuda" else len(os.sched_getaffinity(0))
