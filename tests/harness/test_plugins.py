"""Plug-in files: registered, refused where two share a name, harmless where they are broken."""

from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.plugins import Plugins, snake_case

SOLVER = """
from dataclasses import dataclass
from solvers.bsgm import Bsgm
from harness.api import Cost, Solver

class Abstract(Solver): ...

@dataclass(frozen=True, kw_only=True)
class {name}(Solver):
    label = "mine"
    reference = "nobody"
    def cost(self, place): return Cost()
    def init(self, oracle): ...
    def step(self, oracle, state): ...
"""


def write(folder: Path, file: str, text: str) -> Path:
    (folder / file).write_text(text)
    return folder / file


def test_a_file_adds_what_it_defines_and_nothing_it_imports(tmp_path: Path) -> None:
    before = Plugins().names("solver")
    plugins = Plugins([write(tmp_path, "mine.py", SOLVER.format(name="MySolver"))])
    assert set(plugins.names("solver")) - set(before) == {"my_solver"}
    assert plugins.solver("my_solver").label == "mine"


def test_two_of_one_name_are_refused_with_both_files(tmp_path: Path) -> None:
    first = write(tmp_path, "one.py", SOLVER.format(name="Twin"))
    second = write(tmp_path, "two.py", SOLVER.format(name="Twin"))
    with pytest.raises(HarnessError) as error:
        Plugins([first, second])
    assert str(first) in str(error.value) and str(second) in str(error.value)
    with pytest.raises(HarnessError, match=r"solvers/bsgm\.py"):
        Plugins([write(tmp_path, "three.py", SOLVER.format(name="Bsgm"))])


def test_a_broken_file_is_named_and_breaks_nothing_else(tmp_path: Path) -> None:
    broken = write(tmp_path, "broken.py", "import no_such_module\n")
    plugins = Plugins([broken])
    assert "no_such_module" in plugins.broken[str(broken)]
    assert plugins.solver("bsgm").label == "BSGM"
    with pytest.raises(HarnessError, match="no_such_module"):
        plugins.solver("broken")


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(HarnessError, match="did you mean 'bsgm'"):
        Plugins().solver("bsgn")
    with pytest.raises(HarnessError, match="does not exist"):
        Plugins([Path("nowhere.py")])


def test_names_are_snake_case() -> None:
    assert [snake_case(n) for n in ("Bsgm", "AlsetDaggerDet", "VRBOSolver", "SgdV2")] == [
        *("bsgm", "alset_dagger_det", "vrbo_solver", "sgd_v2"),
    ]
