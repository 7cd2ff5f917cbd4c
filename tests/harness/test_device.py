"""What is asked of a GPU, and of whom: the driver opens none, and workers share one as they are told."""

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.commands import replay_trial
from harness.device import ALLOCATOR, check_device, described, prepare
from harness.errors import HarnessError
from harness.exchange import read_results
from harness.launch import Execution
from harness.record import Results
from harness.rules import Rules
from harness.sizing import MOST_ON_CPU, SHARE, Packing, auto_packing
from harness.spec import StudySpec
from harness.worker import Context
from tests.harness.test_study import OLD

CUDA = torch.device("cuda")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)


def test_a_head_node_needs_no_gpu(no_gpu: None) -> None:
    assert check_device("cuda", elsewhere=True) == "cuda"
    assert check_device("auto", elsewhere=True) == "cpu"
    with pytest.raises(HarnessError, match="sees no CUDA device here"):
        check_device("cuda")


def test_a_gpu_is_filled_by_what_its_own_machine_says(no_gpu: None) -> None:
    """Its driver asks nobody before there is a worker; a CPU has small packs, as before."""
    packing = auto_packing("cuda", workers=2, trials=500)

    assert packing == Packing(250, None)
    assert packing.on(1000, 0.5) == Packing(250, SHARE * 500)
    assert Packing(3).on(1000, 0.5) == Packing(3, math.inf)
    assert auto_packing("cpu", workers=2, trials=500).most == MOST_ON_CPU
    assert Execution("ray", 2, "auto", "7").pack == "7"


def test_a_worker_takes_its_share_and_computes_with_all_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []
    monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", lambda *words: taken.append(words))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "Some GPU")
    torch.backends.cudnn.allow_tf32 = True  # PyTorch's default
    monkeypatch.setenv(ALLOCATOR, "")
    monkeypatch.delenv(ALLOCATOR)
    assert described(CUDA).endswith("TF32 on")
    prepare(CUDA, 0.25)
    prepare(CUDA, 1.0)

    assert taken == [(0.25, 0)] and described(CUDA).startswith("Some GPU, CUDA ")
    assert described(CUDA).endswith("TF32 off") and os.environ[ALLOCATOR] == "expandable_segments:True"
    assert described(torch.device("cpu")) == "cpu"


@pytest.mark.parametrize(
    "line",
    [
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (root@builder)",
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue Jan 13 01:27:18 UTC 2026",
    ],
)
def test_the_driver_is_read_from_either_kind_of_module(
    line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("harness.device.DRIVER", tmp_path / "version")
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "Some GPU")
    (tmp_path / "version").write_text(line + "\nGCC version: gcc version 13.2.0\n", encoding="utf-8")

    assert "driver 580.159.04," in described(CUDA)


def test_a_share_of_a_gpu_travels_to_the_worker() -> None:
    context = Context("quadratic", {}, None, 1, "cuda", [], Rules(1.0, {}, 1), device_share=0.25)

    assert Context.from_json(context.to_json()) == context


def test_a_study_of_a_gpu_that_is_not_here_is_replayed_on_the_cpu_with_a_word(
    no_gpu: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(context: Context) -> None:
        raise HarnessError(f"on {context.device}")

    monkeypatch.setattr("harness.commands.Worker", stop)
    monkeypatch.setattr("harness.commands.read_results", _on_a_gpu)
    with pytest.raises(HarnessError, match="on cpu"):
        replay_trial(OLD, "bsgm/26", 1e-3, [], None, "study")
    assert "the study ran on a GPU, and none is here" in capsys.readouterr().err


def _on_a_gpu(folder: Path) -> tuple[StudySpec, Results]:
    spec, results = read_results(folder)
    return spec.model_copy(update={"versions": spec.versions | {"device": "cuda"}}), results
