"""Studies on a Ray cluster of several machines, which go, come and lack things.

    python -m upkeep.clusters --out docs/results/cluster.md

The machines are pretended on this one (upkeep/machines.py; Linux). Only the driver's has the plug-in
files, the data folder and the folder of the study. In every scene the record must equal, number for
number, that of the same study without Ray.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from upkeep.kills import HARNESS, numbers, told
from upkeep.machines import ROOT, STARTS, Machine, begin_network, child, pretend

PLUGIN = '''
import time
from dataclasses import dataclass

import numpy as np
import torch

from harness.api import Cost, Metric, Problem, Solver, State, count, real
from harness.data import data_folder
from harness.errors import HarnessError


@dataclass(kw_only=True)
class Points(Problem):
    """g = mean |y - x - a_i|^2 / 2, f = mean |y - b_i|^2 / 2; a and b are read from a file."""

    label = "points"
    reference = "upkeep/clusters.py"
    objective = "loss"
    headline = "loss"
    metric_names = {"loss": Metric("loss", "loss")}

    def setup(self, data_dir, data_seed, device, dtype):
        folder = data_folder(data_dir)
        if folder is None or not (folder / "points.npy").exists():
            raise HarnessError(f"points.npy is not in the data folder {folder}")
        made = torch.from_numpy(np.load(folder / "points.npy")).to(device, dtype)
        self.dim_x = self.dim_y = made.shape[1]
        self.lower, self.upper = made[:20], made[20:]
        self.lower_examples, self.upper_examples = len(self.lower), len(self.upper)

    def initial(self, seed):
        return torch.zeros(self.dim_x), torch.zeros(self.dim_y)

    def lower_loss(self, x, y, rows):
        return ((y - x - self.lower[rows]) ** 2).sum(1) / 2

    def upper_loss(self, x, y, rows):
        return ((y - self.upper[rows]) ** 2).sum(1) / 2

    def evaluate(self, x, y):
        return {"loss": float(((x + self.lower.mean(0) - self.upper) ** 2).mean())}


@dataclass(frozen=True, kw_only=True)
class Steady(Solver[State]):
    """A gradient step on y, then one on x; a tenth of a second each, so that a study lasts."""

    label = "steady"
    reference = "upkeep/clusters.py"
    steps: torch.Tensor = count("steps", symbol="t")
    step_size: torch.Tensor = real("step size", symbol="eta")

    def cost(self, place):
        return Cost(lower_gradient=place.lower_samples(self.steps, 5))

    def init(self, oracle):
        return State(x=oracle.x0, y=oracle.y0)

    def step(self, oracle, state):
        time.sleep(0.1)

        def body(batch, y, x, eta):
            return y - eta * oracle.lower_gradient(x, y, batch)

        y = oracle.loop("lower", self.steps, body, state.y, state.x, self.step_size, batch_size=5)
        return State(x=state.x - self.step_size * (y - state.x), y=y)
'''
SPACE = "[steady]\nsteps = 1\nstep_size = { low = 0.01, high = 0.5, log = true }\n"
TRIALS, PACK, BUDGET = 16, 2, 100
"""8 packs of 2 seconds."""
STUDY = (
    *("run", "points", "--plugin", "/tmp/mine/plugin.py", "--space", "/tmp/mine/space.toml"),
    *("--solvers", "steady", "--data-dir", "/tmp/mine/data", "--device", "cpu", "--trials", str(TRIALS)),
    *("--budget", str(BUDGET), "--pack", str(PACK)),
)
Variables = Mapping[str, str]
NONE: Variables = {}


def write_data(folder: Path) -> None:
    folder.mkdir(parents=True)
    np.save(folder / "points.npy", np.random.default_rng(0).normal(size=(30, 3)))


def write_study(folder: Path) -> None:
    """What only the driver has."""
    write_data(folder / "mine" / "data")
    (folder / "mine" / "plugin.py").write_text(PLUGIN)
    (folder / "mine" / "space.toml").write_text(SPACE)


class Driver:
    """A driver on a machine, in the folder `name` of it."""

    def __init__(
        self, machine: Machine, name: str = "study", workers: int = 2, variables: Variables = NONE
    ) -> None:
        self.folder, self.log = machine.folder / "mine" / name, machine.folder / "mine" / f"{name}.log"
        words = ("--out", f"/tmp/mine/{name}", "--address", "auto", "--workers", str(workers))
        self._process = machine.run([*HARNESS, *STUDY, *words], self.log, **variables)

    def after(self, trials: int, seconds: float = STARTS) -> Driver:
        """When so many are recorded."""
        self._until(lambda: told(self.folder) >= trials, f"{trials} trials", seconds)
        return self

    def says(self, words: str, seconds: float = STARTS) -> Driver:
        self._until(lambda: words in self.said(), repr(words), seconds)
        return self

    def _until(self, holds: Callable[[], bool], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline or (self._process.poll() is not None and not holds()):
                raise AssertionError(f"waited for {what} in vain: {self.said()[-2000:]}")
            time.sleep(0.2)

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def kill(self) -> None:
        subprocess.run(["kill", "-9", str(child(self._process.pid))], check=True)
        self._process.wait()

    def ends(self, code: int = 0) -> Driver:
        found = self._process.wait(3 * STARTS)
        assert found == code, f"exit {found} instead of {code}: {self.said()[-2000:]}"
        return self

    def line(self, beginning: str) -> str:
        """The last line that it said which begins so."""
        return [line for line in self.said().splitlines() if line.startswith(beginning)][-1]


class Lab:
    """The machines of one scene; the head has no CPU for workers and is the driver's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.machines: list[Machine] = []
        self.whole = folder.parent / "whole"

    def head(self, variables: Variables = NONE) -> Machine:
        machine = self._machine()
        write_study(machine.folder)
        machine.ray(0, **variables)
        return machine

    def node(self, lacks: str = "", variables: Variables = NONE) -> Machine:
        """One that has its own data folder and lacks something."""
        hidden = {}
        if lacks in ("the harness", "the driver's version"):
            other = self.folder / f"other-{len(self.machines)}"
            if lacks == "the harness":
                other.mkdir()
                (other / "__init__.py").write_text("raise ImportError('not installed')")
            else:
                shutil.copytree(ROOT / "harness", other)
                (other / "rules.py").open("a").write("# another version\n")
            hidden[ROOT / "harness"] = other
        machine = self._machine(hidden)
        if lacks != "the data":
            write_data(machine.folder / "data")
        machine.ray(1, self.machines[0].address, HARNESS_DATA="/tmp/data", **variables)
        return machine

    def _machine(self, hidden: dict[Path, Path] | None = None) -> Machine:
        number = len(self.machines) + 2
        machine = Machine(number, self.folder / f"machine-{number}", hidden)
        self.machines.append(machine)
        return machine

    def require_equal(self, *studies: Path) -> None:
        """Raises AssertionError where a record differs from that of the study without Ray."""
        for study in studies:
            for found, wanted in zip(numbers(study), numbers(self.whole), strict=True):
                assert found.equals(wanted), f"{study} differs:\n{found}\n{wanted}"
            assert (numbers(study)[0]["state"] == "completed").all()


# --- scenes: each says what was seen


def only_the_driver_has_files(lab: Lab) -> str:
    """Plug-in file, data folder and the study's folder are on the driver's machine only; the nodes have
    their own `$HARNESS_DATA`."""
    head, one, two = lab.head(), lab.node(), lab.node()
    driver = Driver(head).ends()
    lab.require_equal(driver.folder)
    assert all((m.folder / "home" / ".cache").exists() for m in (one, two))
    return "the plug-in file went to both nodes"


def a_node_lacks_something(lab: Lab) -> str:
    """Three nodes of four lack the data, the harness, the driver's version of it."""
    head = lab.head()
    for lacks in ("the data", "the harness", "the driver's version", ""):
        lab.node(lacks)
    driver = Driver(head, workers=4).ends()
    lab.require_equal(driver.folder)
    said = [line for line in driver.said().splitlines() if line.startswith("set aside")]
    assert len(said) == 3, driver.said()
    return "; ".join(f"`{line}`" for line in said)


def no_node_works(lab: Lab) -> str:
    """The only node lacks the data; later one joins that has them, and the same command goes on."""
    head = lab.head()
    lab.node("the data")
    said = Driver(head).ends(2).line("error")
    lab.node()
    driver = Driver(head).ends()
    lab.require_equal(driver.folder)
    return f"exit 2, `{said}`"


def a_node_is_switched_off(lab: Lab) -> str:
    """One of two nodes is switched off in mid-study."""
    head, one, _ = lab.head(), lab.node(), lab.node()
    driver = Driver(head).after(2)
    one.off()
    before = told(driver.folder)
    lab.require_equal(driver.ends().folder)
    return f"after {before} trials"


def a_node_joins(lab: Lab) -> str:
    """A second node joins in mid-study and works."""
    head, _ = lab.head(), lab.node()
    driver = Driver(head).after(2)
    second = lab.node()
    before = told(driver.folder)
    deadline = time.monotonic() + STARTS
    while not second.processes("ray::PackTrainable") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert second.processes("ray::PackTrainable")
    lab.require_equal(driver.ends().folder)
    return f"after {before} trials"


def the_driver_moves(lab: Lab) -> str:
    """The driver is killed, the study's folder copied to another machine, and the command given there."""
    head, one = lab.head(), lab.node()
    driver = Driver(head).after(4)
    driver.kill()
    before = told(driver.folder)
    shutil.copytree(head.folder / "mine", one.folder / "mine")
    driver = Driver(one).ends()
    lab.require_equal(driver.folder)
    return f"after {before} trials"


def two_studies(lab: Lab) -> str:
    """Two drivers on one cluster at once."""
    head, _, _ = lab.head(), lab.node(), lab.node()
    drivers = [Driver(head, name, workers=1) for name in ("first", "second")]
    for driver in drivers:
        driver.after(1)
    assert all(told(driver.folder) < TRIALS for driver in drivers)
    lab.require_equal(*(driver.ends().folder for driver in drivers))
    return ""


def the_head_dies(lab: Lab) -> str:
    """The driver is beside a worker; the head's machine is switched off. A new cluster, the same command."""
    head, one = lab.head(), lab.node()
    shutil.copytree(head.folder / "mine", one.folder / "mine")
    driver = Driver(one).after(2)
    head.off()
    begun = time.monotonic()
    said = driver.ends(2).line("error")
    seconds = time.monotonic() - begun
    one.off()
    later = Lab(lab.folder / "later")
    lab.machines += [head := later.head(), later.node()]
    shutil.rmtree(head.folder / "mine")
    shutil.copytree(one.folder / "mine", head.folder / "mine")
    lab.require_equal(Driver(head).ends().folder)
    return f"after {seconds:.0f} s: `{said}`"


def the_drivers_ray_dies(lab: Lab) -> str:
    """The Ray (raylet) of the driver's machine is killed, and started again."""
    head, one = lab.head(), lab.node()
    shutil.copytree(head.folder / "mine", one.folder / "mine")
    driver = Driver(one).after(2)
    subprocess.run(["kill", "-9", *map(str, one.processes("raylet"))], check=True)
    begun = time.monotonic()
    said = driver.ends(2).line("error")
    seconds = time.monotonic() - begun
    one.ray(1, head.address, HARNESS_DATA="/tmp/mine/data")
    lab.require_equal(Driver(one).ends().folder)
    return f"after {seconds:.0f} s: `{said}`"


def no_free_cpu(lab: Lab) -> str:
    """Somebody else has the only CPU, and gives it back later."""
    head, _ = lab.head(), lab.node()
    sleeping = "ray.get(ray.remote(lambda: time.sleep(9e4)).remote())"
    other = head.run([sys.executable, "-c", f"import ray, time; ray.init('auto'); {sleeping}"])
    driver = Driver(head).says("waiting for a free place on the cluster")
    subprocess.run(["kill", "-9", str(child(other.pid))], check=True)
    lab.require_equal(driver.ends().folder)
    return "`waiting" + driver.said().split("; waiting")[1].splitlines()[0] + "`"


def a_token(lab: Lab) -> str:
    """The cluster asks for a token; the driver has none, then has it."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
    head, _ = lab.head(variables=token), lab.node(variables=token)
    said = Driver(head).ends(2).line("error")
    assert "RAY_AUTH_MODE=token" in said, said
    lab.require_equal(Driver(head, variables=token).ends().folder)
    return f"exit 2, `{said}`"


SCENES = (
    *(only_the_driver_has_files, a_node_lacks_something, no_node_works, a_node_is_switched_off, a_node_joins),
    *(the_driver_moves, two_studies, the_head_dies, the_drivers_ray_dies, no_free_cpu, a_token),
)
SCENES_BY_NAME = {scene.__name__: scene for scene in SCENES}


@contextmanager
def laboratory(folder: Path) -> Iterator[Lab]:
    lab = Lab(folder)
    try:
        yield lab
    finally:
        for machine in lab.machines:
            machine.off()


def play(names: list[str], scratch: Path) -> tuple[list[str], int]:
    """Rows of the table, and how many scenes failed."""
    begin_network()
    whole = Machine(250, scratch / "inline")
    write_study(whole.folder)
    log = scratch / "inline.log"
    command = [*HARNESS, *STUDY, "--out", "/tmp/mine/study", "--executor", "inline"]
    if whole.run(command, log).wait() != 0:
        raise SystemExit(log.read_text())
    (whole.folder / "mine" / "study").rename(scratch / "whole")
    whole.off()
    rows, failures = [], 0
    for scene in [SCENES_BY_NAME[name] for name in names] or SCENES:
        begun = time.monotonic()
        with laboratory(scratch / scene.__name__) as lab:
            try:
                seen, outcome = scene(lab), "equal"
            except (AssertionError, subprocess.TimeoutExpired) as error:
                seen, outcome, failures = str(error), "**FAILED**", failures + 1
        what = " ".join((scene.__doc__ or "").split())
        rows.append(f"| {what} | {seen} | {outcome} | {time.monotonic() - begun:.0f} |")
        sys.stderr.write(rows[-1] + "\n")
    return rows, failures


HEAD = f"""# Studies on a cluster

`python -m upkeep.clusters`: a study of {TRIALS} trials in packs of {PACK}, its problem and solver in a
plug-in file, on machines that are pretended on one (each has its own address, processes and `/tmp`;
`upkeep/machines.py`). Nodes have one CPU each, the driver's machine none where nothing else is said.
*Equal*: the record is, number for number, that of the same study without Ray, and no trial failed.

| what happens | what was seen | record | seconds |
|---|---|---|--:|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scenes", default="", help="names, with commas; default: all")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        pretend("upkeep.clusters", sys.argv[1:])
    names = [name for name in options.scenes.split(",") if name]
    if unknown := set(names) - set(SCENES_BY_NAME):
        raise SystemExit(f"error: no scene {', '.join(unknown)}; valid: {', '.join(SCENES_BY_NAME)}")
    with tempfile.TemporaryDirectory() as scratch:
        rows, failures = play(names, Path(scratch))
    text = HEAD + "\n".join(rows) + "\n"
    sys.stdout.write(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    raise SystemExit(failures)


if __name__ == "__main__":
    main()
