"""`harness check SOLVER`: honest methods pass, every planted mistake is caught by its check."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.check import CPU, F64, ExactQuartic, Verdict, fresh_process, judged, solver_checks
from harness.check.convergence import Convergence
from harness.cli import main
from harness.errors import PluginError
from harness.plugins import Plugins
from tests.harness.planted import SOLVER_MISTAKES, Mistake, RightSolver, RightState, build, checks_of


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Executor]:
    with fresh_process() as process:
        yield process


def _registered(name: str) -> type:
    return Plugins().solver(name)


LONG = ("hypergradient", "convergence", "mini-batches")  # `make check-solvers`; in CI of these, one of a kind
OF_A_KIND = ("amigo", "itd", "soba", "f2sa")
CHECKED = (
    *OF_A_KIND,
    "aid_cg",
    "alset",
    "bsa",
    "f2ba",
    "fsla",
    "meha",
    "pzobo",
    "random_x",
    "saba",
    "stable",
    "vrbo",
)


def _failed(name: str, elsewhere: Executor, chosen: Callable[[str], bool]) -> list[Verdict]:
    every = solver_checks(partial(_registered, name), elsewhere, packs=1)
    checks = {check: run for check, run in every.items() if chosen(check)}
    return [verdict for verdict in judged(checks) if not verdict.holds]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in CHECKED else pytest.mark.slow)
        for name in Plugins().names("solver")
    ],
)
def test_every_registered_solver_keeps_the_rules(name: str, elsewhere: Executor) -> None:
    failed = _failed(name, elsewhere, lambda check: check not in LONG)

    assert not failed, "\n".join(map(str, failed))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in OF_A_KIND else pytest.mark.slow)
        for name in Plugins().names("solver")
    ],
)
def test_every_registered_solver_finds_what_it_looks_for(name: str, elsewhere: Executor) -> None:
    failed = _failed(name, elsewhere, lambda check: check in LONG)

    assert not failed, "\n".join(map(str, failed))


@pytest.mark.parametrize("base", ["RightSolver", "RightRandomised"])
def test_the_right_ones_pass(base: str, elsewhere: Executor) -> None:
    failed = [verdict for verdict in judged(checks_of(base, "", elsewhere)) if not verdict.holds]

    assert not failed, "\n".join(map(str, failed))


@pytest.mark.parametrize("mistake", SOLVER_MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_is_caught(mistake: Mistake, elsewhere: Executor) -> None:
    check = checks_of(mistake.base, mistake.name, elsewhere)[mistake.check]
    (verdict,) = judged({mistake.check: check})

    assert not verdict.holds
    assert not verdict.said.startswith("raised"), verdict


def test_every_check_runs_though_others_fail_or_raise() -> None:
    def fails() -> str:
        raise PluginError("found 1, expected 2")

    def raises() -> str:
        raise ValueError("two\nlines")

    one, two, three = (str(v) for v in judged({"one": fails, "two": raises, "three": lambda: "fine"}))

    assert one == "fails: one: found 1, expected 2" and three == "holds: three: fine"
    assert re.fullmatch(r"fails: two: raised ValueError: two lines \(test_check_solver\.py:\d+\)", two)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstOrder(build("RightSolver")):  # type: ignore[misc]
    """Its hypergradient is d_x f + C z after a tenth of the steps that z needs."""

    floor = "the system is left after its first steps"

    def step(self, oracle, state: RightState) -> RightState:  # type: ignore[no-untyped-def]
        short = dataclasses.replace(self, system_step_size=self.system_step_size / 1000)
        return RightSolver.step(short, oracle, state)


def test_a_documented_floor_holds_and_an_undocumented_one_fails() -> None:
    silent = dataclasses.make_dataclass(
        "Silent", [], bases=(FirstOrder,), frozen=True, kw_only=True, namespace={"floor": ""}
    )
    (with_word,) = judged({"hypergradient": Convergence(FirstOrder).checks()["hypergradient"]})
    (without,) = judged({"hypergradient": Convergence(silent).checks()["hypergradient"]})

    assert with_word.holds and "left after its first steps" in with_word.said
    assert not without.holds


def test_the_exact_answers_are_those_of_a_dense_computation() -> None:
    """The hypergradient is the derivative of f(x, y*(x)), with y* by plain gradient steps."""
    problem = ExactQuartic()
    problem.setup(None, 0, CPU, F64)
    lower, upper = torch.arange(problem.lower_examples), torch.arange(problem.upper_examples)

    def total(x: Tensor) -> Tensor:
        y = torch.zeros(problem.dim_y, dtype=F64)
        for _ in range(150):
            with torch.enable_grad():
                slope = torch.func.grad(lambda y: problem.lower_loss(x, y, lower).mean())(y)
            y = y - 1.5 * slope
        return problem.upper_loss(x, y, upper).mean()

    x = torch.tensor([0.3, -1.0, 0.7, 1.4], dtype=F64)
    expected = torch.func.grad(total)(x)

    torch.testing.assert_close(problem.hypergradient(x.unsqueeze(0))[0], expected, rtol=1e-9, atol=0)
    assert float(problem.hypergradient(problem.solution.unsqueeze(0)).abs().max()) < 1e-14
    assert float(problem.solution.abs().max()) < 1.9


def test_the_command_says_so_and_ends_with_a_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For anybody's file, wrong in one place; the fresh process reads that file too."""
    source = (Path(__file__).parents[2] / "solvers" / "amigo.py").read_text("utf-8")
    wrong = source.replace("class Amigo", "class Mine").replace("x, y, z, f_x)", "x, y, -z, f_x)")
    (tmp_path / "mine.py").write_text(wrong)
    monkeypatch.setattr("sys.argv", ["harness", "check", "mine", "--plugin", str(tmp_path / "mine.py")])
    with pytest.raises(SystemExit) as ended:
        main()
    *lines, last = capsys.readouterr().out.splitlines()
    failed = {line.split(": ")[1] for line in lines if line.startswith("fails: ")}
    held = {line.split(": ")[1] for line in lines if line.startswith("holds: ")}

    assert ended.value.code == 1 and len(failed) + len(held) == len(lines) == 13
    assert "hypergradient" in failed and {"ledger", "fresh process"} <= held
    assert last == f"mine: {len(failed)} of 13 checks fail"
