"""What only the executor on Ray has to answer for."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.errors import HarnessError
from harness.ray_executor import CONTEXT, SCRATCH, PackTrainable, StudySearcher, _clean
from harness.rules import Rules
from harness.worker import Context, Pack
from recipes.kills import workers
from tests.harness.test_study import SPACE, arguments

CONTEXT_ = Context("toy_quadratic", {}, None, 1, "cpu", ["/nowhere/toy_plugin.py"], Rules(10.0, {}, 1))
PACK_ = Pack("toy_solver", (0,), ({"steps": 1},))


class _Given:
    """A study with one pack."""

    in_flight = 1
    back: tuple[Any, ...] = ()

    def give_back(self, *packs: Any) -> None:
        self.back += packs


def test_a_worker_that_cannot_be_set_up_is_no_trials_failure() -> None:
    worker = PackTrainable({CONTEXT: CONTEXT_.to_json()})
    study: Any = _Given()
    searcher = StudySearcher(study, CONTEXT_.to_json(), None)
    searcher.running["t"] = PACK_
    searcher.on_trial_complete("t", worker.step())
    assert study.back == (PACK_,) and isinstance(searcher.error, HarnessError)
    assert re.search(r"worker on \S+ cannot be set up: plug-in file /nowhere", str(searcher.error))
    assert searcher.suggest("u") == StudySearcher.FINISHED


def test_scratch_folders_of_drivers_that_were_killed_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left, used = tmp_path / f"{SCRATCH}{ended.pid}-x", tmp_path / f"{SCRATCH}{os.getpid()}-x"
    left.mkdir()
    used.mkdir()
    _clean()
    assert not left.exists() and used.exists()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_driver_whose_ray_has_died_ends_with_a_line_and_listens_to_this_machine_only(
    tmp_path: Path,
) -> None:
    words = arguments(tmp_path / "s", "--trials", "1", space=SPACE + "mischief = 2\n")
    words = [word for word in words if word not in ("--executor", "inline")]
    code = "from harness.cli import main; main()"
    driver = subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 200
    while not workers(driver) and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(1)
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,comm="], capture_output=True, text=True, check=True)
    rows = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
    servers = {name: int(pid) for pid, parent, name in rows if int(parent) == driver.pid}
    open_to = _listening({servers["raylet"], servers["gcs_server"]})
    os.kill(servers["raylet"], signal.SIGKILL)
    said = driver.communicate(timeout=100)[1].decode()
    assert driver.returncode == 2 and "a process of Ray has died" in said
    assert open_to and all("127.0.0.1" in place for place in open_to)


def _listening(processes: set[int]) -> list[str]:
    """The addresses at which these processes listen."""
    listed = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    return [
        line.split()[3]
        for line in listed.splitlines()
        if any(f"pid={process}," in line for process in processes)
    ]
