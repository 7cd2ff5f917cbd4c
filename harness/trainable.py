"""What Ray runs on the nodes of a cluster.

The classes travel by value and import the harness where they are, so that a node without it can say so.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

import ray
from ray import cloudpickle, tune

CONTEXT, SHIFT, RESULTS, BOARD = "context", "shift", "results", "board"
GPUS, ASIDE, BROKEN, NODE = "gpus", "aside", "broken", "node"


class Board:
    """Where the driver leaves packs for workers, and they write how far they have come."""

    def __init__(self) -> None:
        self._packs: dict[str, str] = {}
        self._setting_up: dict[str, str] = {}
        self._at_work: set[str] = set()
        self._spent: dict[str, tuple[str, float]] = {}

    def give(self, shift: str, pack: str) -> None:
        self._packs[shift] = pack

    def arrive(self, shift: str, node: str) -> None:
        """A worker for the shift is there, and sets the problem up."""
        self._setting_up[shift] = node

    def take(self, shift: str) -> str:
        """The pack that was left; "" where there was none."""
        self._at_work.add(shift)
        return self._packs.pop(shift, "")

    def before_work(self, shift: str) -> str | None:
        """The node on which a worker sets up for the shift; "": none has begun; None: it has come to work."""
        return None if shift in self._at_work else self._setting_up.get(shift, "")

    def write(self, worker: str, solver: str, samples: float) -> None:
        self._spent[worker] = solver, samples

    def read(self) -> dict[str, float]:
        """Samples of packs in flight by solver; a solver whose packs are over has 0."""
        found: dict[str, float] = {}
        for solver, samples in self._spent.values():
            found[solver] = found.get(solver, 0.0) + samples
        return found


class PackTrainable(tune.Trainable):
    """An actor that sets the problem up once and then runs pack after pack."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """One CPU and a part of a GPU, on any node that is not set aside."""
        aside = {"ray.io/node-id": f"!in({','.join(config[ASIDE])})"}
        chosen: dict[str, Any] = {"bundle_label_selector": [aside]} if config[ASIDE] else {}
        return tune.PlacementGroupFactory([{"CPU": 1, "GPU": config[GPUS]}], **chosen)

    def setup(self, config: dict[str, Any]) -> None:
        self.worker: Any
        here, board = ray.get_runtime_context(), config[BOARD]
        self._node, self._open = here.get_node_id(), ExitStack()
        ray.get(board.arrive.remote(config[SHIFT], self._node))

        def spent(solver: str, samples: float) -> None:
            board.write.remote(here.get_actor_id(), solver, samples)

        try:
            from harness.travel import begun
        except Exception as error:  # noqa: BLE001 - whatever a node's installation lacks: the driver says it
            self._broken = (
                f"the harness cannot be imported there ({type(error).__name__}: {error}); install it"
            )
        else:
            self.worker, self._broken = begun(config[CONTEXT], spent, self._open)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.config = new_config
        return True

    def step(self) -> dict[str, Any]:
        if self._broken:
            return {"done": True, BROKEN: self._broken, NODE: self._node}
        from harness.worker import Pack, results_to_json

        try:
            pack = ray.get(self.config[BOARD].take.remote(self.config[SHIFT]))
        except ray.exceptions.RayError as error:  # no trial's failure either
            lost = f"the driver's board does not answer ({type(error).__name__})"
            return {"done": True, BROKEN: lost, NODE: self._node}
        if not pack:
            return {"done": True}
        return {RESULTS: results_to_json(self.worker.run(Pack.from_json(pack)))}

    def cleanup(self) -> None:
        self._open.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: a pack runs from the start or not at all."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing."""


cloudpickle.register_pickle_by_value(sys.modules[__name__])
