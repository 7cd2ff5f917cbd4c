"""What only the executor on Ray has to answer for."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from ray import tune

from harness.errors import HarnessError
from harness.nodes import Nodes
from harness.ray_executor import SCRATCH, StudySearcher, _clean, _start, gpu_share
from harness.result import failed
from harness.rules import Rules
from harness.trainable import ASIDE, BROKEN, NODE, RESULTS, SHIFT, Board, PackTrainable
from harness.travel import begun, packed, unpacked
from harness.watchdog import Waiting
from harness.worker import Context, Pack, results_to_json
from tests.harness.test_study import SPACE, arguments
from upkeep.kills import descendants

TOY = Path(__file__).with_name("toy_plugin.py")
CONTEXT_ = Context("toy_quadratic", {}, None, 1, "cpu", [str(TOY)], Rules(10.0, {}, 1))
PACK_ = Pack("toy_solver", (0,), ({"steps": 1},))
NODES = [
    {"NodeID": name, "Alive": True, "Resources": {"CPU": cpus}, "NodeManagerHostname": f"host-{name}"}
    for name, cpus in (("head", 0), ("one", 1), ("two", 1))
]


class _Given:
    """A study with one pack."""

    in_flight = 1

    def __init__(self) -> None:
        self.back: list[Pack] = []
        self.dead: list[Pack] = []

    def give_back(self, pack: Pack) -> None:
        self.back.append(pack)

    def died(self, pack: Pack, reason: str) -> None:
        self.dead.append(pack)

    def next_pack(self) -> Pack:
        return PACK_


class _Board:
    """node: where a worker is being set up."""

    node: str | None = None

    def __init__(self) -> None:
        self.give = SimpleNamespace(remote=lambda shift, pack: None)
        self.before_work = SimpleNamespace(remote=lambda shift: self.node)


@pytest.fixture
def searcher(monkeypatch: pytest.MonkeyPatch) -> StudySearcher:
    monkeypatch.setattr("ray.nodes", lambda: NODES)
    monkeypatch.setattr("ray.get", lambda found, timeout=0: found)
    study: Any = _Given()
    return StudySearcher(study, "", Nodes(_Board(), 0))


def test_a_shift_runs_pack_after_pack(searcher: StudySearcher) -> None:
    packs = [replace(PACK_, numbers=(n,)) for n in range(3)]
    study = Mock(in_flight=1, next_pack=Mock(side_effect=[*packs, None, None]))
    searcher.study, done = study, {RESULTS: results_to_json([failed({}, "why")])}
    assert searcher.suggest("a")[SHIFT] == "a" and searcher.suggest("b")[SHIFT] == "b"
    searcher.on_trial_result("a", done)
    assert searcher.running == {"a": packs[2], "b": packs[1]}
    searcher.on_trial_result("a", done)
    searcher.on_trial_complete("a", {"done": True})  # nothing is left for it
    assert [call.args[0] for call in study.record.call_args_list] == [packs[0], packs[2]]
    assert not study.died.called and not study.give_back.called
    assert searcher.suggest("c") is None  # while a pack is in flight, which may come back


def broken(node: str) -> dict[str, Any]:
    return {BROKEN: "no such file", NODE: node}


def test_a_node_that_cannot_be_set_up_is_set_aside_and_no_trial_fails(
    searcher: StudySearcher, capsys: pytest.CaptureFixture[str]
) -> None:
    assert searcher.suggest("t")[ASIDE] == [] and searcher.suggest("u")
    for trial in "tu":
        searcher.on_trial_complete(trial, broken("one"))
    assert capsys.readouterr().err == "set aside for this run: node host-one (?, one): no such file\n"
    assert searcher.study.back == [PACK_, PACK_] and not searcher.study.dead
    config = searcher.suggest("v")
    assert config[ASIDE] == ["one"]
    label = [{"ray.io/node-id": "!in(one)"}]
    wanted = tune.PlacementGroupFactory([{"CPU": 1}], bundle_label_selector=label)
    assert PackTrainable.default_resource_request(config) == wanted and searcher.error is None


def test_where_no_node_is_left_the_study_ends(searcher: StudySearcher) -> None:
    for trial in "tu":
        searcher.suggest(trial)
    searcher.on_trial_complete("t", broken("one"))
    with pytest.raises(HarnessError, match=r"no node is left that can run this study; node host-two"):
        searcher.on_trial_complete("u", broken("two"))
    assert searcher.suggest("v") == StudySearcher.FINISHED and isinstance(searcher.error, HarnessError)
    assert searcher.study.back == [PACK_, PACK_]


@pytest.mark.parametrize(("node", "dead"), [("one", 0), (None, 4)])
def test_a_worker_that_dies_before_it_comes_to_work_is_no_trials_failure(
    searcher: StudySearcher, node: str | None, dead: int
) -> None:
    searcher.nodes.board.node = node
    for _ in range(4):
        searcher.suggest("t")
        searcher.on_trial_complete("t", None, error=True)
    assert len(searcher.study.dead) == dead and len(searcher.study.back) == 4 - dead
    assert ("one" in searcher.nodes.aside) is (dead == 0)


def test_a_ray_that_begins_no_workers_is_said(searcher: StudySearcher) -> None:
    searcher.nodes.board.node = ""
    with pytest.raises(HarnessError, match="Ray starts no workers"):
        for _ in range(3):
            searcher.suggest("t")
            searcher.on_trial_complete("t", None, error=True)


def test_the_board_knows_who_has_come_to_work() -> None:
    board = Board()
    board.give("t", "pack")
    assert board.before_work("t") == ""
    board.arrive("t", "one")
    assert board.before_work("t") == "one"
    assert (board.take("t"), board.take("t"), board.before_work("t")) == ("pack", "", None)


# --- what goes to a node


def test_a_plug_in_file_goes_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.travel.user_cache_path", lambda name: tmp_path / "cache")
    data = tmp_path / "data"
    data.mkdir()
    file = tmp_path / "mine.py"
    file.write_bytes("# -*- coding: latin-1 -*-\nnamé = 1\n".encode("latin-1"))
    content = file.read_bytes()
    text = packed(replace(CONTEXT_, plugins=[str(file)], data_dir=str(data)), ["toy_solver"])
    same = unpacked(text)
    assert same.plugins == [str(file)] and same.data_dir == str(data) and same.solvers == ["toy_solver"]
    for change in (lambda: file.write_bytes(b"another"), file.unlink):
        change()
        (copy,) = map(Path, unpacked(text).plugins)
        assert (
            copy.read_bytes() == content
            and copy.name == "mine.py"
            and copy.is_relative_to(tmp_path / "cache")
        )
    copy.write_bytes(b"damaged")
    data.rmdir()
    there = unpacked(text)
    assert Path(there.plugins[0]).read_bytes() == content and there.data_dir is None


def test_versions_that_differ_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    text = packed(CONTEXT_, [])
    monkeypatch.setattr("torch.__version__", "1.0.0+cu12")
    with pytest.raises(HarnessError, match=r"^it has torch 1\.0\.0 instead of \d+\.\S+; install"):
        unpacked(text)


def test_what_a_solver_lacks_on_a_node_is_found_when_a_worker_is_set_up(tmp_path: Path) -> None:
    (tmp_path / "lacks.py").write_text("import a_package_that_is_nowhere")
    context = replace(CONTEXT_, plugins=[*CONTEXT_.plugins, str(tmp_path / "lacks.py")])
    with ExitStack() as opened:
        worker, said = begun(packed(context, ["toy_solver"]), print, opened)
        assert worker is not None and not said
        worker, said = begun(packed(context, ["toy_solver", "lacks"]), print, opened)
    assert worker is None and "No module named 'a_package_that_is_nowhere'" in said


def test_what_travels_to_a_node_needs_no_harness_there(tmp_path: Path) -> None:
    """The classes are read by an interpreter that cannot import it."""
    from ray import cloudpickle

    (tmp_path / "classes").write_bytes(cloudpickle.dumps((PackTrainable, Board)))
    code = (
        "import sys; sys.modules['harness'] = None\nfrom ray import cloudpickle\n"
        "print(*(c.__name__ for c in cloudpickle.load(open('classes', 'rb'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "PackTrainable Board\n", done.stderr


def test_the_stage_says_where_a_cluster_has_no_free_place(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr("ray.available_resources", dict)
    study: Any = SimpleNamespace(stage="begins")
    groups = {
        "a": {"placement_group_id": "a01000000", "state": "CREATED"},
        "b": {"placement_group_id": "b02000000", "state": "PENDING"},
    }
    monkeypatch.setattr("harness.watchdog.placement_group_table", lambda: groups)
    job = SimpleNamespace(get_job_id=lambda: "02000000")
    monkeypatch.setattr("ray.get_runtime_context", lambda: job)
    waiting, trial = Waiting(study), SimpleNamespace(status="PENDING")
    for clock[0] in (6.0, 12.0):
        waiting.on_step_begin(0, [trial])
    assert study.stage == "waiting for a free place on the cluster (4 of 4 CPUs in use)"
    groups["b"]["state"] = "CREATED"
    clock[0] = 18.0
    waiting.on_step_begin(0, [trial])
    assert study.stage == ""


@pytest.mark.parametrize(
    ("devices", "workers", "share"), [(8, 8, 1), (8, 3, 1), (8, 9, 0.5), (1, 4, 0.25), (0, 8, 1)]
)
def test_workers_share_the_gpus_of_the_whole_cluster(
    monkeypatch: pytest.MonkeyPatch, devices: int, workers: int, share: float
) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"GPU": float(devices)} if devices else {})
    assert gpu_share(workers) == share


@pytest.mark.parametrize(("mode", "hint"), [(None, True), ("token", False)])
def test_a_cluster_that_refuses_a_driver_is_one_line_with_what_a_token_needs(
    monkeypatch: pytest.MonkeyPatch, mode: str | None, hint: bool
) -> None:
    def refuse(**given: Any) -> None:
        raise ConnectionError("Failed to connect\nto it")

    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    monkeypatch.setattr("ray.init", refuse)
    with pytest.raises(HarnessError) as caught:
        _start(1, "auto")
    said = str(caught.value)
    assert said.startswith("Ray does not answer at --address auto: Failed to connect to it")
    assert ("RAY_AUTH_MODE=token" in said) is hint


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
    while not descendants(driver) and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(1)
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,comm="], capture_output=True, text=True, check=True)
    rows = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
    servers = {name: int(pid) for pid, parent, name in rows if int(parent) == driver.pid}
    open_to = _listening({servers["raylet"], servers["gcs_server"]})
    os.kill(servers["raylet"], signal.SIGKILL)
    said = driver.communicate(timeout=100)[1].decode()
    assert driver.returncode == 2 and "Ray on this machine at 127.0.0.1:" in said and "has died" in said
    assert open_to and all("127.0.0.1" in place for place in open_to)


def _listening(processes: set[int]) -> list[str]:
    """The addresses at which these processes listen."""
    listed = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    return [
        line.split()[3]
        for line in listed.splitlines()
        if any(f"pid={process}," in line for process in processes)
    ]
