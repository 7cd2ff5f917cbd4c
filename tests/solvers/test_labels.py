"""Labels are what tables tell methods apart by."""

from harness.plugins import Plugins


def test_no_two_methods_share_a_label_and_stochbio_says_whose() -> None:
    plugins = Plugins()
    labels = {name: plugins.solver(name).label for name in plugins.names("solver")}

    assert len(set(labels.values())) == len(labels)
    assert labels["stocbio"] == "StochBiO (Grazzi et al.)"
    assert labels["stocbio_neumann"] == "StochBiO (Ji et al.)"
