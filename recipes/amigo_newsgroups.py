"""20 Newsgroups (Arbel and Mairal 2022, Section 5.2, Figures 1, d to f, and 4): twelve methods, one l2
parameter for each feature, four batch sizes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from harness.plugins import Plugins
from harness.record import Record
from harness.space import complete, find_space
from recipes.comparison import best, curves_picture, first_claim, table, trials_of
from recipes.recipe import Claim, Findings, Part, Recipe, SetUp

SOLVERS = (
    *("amigo_cg", "amigo", "aid_cg", "aid_cg_ws", "aid_gd", "aid_fp", "aid_n", "itd", "reverse"),
    *("stocbio_neumann", "bsa_ws", "ttsa"),
)
ACCELERATED = ("amigo_cg", "aid_cg", "aid_cg_ws")
GRID = {"lower_steps": (10, 20), "system_steps": (5, 10), "system_step_size": (0.5, 10)}
DEFAULT = {"lower_steps": (10,), "system_steps": (10,), "system_step_size": (0.5,)}
EIGHTY = 80.0
METRICS = {
    "val_loss": "validation loss",
    "val_accuracy": "validation accuracy (%)",
    "test_accuracy": "test accuracy (%)",
}


@dataclass(frozen=True)
class Scale:
    """samples: of a trial at each batch size."""

    samples: Mapping[int, float]
    grid: Mapping[str, Sequence[float]] = field(default_factory=lambda: GRID)
    options: Mapping[str, Any] = field(default_factory=dict)


class AmigoNewsgroups(Recipe):
    title = "20 Newsgroups: Figures 1 (d to f) and 4 of Arbel and Mairal (2022)"
    scales = {
        "smoke": Scale({50: 8000}, DEFAULT, {"dataset": "drawn", "features": 500}),
        "small": Scale({100: 4e5, 1000: 1.5e6, 2000: 2e6, 4000: 3e6}, DEFAULT),
        "paper": Scale({100: 5e6, 1000: 2e7, 2000: 4e7, 4000: 8e7}),
    }

    def parts(self, scale: Scale, setup: SetUp) -> list[Part]:
        found = []
        for size, samples in scale.samples.items():
            for values in itertools.product(*scale.grid.values()):
                chosen = dict(zip(scale.grid, values, strict=True))
                words = "-".join(f"{value:g}" for value in values)
                part = Part(
                    f"batch-{size}-{words}",
                    "newsgroups",
                    list(SOLVERS),
                    samples,
                    options=scale.options,
                    spaces={name: _space(name, chosen, size) for name in SOLVERS},
                    curves=40,
                    alone=True,
                )
                found.append(part)
        return found

    def findings(self, records: Mapping[str, Record], scale: Scale, setup: SetUp) -> Findings:
        every = list(records.values())
        trials = trials_of(every)
        chosen = best(trials, "test_accuracy")
        pictures = [_picture("figure1", every, chosen, "the best configuration of each method")]
        tables = {"The best configuration of each method": _table(trials)}
        for size in scale.samples:
            own = trials[trials["param.batch_size"] == size]
            tables[f"Batches of {size}"] = _table(own)
            what = f"batches of {size}"
            pictures.append(_picture(f"figure4_{size}", every, best(own, "test_accuracy"), what))
        claims = list(_claims(trials, every))
        return Findings(claims, tables, pictures, _note(scale))


RECIPE = AmigoNewsgroups()


def _space(name: str, chosen: Mapping[str, float], size: int) -> dict[str, Any]:
    """A point of the shipped grid; BSA's number of lower steps is its `growth`."""
    plugin = Plugins().solver(name)
    space = find_space("newsgroups", None).space(name, plugin)
    point = {**chosen, "growth": chosen["lower_steps"], "batch_size": size}
    searched = {key: point[key] for key, entry in space.entries.items() if "choices" in entry}
    return complete(space, plugin, searched, name)


def _note(scale: Scale) -> str:
    return f"""One trial for each method, batch size ({", ".join(map(str, scale.samples))}, the same
at both levels) and point of the grid ({
        ", ".join(f"{name} {list(values)}" for name, values in scale.grid.items())
    }); alpha = gamma = 100.
Of each method the trial of the lowest validation loss at the
end counts. All trials of a batch size have the same samples. Seconds leave out the metrics; the
paper's are of a GPU."""


def _table(trials: pd.DataFrame) -> str:
    metrics = {"val_loss": ".4f", "val_accuracy": ".1f", "test_accuracy": ".1f"}
    return table(trials, metrics, ("batch_size", *GRID))


def _picture(name: str, records: Sequence[Record], chosen: pd.DataFrame, what: str) -> Any:
    axes = {"seconds": "seconds", "ledger.total": "samples"}
    return curves_picture(name, f"Curves of {what}.", records, METRICS, axes, chosen)


def _claims(trials: pd.DataFrame, records: Sequence[Record]) -> Iterator[Claim]:
    values = {name: best(trials, name)["value"] for name in METRICS}
    yield first_claim("AmIGO-CG has the lowest validation loss", values["val_loss"], "amigo_cg", -1)
    for name in ("val_accuracy", "test_accuracy"):
        yield first_claim(f"AmIGO-CG has the highest {METRICS[name]}", values[name], "amigo_cg", 1)
    plain = [name for name in values["val_loss"].index if name not in ACCELERATED]
    claim = "AmIGO has the lowest validation loss of the methods without conjugate gradients"
    yield first_claim(claim, values["val_loss"], "amigo", -1, plain)
    own = trials[trials["solver"] == "amigo_cg"]
    curves = pd.concat([record.curves[record.curves["solver"] == "amigo_cg"] for record in records])
    highest = float(curves["metric.test_accuracy"].max())
    numbers = f"highest along {len(own)} trials: {highest:.1f} %"
    yield Claim("AmIGO-CG exceeds 80 % test accuracy", highest > EIGHTY, numbers)
