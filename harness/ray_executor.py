"""Packs on Ray Tune: a Tune trial is a worker's shift, in which it runs pack after pack, each a step of it.

Tune keeps every trial with its configuration and its last result, some 60 kB, until all are over: a trial
for each pack fills the driver's memory. So packs reach a worker by an actor, and come back as results, which
Tune forgets at the next one.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends the driver, not only Tune
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 starves workers wherever anything else runs

import ray
from ray import tune
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.errors import HarnessError, last_line
from harness.interrupt import as_interrupts
from harness.nodes import Nodes
from harness.result import DIED
from harness.shadow import require_clear
from harness.sizing import free_memory
from harness.study import Executor, Study
from harness.trainable import ASIDE, BOARD, BROKEN, CONTEXT, GPUS, NODE, RESULTS, SHIFT, Board, PackTrainable
from harness.travel import packed
from harness.watchdog import Waiting, watched_ray
from harness.worker import Context, Pack, results_from_json

SCRATCH = "harness-ray-"
ANSWER = 120.0
"""Seconds that a node may take to say what its GPU holds: it imports PyTorch first."""
TOKEN = "; where it asks for a token, the driver needs RAY_AUTH_MODE=token and RAY_AUTH_TOKEN(_PATH) as well"


class Reading:
    """The board as the driver knows it: asked again only when it has answered: nobody waits."""

    def __init__(self, board: Any, study: Study) -> None:
        self.board, self.study = board, study
        self.asked = board.read.remote()
        self.known: dict[str, float] = {}

    def __call__(self) -> Mapping[str, float]:
        if ray.is_initialized() and ray.wait([self.asked], timeout=0)[0]:
            try:
                answer = ray.get(self.asked)
            except ray.exceptions.RayError:  # Ray has died, which the watchdog says
                return self.known
            if answer and not self.known:
                self.study.stage = ""
            self.known = dict.fromkeys(self.known, 0.0) | answer
            self.asked = self.board.read.remote()
        return self.known


class StudySearcher(Searcher):
    """Hands the packs of a study to Tune, and their results back."""

    def __init__(self, study: Study, context: str, nodes: Nodes) -> None:
        super().__init__(metric=None, mode=None)
        self.study, self.context, self.nodes = study, context, nodes
        self.running: dict[str, Pack] = {}
        self.error: BaseException | None = None

    def suggest(self, trial_id: str) -> Any:
        if not self._give(trial_id):
            return None if self.study.in_flight and not self.error else Searcher.FINISHED
        return {
            CONTEXT: self.context,
            SHIFT: trial_id,
            BOARD: self.nodes.board,
            GPUS: self.nodes.gpus,
            ASIDE: sorted(self.nodes.aside),
        }

    def _give(self, shift: str) -> bool:
        """The next pack to a worker, if there is one."""
        pack = None if self.error else self._guard(self.study.next_pack)
        if pack is not None:
            self.running[shift] = pack
            ray.get(self.nodes.board.give.remote(shift, pack.to_json()))
        return pack is not None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.study.stage = ""
        self._guard(self.study.record, self.running.pop(trial_id), results_from_json(result[RESULTS]))
        self._give(trial_id)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self.study.stage = ""
        pack, broken = self.running.pop(trial_id, None), (result or {}).get(BROKEN)
        if pack is None:
            return
        if broken or self._guard(self.nodes.died_in_setup, trial_id):
            self.study.give_back(pack)
        else:
            self._guard(self.study.died, pack, DIED)
        if broken:
            self._guard(self.nodes.set_aside, (result or {})[NODE], broken)

    def _guard(self, call: Any, *args: Any) -> Any:
        """Tune must not wrap the driver's own errors (a full disk): keep the first, and stop."""
        try:
            return call(*args)
        except Exception as error:
            self.error = self.error or error
            raise

    def __deepcopy__(self, memo: Any) -> StudySearcher:
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher to resume by itself; a study resumes from its record instead."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the record is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the record is the state."""


def on_ray(context: Context, workers: int, address: str | None) -> Executor:
    """Run a study on a Ray started here for `workers` actors, or on the cluster at `address`."""

    require_clear(Path.cwd())

    def execute(study: Study) -> None:
        _start(workers, address)
        as_interrupts()
        _quiet()
        _clean()
        board = _board()
        study.in_flight_samples = Reading(board, study)
        study.stage = f"{workers} workers start and read the data"
        nodes = Nodes(board, gpu_share(workers) if context.device == "cuda" else 0)
        if nodes.gpus:
            study.packing = study.packing.on(_device_memory(nodes.gpus), nodes.gpus)
        shared = dataclasses.replace(context, device_share=nodes.gpus or 1.0)
        searcher = StudySearcher(study, packed(shared, study.solvers), nodes)
        waiting = Waiting(study)
        try:
            with (
                watched_ray(address),
                tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{os.getpid()}-") as scratch,
            ):
                _tuner(searcher, waiting, workers, scratch).fit()
        except KeyboardInterrupt:
            sys.stderr.write("interrupted: the workers end ...\n")
            raise
        except Exception as error:  # noqa: BLE001 - Tune wraps what it meets in its own types
            raise (searcher.error or _stopped(error)) from None
        finally:
            ray.shutdown()
        if searcher.error:
            raise searcher.error

    return execute


def _clean() -> None:
    """Remove the scratch folders of drivers that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*-*"):
        driver = folder.name.removeprefix(SCRATCH).split("-")[0]
        if driver.isdecimal() and not _runs(int(driver)):
            shutil.rmtree(folder, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _reachable(address: str) -> None:
    """Ray itself would try for many minutes."""
    if address.startswith("ray://"):
        raise HarnessError(
            f"--address {address}: Ray's client is not enough for a driver; run the command on a node of "
            "the cluster, with --address auto (docs/cluster.md)"
        )
    host, colon, port = address.rpartition(":")
    if colon:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except (OSError, ValueError) as error:
            raise HarnessError(f"no Ray cluster answers at --address {address} ({error}); check it") from None


def _start(workers: int, address: str | None) -> None:
    if address:
        _reachable(address)
    own: dict[str, Any] = {} if address else {"num_cpus": workers, "include_dashboard": False}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except Exception as error:  # noqa: BLE001 - Ray raises a bare Exception where it times out
        where = f"answer at --address {address}" if address else "start on this machine"
        hint = TOKEN if address and "RAY_AUTH_MODE" not in os.environ else ""
        raise HarnessError(f"Ray does not {where}: {' '.join(str(error).split())[:400]}{hint}") from None


def _quiet() -> None:
    """Tune logs a traceback for every worker that dies; the study records the reason instead."""
    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _stopped(error: Exception) -> HarnessError:
    if isinstance(error, ray.exceptions.RayError):
        return HarnessError(
            f"Ray has died, or a part of it ({type(error).__name__}); what is recorded is safe; start it "
            "again, and the same command goes on"
        )
    return HarnessError(f"Ray Tune stopped ({last_line(error)}); run the same command to go on")


def _board() -> Any:
    """On the driver's own node: the others may lack what it is made of, or go."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()


def gpu_share(workers: int) -> float:
    """What of a GPU a worker takes: the cluster's are shared evenly; a whole one where none has come yet."""
    devices = int(ray.cluster_resources().get("GPU", 0))
    return 1 / -(-workers // devices) if devices else 1.0


def _device_memory(gpus: float) -> int:
    """Bytes that are free on a GPU of the cluster, as a node that has one says; its process ends after that.

    Raises HarnessError: none answers."""

    @ray.remote(num_cpus=0, max_calls=1)
    def ask() -> int:
        return free_memory("cuda")

    try:
        return int(ray.get(ask.options(num_gpus=gpus).remote(), timeout=ANSWER))
    except ray.exceptions.RayError as error:
        raise HarnessError(
            f"no GPU of the cluster says how much memory it has ({type(error).__name__}); give --pack NUMBER"
        ) from None


def _tuner(searcher: StudySearcher, waiting: Waiting, workers: int, scratch: str) -> tune.Tuner:
    return tune.Tuner(
        PackTrainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher, num_samples=-1, max_concurrent_trials=workers, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            storage_path=scratch,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[waiting],
        ),
    )
