"""Recorded studies made up to look real: six solvers, thirty trials each, with every outcome."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.record import Record

BUDGET = 2_000_000
SOLVERS = {
    "stocbio": ("StochBiO", 74.0, ("lower_steps", "system_steps", "lower_step_size", "system_step_size")),
    "amigo": ("Amigo", 75.0, ("lower_steps", "lower_step_size")),
    "bsgm": ("BSGM", 75.5, ("lower_steps", "lower_step_size")),
    "alset_dagger_det": ("ALSET†-DET", 80.0, ("lower_step_size",)),
    "alset_dagger": ("ALSET†", 89.5, ("lower_step_size", "system_step_size")),
    "alset": ("ALSET", 90.0, ("system_steps", "lower_step_size", "system_step_size")),
}
RANGES: dict[str, dict[str, Any]] = {
    "lower_steps": {"low": 10, "high": 10_000, "log": True, "integer": True},
    "system_steps": {"low": 10, "high": 10_000, "log": True, "integer": True},
    "upper_step_size": {"low": 1e3, "high": 1e9, "log": True, "integer": False},
    "lower_step_size": {"low": 1e-4, "high": 10.0, "log": True, "integer": False},
    "system_step_size": {"low": 1e-4, "high": 10.0, "log": True, "integer": False},
}
SYMBOLS = {
    "lower_steps": "t",
    "system_steps": "k",
    "cross_batches": "J",
    "upper_step_size": "α",
    "lower_step_size": "η_LL",
    "system_step_size": "η_LS",
    "batch_size": "b",
}


def space_of(searched: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The space of one solver: ranges for `searched` and the upper step size, else ties and fixed values."""
    space: dict[str, dict[str, Any]] = {}
    for name in ("lower_steps", "system_steps"):
        other = (
            {"tie": "lower_steps"} if "lower_steps" in searched and name == "system_steps" else {"value": 1}
        )
        space[name] = RANGES[name] if name in searched else other
    space["cross_batches"] = {"tie": "system_steps"}
    space["upper_step_size"] = RANGES["upper_step_size"]
    space["lower_step_size"] = RANGES["lower_step_size"]
    space["system_step_size"] = (
        RANGES["system_step_size"] if "system_step_size" in searched else {"tie": "lower_step_size"}
    )
    return {**space, "batch_size": {"value": 90}}


def make_spec() -> dict[str, Any]:
    return {
        "problem": "data_poisoning",
        "options": {"dataset": "mnist", "radius": 5.0, "clamp": True},
        "budget": BUDGET,
        "prices": {"lower_gradient": 1, "upper_gradient": 1, "hessian_vector": 1, "cross": 1, "value": 1},
        "trials": 30,
        "seed": 2,
        "data_seed": 2,
        "search_seed": 2,
        "sampler": "random",
        "divergence": "x0",
        "system_failure": "start",
        "evaluate_at": [0.05, 0.2, 0.5],
        "metrics": {
            "val_accuracy": {"label": "validation accuracy (%)", "short": "Val"},
            "test_accuracy": {"label": "test accuracy (%)", "short": "Test"},
            "val_loss": {"label": "validation loss", "short": "Val loss"},
        },
        "objective": "val_accuracy",
        "headline": "test_accuracy",
        "solvers": {
            name: {
                "label": label,
                "reference": "Somebody et al. 2023, Algorithm 1",
                "parameters": {p: {"symbol": s, "meaning": f"meaning of {p}"} for p, s in SYMBOLS.items()},
                "space": space_of(searched),
            }
            for name, (label, _, searched) in SOLVERS.items()
        },
    }


def draw(space: dict[str, dict[str, Any]], rng: np.random.Generator) -> dict[str, float]:
    values: dict[str, float] = {}
    for name, entry in space.items():
        if "low" in entry:
            value = float(np.exp(rng.uniform(np.log(entry["low"]), np.log(entry["high"]))))
            values[name] = int(value) if entry["integer"] else value
        else:
            values[name] = values[entry["tie"]] if "tie" in entry else entry["value"]
    return values


def make_trial(
    solver: str, number: int, rng: np.random.Generator
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One row of trials and its rows of curves."""
    label, floor, searched = SOLVERS[solver]
    values = draw(space_of(searched), rng)
    looked = 70 if solver == "alset" else 0  # samples of values of f or g
    cost = 90 * (values["lower_steps"] + values["system_steps"] + values["cross_batches"]) + 15_000 + looked
    iterations = int(BUDGET // cost)
    gain = (
        np.exp(-0.8 * (np.log10(values["upper_step_size"]) - 7) ** 2 / 2)
        * np.exp(-0.9 * (np.log10(values["lower_step_size"]) + 1.5) ** 2 / 2)
        * min(iterations, 20)
        / 20
    )
    final = 91.0 - (91.0 - floor) * gain + rng.normal(0, 0.15)
    state, reason = "completed", ""
    if values["lower_step_size"] > 4:
        state, reason, final = "diverged", "lower variable is not finite at upper iteration 2", 91.2
    if number == 13 and solver != "amigo":
        state, reason = "failed", "RuntimeError: <script>alert('x')</script> & 50 % of _memory_"
    ended = 0 if state == "failed" else iterations
    share = {
        "ledger.lower_gradient": 90 * values["lower_steps"],
        "ledger.upper_gradient": 15_000,
        "ledger.hessian_vector": 90 * values["system_steps"],
        "ledger.cross": 90 * values["cross_batches"],
        "ledger.value": looked,
    }
    identity = {"solver": solver, "number": number, "trial": f"{solver}/{number}"}
    row = {
        **identity,
        "state": state,
        "reason": reason,
        "objective": np.nan if state == "failed" else final,
        "upper_iterations": ended,
        "system_fallbacks": int(values["system_step_size"] > 2) * ended,
        "seconds": 4 + ended * cost / 2e5,
        "evaluation_seconds": 5.2,
        "evaluation_samples": 45_000_000,
        "pack": number // 8,
        "seed": 2,
        "data_seed": 2,
        **{f"param.{name}": value for name, value in values.items()},
        "metric.val_accuracy": np.nan if state == "failed" else final,
        "metric.test_accuracy": np.nan if state == "failed" else final + 2.5 + rng.normal(0, 0.1),
        "metric.val_loss": np.nan if state == "failed" else final / 40,
        **{kind: samples * ended for kind, samples in share.items()},
        "ledger.total": cost * ended,
    }
    points = np.unique(np.geomspace(1, max(ended, 1), 20).astype(int)) if ended else np.array([], dtype=int)
    curve = [
        {
            **identity,
            "upper_iteration": int(i),
            "seconds": 4 * i / max(ended, 1),
            **{kind: samples * int(i) for kind, samples in share.items()},
            "ledger.total": cost * int(i),
            "metric.val_accuracy": 91 - (91 - final) * (i / max(ended, 1)) ** 0.5 + rng.normal(0, 0.1)
            if i
            else 9.9,
            "metric.test_accuracy": 93 - (91 - final) * (i / max(ended, 1)) ** 0.5 + rng.normal(0, 0.1)
            if i
            else 9.8,
        }
        for i in [0, *points]
    ]
    return row, [] if state == "failed" else curve


def judged(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The evaluations of a trial at x0 and at shares of the budget."""
    points = []
    for share in (0.0, 0.05, 0.2, 0.5):
        done = int(share * row["upper_iterations"])
        part = done / max(row["upper_iterations"], 1)
        score = 91.2 - (91.2 - row["objective"]) * part**0.5
        points.append(
            {
                **{key: row[key] for key in ("solver", "number", "trial")},
                **{key: value * part for key, value in row.items() if key.startswith("ledger.")},
                **{"share": share, "upper_iteration": done, "seconds": 4 * part},
                **{"evaluation_samples": 45_000_000 if done or not share else 0},
                **{"metric.val_accuracy": score, "metric.test_accuracy": score + 2.5},
            }
        )
    return [] if row["state"] == "failed" else points


def make_record(trials: int = 30) -> Record:
    rng = np.random.default_rng(7)
    made = [make_trial(solver, number, rng) for solver in SOLVERS for number in range(trials)]
    return Record(
        make_spec(),
        pd.DataFrame([row for row, _ in made]),
        pd.DataFrame([point for _, c in made for point in c]),
        pd.DataFrame([point for row, _ in made for point in judged(row)]),
    )


@pytest.fixture(scope="session")
def record() -> Record:
    return make_record()
