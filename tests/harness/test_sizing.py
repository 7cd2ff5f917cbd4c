"""How many trials fit in a worker: what grows with a configuration counts; no pack exceeds the room."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.check import CPU, F64, Counting
from harness.launch import Execution
from harness.problem import Problem
from harness.sizing import MOST_ON_CPU, SHARE, Packing, pack_bytes
from harness.solver import Held, Solver
from problems.equilibrium import Equilibrium
from solvers.amigo import Amigo
from solvers.bsgm import Bsgm
from solvers.itd import Itd

BSGM: dict[str, Any] = {
    **{"lower_steps": 3, "system_steps": 3, "cross_batches": 1, "upper_batch_size": 0},
    **{"upper_step_size": 0.1, "lower_step_size": 0.1, "system_step_size": 0.1},
}


def _counting() -> Counting:
    problem = Counting()
    problem.setup(None, 0, CPU, F64)
    return problem


@pytest.fixture(scope="module")
def equilibrium() -> Equilibrium:
    problem = Equilibrium(dataset="digits", width=20, evaluation_examples=60)
    problem.setup(None, 0, CPU, problem.dtype)
    return problem


def _itd(lower_steps: int) -> dict[str, Any]:
    sizes = {"lower_step_size": 0.1, "upper_step_size": 0.1}
    return {"lower_steps": lower_steps, "batch_size": 5, "upper_batch_size": 0, **sizes}


def test_a_trail_of_iterates_is_counted_for_the_trial_that_leaves_it() -> None:
    """ITD holds a lower variable for each of its lower steps."""
    problem = _counting()
    few, many = (pack_bytes(problem, Itd, [_itd(t)]) for t in (10, 1010))
    both = pack_bytes(problem, Itd, [_itd(10), _itd(1010)])

    assert many - few == 1000 * problem.dim_y * problem.dtype.itemsize
    assert both == pytest.approx(few + many, rel=1e-12)
    assert pack_bytes(problem, Bsgm, [BSGM | {"batch_size": 5}]) < few


def test_by_example_every_variable_is_as_long_as_its_mini_batch(equilibrium: Equilibrium) -> None:
    def own(solver: type[Solver[Any]], size: int) -> float:
        config = BSGM | {"batch_size": size}
        return pack_bytes(equilibrium, solver, [config]) - equilibrium.memory(1, size)

    small, large = own(Bsgm, 100), own(Bsgm, 1100)
    assert large - small == 1000 * Held(x=4, y=6).y * equilibrium.dim_y * 4
    assert equilibrium.memory(1, 1100) > equilibrium.memory(1, 100)
    assert own(Bsgm, 10**6) == own(Bsgm, equilibrium.upper_examples)


def test_by_example_what_the_engine_remembers_is_counted(equilibrium: Equilibrium) -> None:
    """A row for every example of each field that is warm-started: two of AmIGO's, none of BSGM's."""
    config = BSGM | {"batch_size": 100}
    cold, warm = (pack_bytes(equilibrium, solver, [config]) for solver in (Bsgm, Amigo))

    assert warm - cold == 2 * equilibrium.upper_examples * equilibrium.dim_y * 4
    thrice = pack_bytes(equilibrium, Amigo, [config] * 3) - equilibrium.memory(3, 100)
    assert thrice == 3 * (warm - equilibrium.memory(1, 100))


@dataclasses.dataclass(kw_only=True)
class Free(Counting):
    """A problem that needs no memory of its own."""

    def memory(self, pack: int, batch_size: int | None) -> int:
        return 0


@given(
    steps=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    most=st.integers(1, 6),
    room=st.integers(100, 8000),
)
def test_packs_are_cut_in_order_and_as_large_as_they_fit(steps: list[int], most: int, room: int) -> None:
    problem: Problem = Free()
    problem.setup(None, 0, CPU, F64)
    configs = [_itd(t) for t in steps]
    cuts = list(Packing(most, room).cut(problem, Itd, configs))

    assert sum((configs[cut] for cut in cuts), []) == configs
    for cut in cuts:
        pack = configs[cut]
        assert 1 <= len(pack) <= most
        assert len(pack) == 1 or pack_bytes(problem, Itd, pack) <= room
        longer = configs[cut.start : cut.stop + 1]
        assert len(pack) == most or longer == pack or pack_bytes(problem, Itd, longer) > room


def test_a_number_of_trials_is_a_most_and_memory_allows_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight trials of SABA's tables were 23 GB, and the kernel killed the driver."""
    monkeypatch.setattr("harness.sizing.free_memory", lambda device: 10**9)
    spec: Any = SimpleNamespace(
        rules=SimpleNamespace(evaluate_at=()), solvers=["a"], trials_of=lambda solver: 40
    )

    asked, auto = (Execution("inline", None, None, pack).packing_of("cpu", spec) for pack in ("30", "auto"))
    assert (asked.most, auto.most) == (30, MOST_ON_CPU) and asked.room == auto.room == SHARE * 10**9
    assert Execution("ray", 2, "auto", "7").packing_of("cuda", spec).room is None
