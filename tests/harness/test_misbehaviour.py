"""A plug-in that misbehaves hurts its own trials only, and is told of."""

import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.check import judged, problem_checks
from harness.door import checked, require_declared
from harness.errors import PluginError
from harness.plugins import Plugins
from harness.record import load_record
from harness.result import Metric, Result
from tests.harness.test_study import SPACE, arguments, harness
from tests.harness.toy_plugin import ToyQuadratic

BAD = """
import dataclasses, os, sys
import numpy as np
import torch
from harness.api import Cost
from tests.harness.toy_plugin import ToySolver as _Toy

@dataclasses.dataclass(frozen=True, kw_only=True)
class Bad(_Toy):
{body}
"""
BODIES = {
    "cost raises": "    def cost(self, place): raise RuntimeError('made to')",
    "cost is None": "    def cost(self, place): return None",
    "cost is NaN": "    def cost(self, place): return Cost(lower_gradient=float('nan'))",
    "cost is odd": "    def cost(self, place): return Cost(lower_gradient=torch.zeros(7, dtype=torch.int64))",
    "cost exits": "    def cost(self, place): sys.exit(0)",
    "parameters raise": "    def __post_init__(self): raise ValueError('never')",
    "init raises": "    def init(self, oracle): raise MemoryError",
    "step exits": "    def step(self, oracle, state): sys.exit(0)",
    "says much": "    def step(self, oracle, state): raise ValueError('x\\x00\\ud800' * 10**6)",
    "raises oddly": "    def init(self, oracle): raise type('O', (OSError,), {'__str__': lambda e: 1})",
    "held raises": "    def held(self, place): raise RuntimeError('made to')",
}
PARTS = {
    "dtype": "torch.set_default_dtype(torch.float64)",
    "device": "torch.set_default_device('meta')",
    "threads": "torch.set_num_threads(2)",
    "gradients": "torch.set_grad_enabled(False)",
    "seeds": "torch.manual_seed(3); np.random.seed(3)",
    "folder": "os.chdir('/')",
    "recursion": "sys.setrecursionlimit(120)",
    "floating point": "np.seterr(all='raise')",
    "output": "print('loud'); sys.stdout.close(); sys.stderr.close()",
}
CHANGES = "    def step(self, oracle, state):\n        {line}\n        return super().step(oracle, state)"


def both(folder: Path, body: str, out: str = "s") -> list[str]:
    (folder / "bad.py").write_text(BAD.format(body=body))
    plugin = ["--plugin", str(folder / "bad.py"), "--solvers", "bad,toy_solver", "--trials", "3"]
    return arguments(folder / out, *plugin, space=SPACE + SPACE.replace("toy_solver", "bad"))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The objectives of the good solver without a bad one beside it."""
    folder = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        assert harness(patch, arguments(folder / "s", "--trials", "3")) == 0
    return objectives(folder / "s", "toy_solver")


def objectives(folder: Path, solver: str) -> list[float]:
    trials = load_record(folder).trials.sort_values("number")
    return [float(value) for value in trials[trials["solver"] == solver]["objective"]]


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_bad_solver_hurts_its_own_trials_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: list[float], body: str
) -> None:
    assert harness(monkeypatch, both(tmp_path, body)) == 0
    trials = load_record(tmp_path / "s").trials
    bad = trials[trials["solver"] == "bad"]
    assert len(bad) == 3 and (bad["state"] == ("completed" if "held" in body else "failed")).all()
    assert bad["reason"].str.len().max() <= 500
    assert objectives(tmp_path / "s", "toy_solver") == good


def test_what_a_plug_in_changes_of_the_process_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    before = Path.cwd(), torch.get_default_dtype(), torch.get_rng_state().tolist()
    lines = "; ".join(part for name, part in PARTS.items() if name != "device")
    lines += "; sys.path.clear(); os.environ.clear()"
    path, environment = set(sys.path), dict(os.environ)
    assert harness(monkeypatch, both(tmp_path, CHANGES.format(line=lines))) == 0
    assert objectives(tmp_path / "s", "toy_solver") == good
    assert (Path.cwd(), torch.get_default_dtype(), torch.get_rng_state().tolist()) == before
    assert set(sys.path) == path and dict(os.environ) == environment
    assert "loud" not in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in PARTS if name != "output"])
def test_check_notices_what_a_plug_in_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    torch.set_num_threads(1)
    scope: dict[str, Any] = {}
    exec("import os, sys, torch, numpy as np", scope)  # noqa: S102 - the lines above, as plug-ins have them

    def check() -> str:
        exec(PARTS[name], scope)  # noqa: S102
        return "well"

    (verdict,) = judged({"one": check})
    assert not verdict.holds and verdict.said.startswith("changes ")


# --- results at the worker's door


@pytest.mark.parametrize("value", [1, True, np.float32(1), np.array(1.0), torch.tensor(1), torch.ones(())])
def test_numbers_of_every_kind_become_floats(value: Any) -> None:
    point = {"upper_iteration": 1, "seconds": 0.5, "total": 3, "loss": value}
    result = checked(Result({}, metrics={"loss": value, "norm": 2.0}, objective=value, curve=[point]), TOY)
    assert result.state == "completed" and type(result.objective) is float and result.objective == 1.0
    assert [type(v) for v in result.metrics.values()] == [float, float] and type(
        result.curve[0]["loss"]
    ) is float


TOY = ToyQuadratic()
GOOD = {"loss": 1.0, "norm": 2.0}


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (None, "must be a dict"),
        (GOOD | {"loss": "low"}, "metric loss must be a number, but got 'low'"),
        (GOOD | {"norm": None}, "metric norm must be a number"),
        (GOOD | {"norm": torch.ones(2)}, "metric norm must be a number"),
        (GOOD | {"norm": 1j}, "metric norm must be a number"),
        (GOOD | {"norm": 10**400}, "beyond what a float holds"),
        (GOOD | {"loss": math.nan}, "the objective is not a number"),
        (GOOD | {"loss": np.float64("nan")}, "the objective is not a number"),
        (GOOD | {3: 1.0}, "a metric is called 3"),
        (GOOD | {"total": 1.0}, "a metric is called 'total'"),
        (GOOD | {"more": 1.0}, "differ in more"),
        ({"loss": 1.0}, "differ in norm"),
    ],
)
def test_other_metrics_make_a_failed_trial(metrics: Any, said: str) -> None:
    result = checked(Result({"a": 1}, metrics=metrics, objective=1.0), TOY)
    assert result.state == "failed" and said in result.reason and result.config == {"a": 1}
    assert result.metrics == {} and math.isnan(result.objective)


@pytest.mark.parametrize("name", ["total", "cross", "seconds", "upper_iteration", "", "a b", 3])
def test_metric_names_that_tables_cannot_hold_are_refused(name: Any) -> None:
    class Odd(ToyQuadratic):
        metric_names = {**ToyQuadratic.metric_names, name: Metric("odd", "odd")}

    with pytest.raises(PluginError, match="a metric is called"):
        require_declared(Odd)


ODD = """
from tests.harness.toy_plugin import ToyQuadratic as _Toy

class Odd(_Toy):
    def evaluate(self, x, y):
        return super().evaluate(x, y) | {odd}

    def setup(self, *given):
        {setup}
        super().setup(*given)
"""


@pytest.mark.parametrize("odd", ["{'loss': float('nan')}", "{'norm': 'high'}"])
def test_run_status_and_check_agree_on_a_bad_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], odd: str
) -> None:
    (tmp_path / "odd.py").write_text(ODD.format(odd=odd, setup=""))
    command = arguments(tmp_path / "s", "--plugin", str(tmp_path / "odd.py"), "--solvers", "toy_solver")
    command = ["odd" if word == "toy_quadratic" else word for word in command]
    assert harness(monkeypatch, command) == 0
    assert "6 trials recorded, 6 failed" in capsys.readouterr().out
    assert harness(monkeypatch, ["status", str(tmp_path / "s")]) == 0
    assert capsys.readouterr().out.split("\n")[1].split() == ["toy_solver", "6/6", "0", "6", "–", "100%"]
    checks = problem_checks(Plugins([tmp_path / "odd.py"]).problem("odd"), None)
    (verdict,) = judged({"evaluation": checks["evaluation"]})
    assert not verdict.holds and ("not finite" in verdict.said or "must be a number" in verdict.said)


def test_a_problem_that_cannot_be_set_up_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "odd.py").write_text(ODD.format(odd="{}", setup="raise ValueError('no\\nluck')"))
    command = arguments(tmp_path / "s", "--plugin", str(tmp_path / "odd.py"))
    assert harness(monkeypatch, ["odd" if word == "toy_quadratic" else word for word in command]) == 2
    assert "problem 'odd' cannot be set up: ValueError: no luck" in capsys.readouterr().err


# --- what hangs, and what ends the process

STUBBORN = """    def step(self, oracle, state):
        import signal, time
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.Signals)
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass"""
LEAVES = "    def step(self, oracle, state): os._exit(0)"


def test_a_time_limit_is_kept_whatever_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: list[float]
) -> None:
    words = both(tmp_path, STUBBORN)
    assert harness(monkeypatch, [*words, "--trial-timeout", "3", "--trials", "1"]) == 0
    trials = load_record(tmp_path / "s").trials.set_index("solver")
    assert trials.loc["bad", "reason"] == "TimeoutError: ran longer than 3 s"
    assert trials.loc["toy_solver", "objective"] == good[0]


@pytest.mark.slow
def test_a_trial_that_leaves_its_process_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: list[float]
) -> None:
    words = both(tmp_path, LEAVES)
    assert harness(monkeypatch, [*words, "--trial-timeout", "60", "--trials", "1"]) == 0
    trials = load_record(tmp_path / "s").trials.set_index("solver")
    assert "the worker died" in trials.loc["bad", "reason"]
    assert trials.loc["toy_solver", "objective"] == good[0]


@pytest.mark.parametrize(
    ("text", "limit", "said"),
    [
        (BAD.format(body=LEAVES), "60", "the plug-in ended the process"),
        (BAD.format(body=STUBBORN), "4", "no verdict within 4 s"),
        ("import os; os._exit(0)", "60", "fails: import: the plug-in ended the process"),
    ],
    ids=["leaves", "hangs", "leaves on import"],
)
def test_check_always_gives_a_verdict(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    limit: str,
    said: str,
) -> None:
    (tmp_path / "bad.py").write_text(text)
    words = ["check", "bad", "--plugin", str(tmp_path / "bad.py"), "--limit", limit]
    assert harness(monkeypatch, words) == 1
    assert said in capsys.readouterr().out


def test_a_plug_in_that_exits_on_import_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.py").write_text("import sys; sys.exit(0)")
    assert (
        harness(
            monkeypatch, ["trial", "quadratic", "bad", "--budget", "1", "--plugin", str(tmp_path / "bad.py")]
        )
        == 2
    )
    assert "SystemExit: 0" in capsys.readouterr().err
