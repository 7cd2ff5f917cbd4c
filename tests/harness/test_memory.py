"""A pack too large for the memory runs in halves, down to single trials, and leaves nothing behind."""

import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.batch import Batch
from harness.launch import Search, make_spec
from harness.result import Result
from harness.rules import Rules
from harness.sizing import Packing
from harness.space import find_space
from harness.study import ATTEMPTS, Study
from harness.worker import Context, Pack, Worker, set_up
from tests.harness.test_study import SPACE, TOY

CONTEXT = Context("toy_quadratic", {}, None, 1, "cpu", [str(TOY)], Rules(300.0, {}, 1, curves=0))
KERNELS_WORDS = (
    "[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory: Error code 12"
)


def _pack(trials: int) -> Pack:
    return Pack("toy_solver", tuple(range(trials)), ({"steps": 3, "step_size": 0.1},) * trials)


def _capped(room: int, error: Exception) -> Worker:
    """A worker whose problem has room for so many trials, and none while arrays of a pack before live."""
    worker, left = Worker(CONTEXT), list["weakref.ref[Tensor]"]()
    derived = worker.problem.lower_gradient

    def lower_gradient(x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        scratch = torch.zeros(len(x), 1000)
        if len(x) > room or any(array() is not None for array in left):
            left.append(weakref.ref(scratch))
            raise type(error)(*error.args)
        found: Tensor = derived(x, y, batch)
        return found

    vars(worker.problem)["lower_gradient"] = lower_gradient
    return worker


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(KERNELS_WORDS)])
def test_a_pack_that_is_out_of_memory_is_halved_until_it_fits(error: Exception) -> None:
    """From then on no larger one of that solver is tried."""
    worker = _capped(room=3, error=error)
    results = [*worker.run(_pack(16)), *worker.run(_pack(5))]

    assert [result.state for result in results] == ["completed"] * 21
    assert [result.pack for result in results] == [2] * 16 + [2, 2, 2, 2, 1]


def test_a_trial_that_is_out_of_memory_alone_has_failed() -> None:
    results = _capped(room=0, error=torch.OutOfMemoryError("CUDA out of memory")).run(_pack(2))

    assert [result.state for result in results] == ["failed"] * 2
    assert "out of memory" in results[0].reason


def test_another_error_is_found_by_running_trials_alone() -> None:
    worker = _capped(room=3, error=ValueError("wrong"))
    results = worker.run(_pack(8))

    assert {(result.state, result.pack) for result in results} == {("completed", 1)}


def _study(folder: Path, trials: int) -> Study:
    """A new one, all of whose trials make a pack."""
    space, plugins = folder / "space.toml", CONTEXT.find_plugins()
    space.write_text(SPACE)
    solvers = {"toy_solver": plugins.solver("toy_solver")}
    search = Search(trials, "toy_solver", space, "random", None, published=False)
    found = find_space("toy_quadratic", space, list(solvers))
    spec = make_spec(CONTEXT, search, plugins.problem("toy_quadratic"), solvers, found)
    spec.write(folder)
    return Study(folder, spec, set_up(plugins, CONTEXT), solvers, Packing(trials))


def test_the_pack_of_a_worker_that_died_is_halved(tmp_path: Path) -> None:
    """A trial alone is tried again, as often as a worker may die of it."""
    study = _study(tmp_path, trials=8)
    deaths, ended = 0, list[Pack]()
    while (pack := study.next_pack()) is not None:
        if 4 in pack.numbers:
            study.died(pack, "killed")
            deaths += 1
        else:
            study.record(pack, [Result(config=config, objective=0.0) for config in pack.configs])
            ended.append(pack)

    assert sorted(len(pack.numbers) for pack in ended) == [1, 2, 4]
    assert deaths == 3 + ATTEMPTS
    assert study.tallies["toy_solver"].states == {"completed": 7, "diverged": 0, "failed": 1}
