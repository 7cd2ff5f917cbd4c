"""What a method is called, and the schedules that it has unless told otherwise."""

import dataclasses

import pytest

from harness.plugins import Plugins


def test_no_two_methods_share_a_label_and_stochbio_says_whose() -> None:
    plugins = Plugins()
    labels = {name: plugins.solver(name).label for name in plugins.names("solver")}

    assert len(set(labels.values())) == len(labels)
    assert labels["stocbio"] == "StochBiO (Grazzi et al.)"
    assert labels["stocbio_neumann"] == "StochBiO (Ji et al.)"


DECAYS = {  # each with its source in the docstring of its solver
    "f2sa": {"upper": 5 / 7, "penalised": 5 / 7, "lower": 4 / 7, "penalty": 6 / 7},
    "fsla": {"upper": 1 / 2, "lower": 1 / 2, "system": 1 / 2},
    "ma_soba": {},
    "mrbo": {"upper": 1 / 3, "lower": 1 / 3},
    "sa_biadam": {"upper": 1 / 2, "lower": 1 / 2},
    "saba": {},
    "soba": {},
    "stable_vr": {"upper": 1 / 3, "lower": 1 / 3},
    "sustain": {"upper": 1 / 3, "lower": 1 / 3},
    "srmba": {"upper": 1 / 3, "lower": 1 / 3},
    "ttsa": {"upper": 3 / 5, "lower": 2 / 5},
    "vr_sa_biadam": {"upper": 1 / 3, "lower": 1 / 3},
}


@pytest.mark.parametrize("name", DECAYS)
def test_schedules_fall_as_published_unless_told_otherwise(name: str) -> None:
    solver = Plugins().solver(name)
    found = {
        field.name.removesuffix("_decay"): field.default
        for field in dataclasses.fields(solver)
        if field.name.endswith("_decay") and field.default
    }

    assert found == DECAYS[name]
