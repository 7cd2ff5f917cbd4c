"""Solvers on a pretend CUDA device (`pretend.py`), and on a GPU where there is one (`real/`), each in a
process of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.gpu.build import COMPILER, LIBRARY, SOURCE, build
from tests.problems.closed_forms import needs_data

ROOT = SOURCE.parents[2]
ALL = sorted(
    name.split("=")[0].strip()
    for name in (ROOT / "pyproject.toml").read_text("utf-8").partition('"harness.solvers"]')[2].splitlines()
    if '= "solvers.' in name
)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if torch.cuda.device_count():
        pytest.skip("a GPU is here, and with PyTorch's CUDA the pretend device cannot stand in for it")
    if shutil.which(COMPILER) is None:
        pytest.skip(f"no {COMPILER}, which builds the pretend device")
    return build(tmp_path_factory.mktemp("gpu"))


def lines(library: Path | None, module: str, *words: str) -> list[dict[str, Any]]:
    """What a module of this folder prints, as JSON. library: of the pretend device."""
    return [json.loads(line) for line in printed(library, module, *words).splitlines()]


def printed(library: Path | None, module: str, *words: str) -> str:
    command = [sys.executable, "-m", f"tests.gpu.{module}", *words]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    around = os.environ | {LIBRARY: str(library), "PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, env=around, cwd=library and library.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_some_solvers_run_on_a_device_and_give_the_cpus_numbers(library: Path) -> None:
    """Packs with ragged counts, trials that drop out, that diverge; evaluations and curves."""
    names = ["data_poisoning", "equilibrium", "quadratic_noisy"]
    found = lines(library, "matrix", *names, "--solvers", "bsgm,amigo_cg,saba")

    assert [line for line in found if line.get("error") or line["differs"]] == []
    ends = [end for line in found for case in line["ends"] for end in case]
    assert len(found) == 7 and any("diverged" in end for end in ends)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_solver_runs_on_a_device_and_gives_the_cpus_numbers(library: Path) -> None:
    found = lines(library, "matrix")

    assert [line for line in found if line.get("error") or line["differs"]] == []
    assert {line["solver"] for line in found} == set(ALL)


def test_a_pack_too_large_for_the_device_runs_in_parts_that_fit(library: Path) -> None:
    """What an attempt leaves is freed before the next; a trial that does not fit alone has failed."""
    none, one, some = lines(library, "memory")

    assert set(none["states"]) == {"failed"}
    assert set(one["states"]) == set(some["states"]) == {"completed"}
    assert set(one["packs"]) == {1} and set(some["packs"]) == {4}
    assert one["objectives"] == some["objectives"] and none["left"] == one["left"] == some["left"]


def waits(line: dict[str, Any]) -> dict[str, float]:
    """By phase, how often the host waits for the device."""
    return {phase: counts["wait"] for phase, counts in line["table"].items()}


def test_nothing_waits_in_a_loop_and_no_trial_costs_a_launch(library: Path) -> None:
    """Once where x moves, once for divergence, once at a point of a curve, however many trials there are; at
    their end each has its output copied."""
    one, four = lines(library, "counts", "--trials", "2,4")

    found = waits(four)
    assert found == waits(one)
    for line in (one, four):
        del line["table"]["upper iteration, the rest"]
    assert one["table"] == four["table"]
    assert {phase for phase in found if phase.endswith("step")} >= {"lower step", "retraining step"}
    assert {phase: number for phase, number in found.items() if number} == {
        **{"projected step": 1, "upper iteration, the rest": 1, "curve point": 1, "evaluation": 2},
    }


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("problem", ["data_poisoning", "quadratic_noisy", "equilibrium"])
def test_no_solver_waits_in_a_loop(library: Path, problem: str) -> None:
    found = lines(library, "counts", problem, "--solvers", "all", "--trials", "3")

    loops = {
        (line["solver"], phase): n for line in found for phase, n in waits(line).items() if "step" in phase
    }
    assert {place for place, n in loops.items() if n and place[1] != "projected step"} == set()


def test_the_command_line_takes_the_device_that_is_there_and_records_it(library: Path) -> None:
    (line,) = lines(library, "study", str(library.parent / "study"))

    words = "Pretend, CUDA ?, driver ?, TF32 off"
    assert line["codes"] == [0, 0, 0] and "the same" in line["compared"]
    assert line["devices"] == [words] and line["trial"] == words
    assert line["packs"] == [3] * 6  # auto: a whole solver's trials, as they fit


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_workers_on_one_device_that_are_killed_leave_the_same_record(library: Path) -> None:
    """Two of Ray's, each with half of it, in every other round."""
    words = ["--device", "cuda", "--budget", "400", "--rounds", "2"]
    printed(library, "everywhere", sys.executable, "-m", "upkeep.kills", *words)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_a_trial_takes_is_reckoned_for_every_solver(library: Path) -> None:
    """Copies of the state, iterates kept, tables; a few percent are within what packs may not take."""
    found = lines(library, "peaks")

    assert [line for line in found if line["peak"] > 1.05 * line["reckoned"]] == []


real = pytest.mark.skipif(torch.cuda.device_count() == 0, reason="no GPU here")


@real
def test_a_gpu_gives_the_cpus_numbers() -> None:
    """To the rounding of its kernels, but where that decides on the CPU as well."""
    found = lines(None, "real.matrix", "data_poisoning", "quadratic_noisy", "--solvers", "bsgm,amigo_cg,saba")

    assert len(found) == 6 and [line for line in found if line.get("error") or line["differs"]] == []


@real
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_gpu_gives_the_cpus_numbers_for_every_solver() -> None:
    found = lines(None, "real.matrix")

    assert [line for line in found if line.get("error") or line["differs"]] == []


@real
@needs_data
def test_a_pack_too_large_for_a_gpu_runs_in_parts_that_fit() -> None:
    none, some, more = lines(None, "real.memory")

    assert set(none["states"]) == {"failed"}
    assert set(some["states"]) == set(more["states"]) == {"completed"}
    assert max(some["packs"]) < max(more["packs"]) and some["left"] == more["left"]
