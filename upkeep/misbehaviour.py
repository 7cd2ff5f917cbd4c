"""Solver and problem plug-ins that misbehave, each beside a good one, whose record must not change.

    python -m upkeep.misbehaviour --out docs/results/misbehaviour.md

Plug-ins are made from tables: what is done (raise, exit, change the process, give something wrong back) times
where (each hook). After every bad solver comes a good one, all of them the same method: each must
have the record of a study without bad ones, in one process and on Ray. A bad problem is a study of its own,
of a good solver: it is refused in one line, its trials fail with a reason, or it has the record of the good
problem. What never returns or ends its process runs under --trial-timeout.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import pandas as pd

import harness.launch  # noqa: F401  # before forks, since it takes seconds
from harness.cli import main
from harness.record import load_record

BASE = """
import ctypes, dataclasses, gc, os, random, signal, sys, time, warnings
import numpy as np
import torch
from harness.api import Cost, Metric, Problem, Solver, State, count, real

@dataclasses.dataclass(kw_only=True)
class Plain(Problem):
    label, reference, objective, headline = "plain", "upkeep/misbehaviour.py", "loss", "loss"
    metric_names = {"loss": Metric("loss", "loss")}

    def setup(self, data_dir, data_seed, device, dtype):
        self.dim_x = self.dim_y = 3
        self.lower_examples, self.upper_examples = 20, 10
        made = torch.randn(30, 3, generator=torch.Generator().manual_seed(data_seed), dtype=dtype)
        self.lower, self.upper = made[:20].to(device), made[20:].to(device)
        self.first = torch.zeros(3, dtype=dtype), torch.zeros(3, dtype=dtype)

    def initial(self, seed):
        return self.first

    def lower_loss(self, x, y, rows):
        return ((y - x - self.lower[rows]) ** 2).sum(1) / 2

    def upper_loss(self, x, y, rows):
        return ((y - self.upper[rows]) ** 2).sum(1) / 2

    def metrics(self, x, y):
        return [{"norm": float(row.norm())} for row in x]

    def evaluate(self, x, y):
        return {"loss": float(((x + self.lower.mean(0) - self.upper) ** 2).mean())}

@dataclasses.dataclass(frozen=True, kw_only=True)
class Good(Solver[State]):
    label, reference = "good", "upkeep/misbehaviour.py"
    steps: torch.Tensor = count("steps", symbol="t")
    step_size: torch.Tensor = real("step size", symbol="eta")

    def cost(self, place):
        lower, upper = place.lower_samples(self.steps, 5), place.upper_samples(5, "epochs")
        return Cost(lower_gradient=lower, upper_gradient=upper)

    def init(self, oracle):
        return State(x=oracle.x0, y=oracle.y0)

    def step(self, oracle, state):
        def body(batch, y, x, eta):
            return y - eta * oracle.lower_gradient(x, y, batch)

        y = oracle.loop("lower", self.steps, body, state.y, state.x, self.step_size, batch_size=5)
        move, _ = oracle.upper_gradient(state.x, y, oracle.upper_batch("epochs", 5))
        return State(x=state.x - self.step_size * (move + y - state.x), y=y)

"""
DOES = {
    "raises": "raise RuntimeError('made to')",
    "raises without words": "raise MemoryError",
    "raises oddly": "raise type('Odd', (Exception,), {'__str__': lambda self: 1 / 0})()",
    "raises at length": "raise ValueError('x\\x00\\ud800[/red]' * 10**5)",
    "recurses": "(lambda f: f(f))(lambda f: f(f))",
    "exits": "sys.exit(0)",
}
CHANGES = {
    "dtype": "torch.set_default_dtype(torch.float64)",
    "device": "torch.set_default_device('meta')",
    "threads, gradients": "torch.set_num_threads(2); torch.set_grad_enabled(False)",
    "seeds": "torch.manual_seed(3); np.random.seed(3); random.seed(3)",
    "folder": "os.chdir('/')",
    "output": "print('loud'); sys.stderr.write('loud')",
    "closed output": "sys.stdout.close(); sys.stderr.close()",
    "warnings": "warnings.simplefilter('error')",
    "floating point": "np.seterr(all='raise'); torch.set_flush_denormal(True)",
    "signals": "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "environment": "os.environ.clear(); sys.path.clear()",
    "recursion limit": "sys.setrecursionlimit(60)",
    "collector": "gc.disable()",
}
LEAVES = {
    "interrupts": "raise KeyboardInterrupt",
    "ends its process": "os._exit(0)",
    "is killed": "os.kill(os.getpid(), 9)",
    "crashes": "ctypes.string_at(0)",
    "sleeps": "time.sleep(9e4)",
    "loops": "exec('while True: pass')",
    "blocks signals": "signal.pthread_sigmask(signal.SIG_BLOCK, signal.Signals); time.sleep(9e4)",
}
"""These need a process of their own; in `cost` and `held` the driver itself would meet them."""
SOLVER_HOOKS = {
    "cost": "self, place",
    "init": "self, oracle",
    "step": "self, oracle, state",
    "held": "self, place",
    "__post_init__": "self",
}
SOLVER_GIVES = {
    "cost": (
        *("None", "Cost(lower_gradient=float('nan'))", "Cost(lower_gradient=-5)", "Cost()", "'much'"),
        *("Cost(lower_gradient=torch.zeros(7, dtype=torch.int64))", "Cost(lower_gradient=2**80)"),
    ),
    "init": (
        *("None", "State(x=oracle.x0 * float('nan'), y=oracle.y0)", "State(x=oracle.x0[:, :1], y=oracle.y0)"),
        *("State(x=oracle.x0.double(), y=oracle.y0)", "State(x=oracle.x0.numpy(), y=oracle.y0)", "{}"),
        "State(x=oracle.x0.add_(1), y=oracle.y0)",
    ),
    "step": (
        *("None", "state", "State(x=state.x / 0, y=state.y)", "State(x=state.x[:0], y=state.y)"),
        *("State(x=state.x.to('meta'), y=state.y)", "State(x=state.x.bool(), y=state.y)"),
        *("State(x=state.x.add_(1), y=state.y.mul_(2))", "State(x=state.x, y=state.x.T)"),
        "(oracle.lower_gradient(state.x, state.y, oracle.lower_batch('lower', 0, 5)), state)[1]",
    ),
    "held": ("None", "float('nan')", "'much'"),
}
PROBLEM_HOOKS = {
    "setup": "self, data_dir, data_seed, device, dtype",
    "initial": "self, seed",
    "lower_loss": "self, x, y, rows",
    "upper_loss": "self, x, y, rows",
    "metrics": "self, x, y",
    "evaluate": "self, x, y",
    "memory": "self, pack, batch_size",
}
PROBLEM_DOES = ("raises", "raises at length", "exits")
PROBLEM_CHANGES = ("dtype", "threads, gradients", "closed output", "environment")
PROBLEM_GIVES = {
    "initial": ("None", "torch.zeros(3)", "(torch.zeros(2), torch.zeros(3))", "(torch.zeros(3) / 0,) * 2"),
    "lower_loss": ("None", "torch.zeros(())", "x.sum() * torch.ones(2)", "(x * y).sum() / 0 * rows"),
    "upper_loss": ("None", "0.0", "(x * y).sum() / 0 * rows"),
    "metrics": ("None", "[]", "[{'total': 1.0}] * len(x)", "[{'norm': 'far'}] * len(x)"),
    "evaluate": ("None", "{}", "{'loss': 'low'}", "{'loss': float('nan')}", "{'loss': x}", "{'loss': 1j}"),
    "memory": ("None", "float('nan')", "-1", "10**30"),
}
SPACE = "steps = { low = 1, high = 4, log = true }\nstep_size = { low = 0.01, high = 0.2, log = true }\n"
TRIALS = 2
CLOCK = ["seconds", "evaluation_seconds", "pack", "trial", "solver"]
RAY_TAKES = 10
"""On Ray every so many bad problem only: each is a Ray of its own."""
LIMIT = 1200.0
"""Seconds after which a study counts as hung."""


@dataclass(frozen=True)
class Bad:
    """A plug-in that overrides one hook. kind: solver or problem. then: afterwards it goes on as the good
    one."""

    kind: str
    hook: str
    what: str
    body: str
    then: bool = False

    @property
    def words(self) -> str:
        return f"`{self.hook}` {self.what}"

    def text(self, name: str) -> str:
        """A class."""
        parameters = (SOLVER_HOOKS if self.kind == "solver" else PROBLEM_HOOKS)[self.hook]
        given = ", ".join(parameters.split(", ")[1:])
        base, frozen = ("Good", "frozen=True, ") if self.kind == "solver" else ("Plain", "")
        rest = f"; return super().{self.hook}({given})" if self.then and self.hook != "__post_init__" else ""
        return (
            f"@dataclasses.dataclass({frozen}kw_only=True)\nclass {name}({base}):\n"
            f"    def {self.hook}({parameters}):\n        {self.body}{rest}\n\n"
        )


def bad_solvers() -> Iterator[Bad]:
    for hook in SOLVER_HOOKS:
        yield from (Bad("solver", hook, what, body) for what, body in DOES.items())
    for what, body in CHANGES.items():
        yield from (Bad("solver", hook, f"changes {what}", body, True) for hook in ("cost", "step"))
    for hook, given in SOLVER_GIVES.items():
        yield from (Bad("solver", hook, f"gives `{value}`", f"return {value}") for value in given)


def leaving_solvers() -> Iterator[Bad]:
    yield from (Bad("solver", "step", what, body) for what, body in LEAVES.items())
    yield from (Bad("solver", "init", what, LEAVES[what]) for what in ("ends its process", "sleeps"))


def bad_problems() -> Iterator[Bad]:
    for hook in PROBLEM_HOOKS:
        yield from (Bad("problem", hook, what, DOES[what]) for what in PROBLEM_DOES)
    for hook in ("setup", "lower_loss", "evaluate"):
        yield from (Bad("problem", hook, f"changes {what}", CHANGES[what], True) for what in PROBLEM_CHANGES)
    for hook, given in PROBLEM_GIVES.items():
        yield from (Bad("problem", hook, f"gives `{value}`", f"return {value}") for value in given)


def leaving_problems() -> Iterator[Bad]:
    yield from (Bad("problem", "evaluate", what, LEAVES[what]) for what in ("ends its process", "sleeps"))


# --- studies


@dataclass(frozen=True)
class Run:
    folder: Path
    code: int | None
    said: str
    """Exit code (None: it hung), and what it said."""


def run(folder: Path, problem: str, solvers: Sequence[str], options: Sequence[str]) -> Run:
    """A study of plug-ins that lie in `folder`, in a process of its own: a fork, which imports no torch."""
    (folder / "space.toml").write_text("\n".join(f"[{name}]\n{SPACE}" for name in solvers))
    words = [
        *("harness", "run", problem, "--plugin", str(folder / "plugins.py")),
        *("--space", str(folder / "space.toml"), "--solvers", ",".join(solvers), "--trials", str(TRIALS)),
        *("--budget", "200", "--pack", "2", "--device", "cpu", "--out", str(folder / "study"), *options),
    ]
    child = get_context("fork").Process(target=_command, args=(words, folder / "log"))
    child.start()
    child.join(LIMIT)
    if child.is_alive():
        child.kill()
        return Run(folder, None, "")
    return Run(folder, child.exitcode, (folder / "log").read_text(errors="replace"))


def _command(words: list[str], log: Path) -> None:
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = words
    main()


def by_solver(folder: Path) -> dict[str, pd.DataFrame]:
    """Trials without the clock, and without the columns of other solvers, which make floats of integers."""
    trials = load_record(folder).trials.sort_values("number")
    return {
        str(name): rows.drop(columns=CLOCK).dropna(axis=1, how="all").reset_index(drop=True).map(_plain)
        for name, rows in trials.groupby("solver")
    }


def _plain(value: object) -> object:
    return float(value) if isinstance(value, int | float) else value


class Outcomes:
    """What became of the plug-ins, by executor; `wrong`: what must never be."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.rows: dict[str, dict[str, str]] = {}
        self.wrong: list[str] = []

    def add(self, executor: str, bad: Bad, outcome: str, right: bool) -> None:
        self.counts.setdefault(f"{bad.kind}s, {executor}", Counter())[outcome] += 1
        self.rows.setdefault(f"{bad.kind}: {bad.words}", {})[executor] = outcome
        if not right:
            self.wrong.append(f"{executor}: {bad.kind}: {bad.words}: {outcome}")
            sys.stderr.write(self.wrong[-1] + "\n")


def good_record(scratch: Path) -> pd.DataFrame:
    folder = scratch / "good"
    folder.mkdir()
    (folder / "plugins.py").write_text(BASE)
    done = run(folder, "plain", ["good"], ["--executor", "inline"])
    if done.code != 0:
        raise SystemExit(done.said)
    found = by_solver(folder / "study")["good"]
    if not (found["state"] == "completed").all():
        raise SystemExit(f"the good solver fails: {found['reason'].iloc[0]}")
    return found


def state_of(trials: pd.DataFrame, wanted: pd.DataFrame) -> str:
    """In a word."""
    if (trials["state"] == "failed").all() and trials["reason"].str.len().between(1, 500).all():
        return "failed"
    same = set(trials) == set(wanted) and trials[list(wanted)].equals(wanted)
    return "equal" if same else "its own"


def try_solvers(
    bads: Sequence[Bad], wanted: pd.DataFrame, folder: Path, options: Mapping[str, list[str]], found: Outcomes
) -> None:
    """One study of all of them for each executor, a good one after each."""
    for executor, words in options.items():
        place = folder / executor
        place.mkdir(parents=True)
        pairs = [(f"Bad{n:03}", f"Good{n:03}") for n in range(len(bads))]
        goods = "".join(
            f"@dataclasses.dataclass(frozen=True, kw_only=True)\nclass {good}(Good):\n    pass\n\n"
            for _, good in pairs
        )
        texts = "".join(bad.text(name) for bad, (name, _) in zip(bads, pairs, strict=True))
        (place / "plugins.py").write_text(BASE + texts + goods)
        done = run(place, "plain", [name.lower() for pair in pairs for name in pair], words)
        if done.code != 0:
            found.wrong.append(f"{executor}: exit {done.code}: {done.said[-1500:]}")
            sys.stderr.write(found.wrong[-1] + "\n")
            continue
        records = by_solver(place / "study")
        for bad, (name, good) in zip(bads, pairs, strict=True):
            right = state_of(records[good.lower()], wanted) == "equal"
            outcome = state_of(records[name.lower()], wanted)
            found.add(executor, bad, outcome if right else "the good one beside it DIFFERS", right)


def try_problem(
    bad: Bad, wanted: pd.DataFrame, folder: Path, executor: str, words: list[str], found: Outcomes
) -> None:
    """A study of the good solver on it."""
    folder.mkdir(parents=True)
    (folder / "plugins.py").write_text(BASE + bad.text("Bad"))
    done = run(folder, "bad", ["good"], words)
    errors = [line for line in done.said.splitlines() if line.startswith("error: ")]
    if done.code is None:
        found.add(executor, bad, "HUNG", False)
    elif "Traceback" in done.said or done.code not in (0, 2) or (done.code == 2 and len(errors) != 1):
        found.add(executor, bad, f"TRACEBACK or exit {done.code}: {done.said[-300:]}", False)
    elif done.code == 2:
        found.add(executor, bad, "refused", True)
    else:
        found.add(executor, bad, state_of(by_solver(folder / "study")["good"], wanted), True)


HEAD = """# Plug-ins that misbehave

`python -m upkeep.misbehaviour{words}`: {solvers} solvers and {problems} problems, made from tables. After
each bad solver comes a good one: {wrong} of all that were tried harmed it, hung, left a traceback or ended
without a word. On Ray one problem in {ray} is tried.

*failed*: its trials are recorded as failed with a reason. *equal*: what it did has no effect, its record is
that of the good one. *its own*: it is recorded as it is, for a method may do so. *refused*: exit 2, one line.

"""


def table(found: Outcomes, words: str, solvers: int, problems: int) -> str:
    kinds = ("failed", "equal", "its own", "refused")
    lines = ["| plug-ins, executor | " + " | ".join(kinds) + " | wrong |", "|---|" + "--:|" * 5]
    for name, counts in found.counts.items():
        rest = sum(number for outcome, number in counts.items() if outcome not in kinds)
        lines.append(f"| {name} | {' | '.join(str(counts[kind]) for kind in kinds)} | {rest} |")
    executors = sorted({executor for row in found.rows.values() for executor in row})
    lines += ["", "| plug-in | " + " | ".join(executors) + " |", "|---|" + "---|" * len(executors)]
    for name, row in found.rows.items():
        lines.append(f"| {name} | {' | '.join(row.get(executor, '') for executor in executors)} |")
    return HEAD.format(
        words=words, solvers=solvers, problems=problems, wrong=len(found.wrong), ray=RAY_TAKES
    ) + "\n".join(lines)


def try_all() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--executors", default="inline,ray")
    parser.add_argument("--every", type=int, default=1, help="only every so many plug-in")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    ray = ["--workers", "2"]
    executors = {
        name: {"inline": ["--executor", "inline"], "ray": ray}[name] for name in options.executors.split(",")
    }
    limited = {name: [*words, "--trial-timeout", "4"] for name, words in executors.items()}
    tame, leaving = list(bad_solvers())[:: options.every], list(leaving_solvers())[:: options.every]
    problems = list(bad_problems())[:: options.every]
    fatal = list(leaving_problems())[:: options.every]
    found, begun = Outcomes(), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        wanted = good_record(scratch)
        try_solvers(tame, wanted, scratch / "tame", executors, found)
        try_solvers(leaving, wanted, scratch / "leaving", limited, found)
        for executor in executors:
            for group, words in ((problems, executors), (fatal, limited)):
                for number, bad in list(enumerate(group))[:: RAY_TAKES if executor == "ray" else 1]:
                    place = scratch / "problems" / executor / f"{group is fatal}{number}"
                    try_problem(bad, wanted, place, executor, words[executor], found)
    given = f" --every {options.every}" if options.every > 1 else ""
    text = table(found, given, len(tame) + len(leaving), len(problems) + len(fatal)) + "\n"
    sys.stdout.write(text)
    sys.stderr.write(f"{time.monotonic() - begun:.0f} s\n")
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    raise SystemExit(bool(found.wrong))


if __name__ == "__main__":
    try_all()
