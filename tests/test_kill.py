"""A driver killed with SIGKILL at random moments loses packs in flight and nothing else."""

import math
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from harness.record import JOURNAL, load_record
from upkeep import kills

KILLS = 3


def _command(out: Path) -> list[str]:
    return [
        *(str(Path(sys.executable).with_name("harness")), "run", "data_poisoning", "--set", "dataset=digits"),
        *("--solvers", "bsgm,stocbio", "--trials", "12", "--budget", "40000", "--seed", "3", "--pack", "2"),
        *("--executor", "inline", "--out", str(out)),
    ]


def _numbers(folder: Path) -> pd.DataFrame:
    """The record without what depends on the clock."""
    trials = load_record(folder).trials
    return trials.drop(columns=["seconds", "evaluation_seconds"]).sort_values(
        ["solver", "number"], ignore_index=True
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_end_a_driver_as_an_interrupt_does(tmp_path: Path, number: signal.Signals) -> None:
    driver = subprocess.Popen(
        _command(tmp_path / "s"),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # under nohup it would be ignored, rightly
    )
    deadline = time.monotonic() + 120
    journal = tmp_path / "s" / JOURNAL
    while not (journal.exists() and b'"result"' in journal.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.02)
    driver.send_signal(number)
    said = driver.communicate(timeout=120)[1]
    assert driver.returncode == 130 and "interrupted: what is recorded" in said


@pytest.mark.timeout(600)
def test_a_study_killed_at_random_moments_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    begun = time.monotonic()
    subprocess.run(_command(whole), check=True, capture_output=True)
    length = time.monotonic() - begun
    draw, hits = random.Random(0), 0
    for _ in range(KILLS):
        driver = subprocess.Popen(_command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        size = (killed / JOURNAL).stat().st_size if (killed / JOURNAL).exists() else 0
        while time.monotonic() < deadline and driver.poll() is None:
            if (killed / JOURNAL).exists() and (killed / JOURNAL).stat().st_size > size:
                break
            time.sleep(0.02)
        time.sleep(draw.uniform(0, length / 6))
        hits += driver.poll() is None
        driver.kill()
        driver.wait()
    assert hits

    subprocess.run(_command(killed), check=True, capture_output=True)

    pd.testing.assert_frame_equal(_numbers(killed), _numbers(whole), check_exact=True)


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        (lambda t: t, "equal"),
        (lambda t: t.assign(loss=t["loss"] * (1 + 1e-15)), "equal to 1e-15"),
        (lambda t: t.assign(loss=t["loss"] + 1e-9), "DIFFERS"),
        (lambda t: t.assign(loss=[2.0, 1.0, math.nan]), "DIFFERS"),
        (lambda t: t.assign(loss=[1.0, math.nan, math.nan]), "DIFFERS"),
        (lambda t: t.assign(lower_gradient=t["lower_gradient"] + 1), "DIFFERS"),
        (lambda t: t.assign(trial=["a/1", "a/0", "a/2"]), "DIFFERS"),
        (lambda t: t.iloc[:2], "DIFFERS"),
        (lambda t: t.assign(more=1), "DIFFERS"),
    ],
)
def test_the_recipe_of_kills_lets_only_rounding_through(
    changed: Callable[[pd.DataFrame], pd.DataFrame], word: str
) -> None:
    wanted = pd.DataFrame(
        {"trial": ["a/0", "a/1", "a/2"], "loss": [1.0, 2.0, math.nan], "lower_gradient": [10, 20, 30]}
    )
    assert kills.verdict((changed(wanted), wanted), (wanted, wanted)) == (word != "DIFFERS", word)
