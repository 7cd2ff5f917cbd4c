"""Packs that are too large for a device: how their trials end."""

from collections.abc import Callable
from typing import Any

from harness.rules import Rules
from harness.worker import Context, Pack, Worker
from tests.gpu.compare import configs_of

TRIALS = 8


def capped(
    options: dict[str, Any], room: int, cap: Callable[[int], None], left: Callable[[], int]
) -> dict[str, Any]:
    """room: memory in arrays of x beyond what the problem itself holds. cap: let the device have so many
    bytes beyond what it holds now. left: what it holds."""
    context = Context("data_poisoning", options, None, 0, "cuda", [], Rules(400.0, {}, 0, curves=0))
    worker = Worker(context)
    cap(room * 4 * worker.problem.dim_x)
    configs = configs_of(worker.plugins.solver("bsgm"), "data_poisoning", wild=0)[:1] * TRIALS
    results = worker.run(Pack("bsgm", tuple(range(TRIALS)), tuple(configs)))
    states, packs = ([getattr(result, name) for result in results] for name in ("state", "pack"))
    objectives = [result.objective for result in results]
    return {"room": room, "states": states, "packs": packs, "objectives": objectives, "left": left()}
