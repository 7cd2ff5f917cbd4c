"""Packs on Ray Tune: a Tune trial is a worker's shift, in which it runs pack after pack, each a step of it.

Tune keeps every trial with its configuration and its last result, some 0.1 MB, until all are over: a trial
for each pack fills the driver's memory. So packs reach a worker by an actor, and come back as results, which
Tune forgets at the next one.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import ExitStack
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
from harness.shadow import require_clear
from harness.sizing import workers_per_device
from harness.study import DIED, Executor, Study
from harness.watched import working
from harness.worker import Context, Pack, results_from_json, results_to_json

CONTEXT, SHIFT, RESULTS, BOARD, BROKEN = "context", "shift", "results", "board", "broken"
SCRATCH = "harness-ray-"
WATCH = 5.0
"""Seconds between two looks at the processes of Ray."""


@ray.remote(num_cpus=0)
class Board:
    """Where the driver leaves packs for workers, and they write how far they have come."""

    def __init__(self) -> None:
        self._packs: dict[str, str] = {}
        self._spent: dict[str, tuple[str, float]] = {}

    def give(self, shift: str, pack: str) -> None:
        self._packs[shift] = pack

    def take(self, shift: str) -> str:
        """The pack that was left; "" where there was none."""
        return self._packs.pop(shift, "")

    def write(self, worker: str, solver: str, samples: float) -> None:
        self._spent[worker] = solver, samples

    def read(self) -> dict[str, float]:
        """Samples of packs in flight by solver; a solver whose packs are over has 0."""
        found: dict[str, float] = {}
        for solver, samples in self._spent.values():
            found[solver] = found.get(solver, 0.0) + samples
        return found


class Reading:
    """The board as the driver knows it: asked again only when it has answered: nobody waits."""

    def __init__(self, board: Any, study: Study) -> None:
        self.board, self.study = board, study
        self.asked = board.read.remote()
        self.known: dict[str, float] = {}

    def __call__(self) -> Mapping[str, float]:
        if ray.is_initialized() and ray.wait([self.asked], timeout=0)[0]:
            answer = ray.get(self.asked)
            self.known = dict.fromkeys(self.known, 0.0) | answer
            self.asked = self.board.read.remote()
            if answer:
                self.study.stage = ""
        return self.known


class PackTrainable(tune.Trainable):
    """An actor that sets the problem up once and then runs pack after pack."""

    def setup(self, config: dict[str, Any]) -> None:
        def spent(solver: str, samples: float) -> None:
            name = ray.get_runtime_context().get_actor_id()
            config[BOARD].write.remote(name, solver, samples)

        self._open = ExitStack()
        self._broken = ""
        try:
            context = Context.from_json(config[CONTEXT])
            self.worker = self._open.enter_context(working(context, spent))
        except Exception as error:  # noqa: BLE001 - no trial's failure: the driver says it
            cause = str(error) if isinstance(error, HarnessError | OSError) else last_line(error)
            self._broken = f"the worker on {socket.gethostname()} cannot be set up: {cause}"

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.config = new_config
        return True

    def step(self) -> dict[str, Any]:
        if self._broken:
            return {"done": True, BROKEN: self._broken}
        try:
            pack = ray.get(self.config[BOARD].take.remote(self.config[SHIFT]))
        except ray.exceptions.RayError as error:  # no trial's failure either
            return {"done": True, BROKEN: f"the driver's board does not answer ({last_line(error)})"}
        if not pack:
            return {"done": True}
        return {RESULTS: results_to_json(self.worker.run(Pack.from_json(pack)))}

    def cleanup(self) -> None:
        self._open.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: a pack runs from the start or not at all."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing."""


class StudySearcher(Searcher):
    """Hands the packs of a study to Tune, and their results back."""

    def __init__(self, study: Study, context: str, board: Any) -> None:
        super().__init__(metric=None, mode=None)
        self.study, self.context, self.board = study, context, board
        self.running: dict[str, Pack] = {}
        self.error: BaseException | None = None

    def suggest(self, trial_id: str) -> Any:
        if not self._give(trial_id):
            return None if self.study.in_flight and not self.error else Searcher.FINISHED
        return {CONTEXT: self.context, SHIFT: trial_id, BOARD: self.board}

    def _give(self, shift: str) -> bool:
        """The next pack to a worker, if there is one."""
        pack = None if self.error else self._guard(self.study.next_pack)
        if pack is not None:
            self.running[shift] = pack
            ray.get(self.board.give.remote(shift, pack.to_json()))
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
        if broken:
            self.error = self.error or HarnessError(f"{broken}; mend it, the same command goes on")
        if pack is not None and broken:
            self.study.give_back(pack)
        elif pack is not None:
            self._guard(self.study.died, pack, DIED)

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
        ended = _watchdog() if address is None else threading.Event()
        board = _board()
        study.in_flight_samples = Reading(board, study)
        study.stage = f"{workers} workers start and read the data"
        searcher = StudySearcher(study, context.to_json(), board)
        try:
            with tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{os.getpid()}-") as scratch:
                _tuner(searcher, context.device, workers, scratch).fit()
        except KeyboardInterrupt:
            sys.stderr.write("interrupted: the workers end ...\n")
            raise
        except Exception as error:  # noqa: BLE001 - Tune wraps what it meets in its own types
            stopped = HarnessError(f"Ray Tune stopped ({last_line(error)}); run the same command to go on")
            raise (searcher.error or stopped) from None
        finally:
            ended.set()
            ray.shutdown()
        if searcher.error:
            raise searcher.error

    return execute


def _board() -> Any:
    """On the driver's node, so that it is lost with the driver only."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Board.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]  # by ray.remote


def _watchdog() -> threading.Event:
    """End the driver with a line where a process of the Ray that it started has died: Ray itself would wait
    for ever. Set the event before Ray is shut down."""
    ended, watched = threading.Event(), _processes()

    def watch() -> None:
        while not ended.wait(WATCH):
            if not watched <= _processes() and not ended.is_set():
                sys.stderr.write(
                    "error: a process of Ray has died; what is recorded is safe, the same command goes on\n"
                )
                sys.stderr.flush()
                os._exit(2)  # the main thread may wait inside Ray, where no exception arrives

    threading.Thread(target=watch, daemon=True).start()
    return ended


def _processes() -> set[int]:
    """The living servers of Ray that this process has started; none are found but on Linux."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = file.read_text("utf-8", "replace").partition("(")[2].rpartition(")")
        except OSError:  # it has ended
            continue
        state, parent = rest.split()[:2]
        if name in ("raylet", "gcs_server") and state != "Z" and int(parent) == os.getpid():
            found.add(int(file.parent.name))
    return found


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
    host, colon, port = address.removeprefix("ray://").rpartition(":")
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
        where = f"at --address {address}" if address else "on this machine"
        raise HarnessError(f"Ray does not start {where}: {str(error).splitlines()[0]}") from None


def _quiet() -> None:
    """Tune logs a traceback for every worker that dies; the study records the reason instead."""
    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _tuner(searcher: StudySearcher, device: str, workers: int, scratch: str) -> tune.Tuner:
    gpus = 1 / workers_per_device(device, workers) if device == "cuda" else 0
    return tune.Tuner(
        tune.with_resources(PackTrainable, {"cpu": 1, "gpu": gpus}),
        tune_config=tune.TuneConfig(
            search_alg=searcher, num_samples=-1, max_concurrent_trials=workers, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            storage_path=scratch,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
