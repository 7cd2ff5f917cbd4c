"""Short plays of `upkeep` for clusters and for plug-ins that misbehave."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from upkeep.machines import possible

ROOT = Path(__file__).parents[1]


def play(module: str, *words: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nodes_that_lack_something_or_are_switched_off_leave_the_record_as_it_is() -> None:
    if not possible():
        pytest.skip("this system makes no namespaces")
    play("upkeep.clusters", "--scenes", "a_node_lacks_something,a_node_is_switched_off")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_study_on_a_cluster_that_is_disturbed_at_random_leaves_the_same_record() -> None:
    if not possible():
        pytest.skip("this system makes no namespaces")
    play("upkeep.kills", "--rounds", "1", "--cluster")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_tenth_of_the_plug_ins_that_misbehave_harms_nobody() -> None:
    play("upkeep.misbehaviour", "--executors", "inline", "--every", "10")


def test_ray_takes_the_cluster_of_the_page() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    (text,) = (ROOT / "docs" / "cluster.md").read_text("utf-8").split("```yaml\n")[1:]
    validate_config(prepare_config(yaml.safe_load(text.split("```")[0])))
