"""A solver looks the same wherever it is drawn."""

from dataclasses import replace
from itertools import combinations

from harness.plugins import Plugins
from harness.record import Record
from reports import panels
from reports.looks import look
from reports.view import View


def test_every_shipped_solver_has_a_look_of_its_own() -> None:
    names = Plugins().names("solver")
    looks = [look(name, []) for name in names]
    assert all(a != b for a, b in combinations(looks, 2))


def test_the_look_is_the_same_in_every_study(record: Record) -> None:
    fewer = {name: record.spec["solvers"][name] for name in ("alset", "bsgm")}
    one, other = View.of(record), View.of(replace(record, spec={**record.spec, "solvers": fewer}))
    assert panels.look(one, "bsgm") == panels.look(other, "bsgm")
    assert panels.look(one, "bsgm").colour == "#009E73"


def test_own_methods_have_looks_that_no_shipped_solver_has() -> None:
    shipped = [look(name, []) for name in Plugins().names("solver")]
    own = [f"my_method_{i}" for i in range(100)]
    looks = [look(name, own) for name in own]
    assert len(set(looks)) == len(own) and not set(looks) & set(shipped)
    assert look("mine", ["mine"]) == look("mine", ["bsgm", "mine", "amigo"])
    assert look("mine", [*own, *[f"more_{i}" for i in range(50)], "mine"])  # more names than looks
