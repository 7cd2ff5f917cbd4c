"""Packs on Ray Tune: one Tune trial carries one pack, and results come back to the driver as text."""

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

from harness.errors import HarnessError, last_line
from harness.interrupt import as_interrupts
from harness.shadow import require_clear
from harness.sizing import workers_per_device
from harness.study import DIED, Executor, Study
from harness.watched import working
from harness.worker import Context, Pack, results_from_json, results_to_json

CONTEXT, PACK, RESULTS, BOARD, BROKEN = "context", "pack", "results", "board", "broken"
SCRATCH = "harness-ray-"
WATCH = 5.0
"""Seconds between two looks at the processes of Ray."""


@ray.remote(num_cpus=0)
class Board:
    """Where workers write how far their packs have come, for the driver to read."""

    def __init__(self) -> None:
        self._spent: dict[str, tuple[str, float]] = {}

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
        results = self.worker.run(Pack.from_json(self.config[PACK]))
        return {"done": True, RESULTS: results_to_json(results)}

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
        pack = None if self.error else self._guard(self.study.next_pack)
        if pack is None:
            return None if self.study.in_flight and not self.error else Searcher.FINISHED
        self.running[trial_id] = pack
        return {CONTEXT: self.context, PACK: pack.to_json(), BOARD: self.board}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        pack = self.running.pop(trial_id)
        self.study.stage = ""
        if result and result.get(BROKEN):
            self.error = self.error or HarnessError(f"{result[BROKEN]}; mend it, the same command goes on")
            self.study.give_back(pack)
        elif error or not result or RESULTS not in result:
            self._guard(self.study.died, pack, DIED)
        else:
            self._guard(self.study.record, pack, results_from_json(result[RESULTS]))

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
        board = Board.remote()  # type: ignore[attr-defined]  # what ray.remote makes of a class
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
