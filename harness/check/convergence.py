"""Does a solver find what it looks for? It runs on a small problem whose every answer is known.

Nothing is asked of the solver but what every solver does: the direction it passes to
`oracle.projected_step` is its estimate of the hypergradient. A momentum method passes a mean over upper
iterations; at a nearly still x that tends to the hypergradient as well. A solver that declares a `bias` is
judged by how its error falls along values of the parameter that governs it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from harness.budget import KINDS
from harness.check.problems import BOX, CPU, F64, ExactQuartic, UpperStep
from harness.check.verdict import Checks, words
from harness.errors import PluginError
from harness.params import Parameter, parameters
from harness.result import Result
from harness.rules import Rules
from harness.runner import first_cost, run_pack
from harness.solver import Bias, Solver

EXACT = 1e-8  # relative error of a hypergradient, or of L - L*, that counts as none
LADDER = (1, 3, 10, 30, 100)  # inner steps
ENOUGH = 60  # inner steps after which the inner error is far below EXACT
FEW = 3
SERIES = 12  # inner steps that leave an error of 2%: the variance of a randomised method grows with them
STILL = 1e-12  # upper step size at which x hardly moves
STEPS_OF_X = (1.0, 0.2, 0.05)  # upper step sizes tried, times 1 / smoothness of L
FULL, MINI = 10**6, 8  # batch sizes
SEEDS = 4
MEANS = 8  # seeds of a randomised method's mean direction: of fewer the spread is too rough a guess
LONG, SHORT = 100_000, 12_000  # samples
SOME, MANY = 60, 200  # upper iterations, as dear as the first, of a method to which the samples leave fewer
FALLEN = 0.05  # mean relative error of L - L* that counts as fallen
LOWER_STEPS = ("lower_step_size", "system_step_size")
REMEMBERED = 0.4  # by how much these are shorter on mini-batches where derivatives are as old as an epoch
BETTER = 0.9  # the same for a search that estimates no hypergradient
RISING, FALLING = (20.0, 50.0, 125.0, 300.0), (0.5, 0.25, 0.125)  # of what a bias falls with
RATE = 0.25  # how far the measured rate of a bias may be off, as a share of the declared one
BIASED = 1e-3  # relative error of L - L* that counts as none at a moderate bias


@dataclasses.dataclass(frozen=True)
class Setting:
    """How the parameters are set that have no common meaning: required real numbers are held at 1/2, or
    raised like a count; counts with a default keep it, or are raised too."""

    held: bool
    raised: bool

    def value(self, name: str, parameter: Parameter, steps: int, batch_size: int) -> Any:
        if parameter.kind == "choice":
            return parameter.default
        if parameter.kind == "shared":
            least = int(parameter.low or 1)
            return batch_size if "batch" in name else least if parameter.required else parameter.default
        if parameter.kind == "count":
            return (
                max(steps, int(parameter.low or 0))
                if parameter.required or self.raised
                else parameter.default
            )
        if parameter.required:
            return 0.5 if self.held else float(steps)
        return parameter.default


class Convergence:
    """The checks of one solver. One holds if it holds in some `Setting`; step sizes of the lower level and
    the system are 1.25 / L, where a step taken twice as long would diverge. No step size falls where the
    answer is to be exact: a decay is an answer to noise."""

    def __init__(self, solver: type[Solver[Any]]) -> None:
        self.solver = solver
        self.parameters = parameters(solver)
        self.problem = ExactQuartic()
        self.problem.setup(None, 0, CPU, F64)

    def checks(self) -> Checks:
        if not self.solver.estimates_hypergradient:
            return {"hypergradient": _nothing, "convergence": _nothing, **self._of_every_method()}
        return {
            "hypergradient": lambda: self._somehow(self._hypergradient),
            "convergence": lambda: self._somehow(
                self._falls_on_full_batches if self._randomised else self._converges
            ),
            **self._of_every_method(),
        }

    def _of_every_method(self) -> Checks:
        return {
            "mini-batches": lambda: self._somehow(self._falls),
            "upper step": lambda: self._somehow(self._step_size),
            "feasibility": lambda: self._somehow(self._feasible),
        }

    # --- running

    def _somehow(self, check: Callable[[Setting], str]) -> str:
        """What the check says in the first setting in which it holds, else in the first of all."""
        set_by_rule = {name for name in self.parameters if _is_step(name)}
        if self.solver.bias is not None:
            set_by_rule.add(self.solver.bias.parameter)
        free = any(
            p.kind == "real" and p.required and n not in set_by_rule for n, p in self.parameters.items()
        )
        kept = any(p.kind == "count" and not p.required for p in self.parameters.values())
        first, *others = [Setting(h, r) for h in (False, True)[: 1 + free] for r in (False, True)[: 1 + kept]]
        try:
            return check(first)
        except PluginError:
            for setting in others:
                with contextlib.suppress(PluginError):
                    return check(setting)
            raise

    @cached_property
    def _ladder(self) -> tuple[float, ...]:
        """Values of the parameter that governs the bias, from a large one to a small one."""
        bias = self.solver.bias
        if bias is None:
            return ()
        if bias.parameter not in self.parameters:
            raise PluginError(f"bias names {bias.parameter}; it has {', '.join(self.parameters)}")
        return RISING if bias.rate < 0 else FALLING

    def _config(
        self,
        setting: Setting,
        steps: int,
        upper: float,
        batch_size: int = FULL,
        noisy: bool = False,
        rung: int = 0,
    ) -> dict[str, Any]:
        """noisy: with the decays that the method has by default. rung: of the ladder."""
        lower = 1.25 / self.problem.smoothness
        config: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            if _is_step(name):
                config[name] = upper if name.startswith("upper") else lower
            elif name.removesuffix("_decay") + "_step_size" in self.parameters and not noisy:
                config[name] = 0.0
            else:
                config[name] = setting.value(name, parameter, steps, batch_size)
        bias = self.solver.bias
        if bias is not None:
            value = self._ladder[rung]
            config |= {bias.parameter: value} | {name: config[name] / value for name in bias.stiff}
        return config

    def _pack(
        self, configs: list[dict[str, Any]], iterations: int = 0, samples: float = 0.0, seed: int = 0
    ) -> list[Result]:
        """A pack of trials of that many upper iterations, as dear as the first of the first, or of that many
        samples."""
        first = float(first_cost(self.problem, self.solver, configs, seed)[0])
        if first == 0:
            raise PluginError("cost() declares nothing for the first upper iteration: it would never end")
        budget = samples or iterations * first
        self.problem.upper_steps.clear()
        rules = Rules(budget, dict.fromkeys(KINDS, 1.0), seed, divergence="worst", curves=0)
        results = run_pack(self.problem, self.solver, configs, rules, CPU, F64)
        taken, steps = max(result.upper_iterations for result in results), len(self.problem.upper_steps)
        if steps < taken:
            raise PluginError(
                f"{taken} upper iterations called oracle.projected_step {steps} times; "
                "expected at least once in each"
            )
        return results

    def _run(self, *configs: dict[str, Any], iterations: int, seed: int = 0) -> Result:
        """The result of the first of a pack; raises PluginError where a trial diverges."""
        results = self._pack(list(configs), iterations, seed=seed)
        for one in results:
            if one.state == "diverged":
                raise PluginError(f"diverged ({one.reason}) with {words(one.config)}")
        return results[0]

    def _final_errors(self, configs: list[dict[str, Any]], samples: int, seed: int = 0) -> list[float]:
        """Relative errors of L at the end; infinite for a trial that diverges."""
        results = self._pack(configs, samples=samples, seed=seed)
        return [math.inf if one.state == "diverged" else one.metrics["error"] for one in results]

    def _errors(self) -> list[float]:
        """Relative error of every recorded direction as the hypergradient at its x, of a trial alone."""
        return [self._error(step)[0] for step in self.problem.upper_steps]

    def _error(self, step: UpperStep) -> list[float]:
        """Of every trial of a pack."""
        exact = self.problem.hypergradient(step.x)
        errors = (step.direction - exact).norm(dim=1) / exact.norm(dim=1)
        return [error if math.isfinite(error) else math.inf for error in errors.tolist()]

    @cached_property
    def _randomised(self) -> bool:
        """Whether directions on full batches depend on the seed."""
        config = self._config(Setting(held=False, raised=False), FEW, STILL)
        seen: list[Tensor] = []
        for seed in (1, 2):
            self._run(config, iterations=5, seed=seed)
            seen.append(torch.stack([step.direction for step in self.problem.upper_steps]))
        return seen[0].shape != seen[1].shape or not torch.allclose(seen[0], seen[1], rtol=1e-6)

    # --- the hypergradient

    def _hypergradient(self, setting: Setting) -> str:
        if self._randomised:
            return self._average(setting)
        return self._exact(setting) if self.solver.bias is None else self._biased(self.solver.bias, setting)

    def _biased(self, bias: Bias, setting: Setting) -> str:
        """For each value of what governs the bias: the worst direction of a moving x after many inner steps
        where these find both lower solutions, else the last one at a still x."""
        steps, upper, iterations = SERIES, STILL, 200
        if bias.nested:
            steps, upper, iterations = LADDER[-1], 0.3 / self.problem.upper_smoothness, 4
        configs = [self._config(setting, steps, upper, rung=rung) for rung in range(len(self._ladder))]
        self._run(*configs, iterations=iterations)
        judged = self.problem.upper_steps if bias.nested else self.problem.upper_steps[-1:]
        worst = [max(errors) for errors in zip(*(self._error(step) for step in judged), strict=True)]
        return self._rate(bias, f"relative error at a {'moving' if bias.nested else 'still'} x", worst)

    def _rate(self, bias: Bias, what: str, errors: list[float]) -> str:
        """errors: of the first rungs of the ladder."""
        rungs = list(zip(self._ladder, errors, strict=False))
        rates = [
            math.log(one / two) / math.log(here / there)
            for (here, one), (there, two) in itertools.pairwise(rungs)
            if 0 < one < math.inf and 0 < two < math.inf
        ]
        said = f"{what} {_list(errors)} at {bias.parameter} {', '.join(f'{value:g}' for value, _ in rungs)}"
        if len(rates) == len(rungs) - 1 and all(abs(r / bias.rate - 1) <= RATE for r in rates):
            return f"{said}, which falls at about the declared rate, {bias.rate:g}"
        raise PluginError(f"{said}: rates {', '.join(f'{r:.2f}' for r in rates)}; declared {bias.rate:g}")

    def _exact(self, setting: Setting) -> str:
        """Every direction of a moving x as the counts grow, but the first, which a method may take before
        it solves the lower level; else the last one at a still x. The second will not do for a method that
        solves both levels in every upper iteration."""
        moving = []
        for steps in LADDER:
            self._run(self._config(setting, steps, 0.3 / self.problem.upper_smoothness), iterations=5)
            moving.append(max(self._errors()[1:]))
        said = f"relative error {_list(moving)} at {', '.join(map(str, LADDER))} inner steps"
        if moving[-1] <= EXACT:
            return said
        if {"lower_steps", "system_steps"} <= set(self.parameters):
            return self._documented(moving, f"{said}, in the worst of 4 upper iterations after the first")
        self._run(self._config(setting, LADDER[-1], STILL), iterations=200)
        still = self._errors()
        where = f"{len(still)} upper iterations at a still x"
        said = f"relative error {still[0]:.1e} at first, {still[-1]:.1e} after {where}"
        return said if still[-1] <= EXACT else self._documented(still, said)

    def _documented(self, errors: list[float], said: str) -> str:
        if self.solver.floor and errors[-1] < errors[0]:
            return f"{said}: a documented floor ({self.solver.floor})"
        raise PluginError(f"{said}; expected at most {EXACT:.0e}")

    def _average(self, setting: Setting) -> str:
        """A randomised method: the mean direction of the later half of the upper iterations, over seeds. A
        bias shows in how the mean moves from rung to rung, as all meet the same random numbers."""
        bias, means = self.solver.bias, []
        rungs = range(max(1, len(self._ladder)))
        for seed in range(MEANS):
            configs = [self._config(setting, SERIES, STILL, noisy=True, rung=rung) for rung in rungs]
            self._run(*configs, iterations=1000, seed=seed)
            directions = torch.stack([step.direction for step in self.problem.upper_steps])
            means.append(directions[len(directions) // 2 :].mean(0))
        exact = self.problem.hypergradient(self.problem.upper_steps[-1].x)[0]
        every = torch.stack(means) / exact.norm()
        sample = every[:, -1]
        off = float((sample.mean(0) - exact / exact.norm()).norm())
        band = 4 * float((sample.var(0) / MEANS).sum().sqrt())
        errors = f"{off:.1%}, 4 standard errors {band:.1%}"
        said = f"randomised: the mean direction of {MEANS} seeds is off by {errors}"
        if off <= band + 0.02 and band <= 0.25:
            moves = every.mean(0).diff(dim=0).norm(dim=1).tolist()
            return said if bias is None else f"{said}; {self._rate(bias, 'it moves by', moves)}"
        raise PluginError(f"{said}; expected off inside the band, and the band inside 25%")

    # --- the solution

    def _converges(self, setting: Setting) -> str:
        if self.solver.bias is not None:
            return self._converges_nearly(setting)
        config = self._config(setting, ENOUGH, STILL)
        tried = sorted({LONG, self._at_least(LONG, SOME, config), self._at_least(LONG, MANY, config)})
        best = math.inf
        steps = [scale / self.problem.upper_smoothness for scale in STEPS_OF_X]
        for samples in tried:
            errors = self._final_errors([self._config(setting, ENOUGH, step) for step in steps], samples)
            best = min(best, *errors)
            if best <= EXACT:
                return f"relative error of L {best:.1e}{self._floor(setting, steps[errors.index(best)])}"
        return self._documented(
            [1.0, best], f"relative error of L {best:.1e} at best after {tried[-1]} samples"
        )

    def _at_least(self, samples: int, iterations: int, config: dict[str, Any]) -> int:
        """So many samples, or upper iterations as dear as the first."""
        return max(samples, iterations * int(first_cost(self.problem, self.solver, [config], 0)[0]))

    def _converges_nearly(self, setting: Setting) -> str:
        """At a moderate bias. A penalty method may divide its steps of x by the penalty, and need its decays
        where the penalty grows."""
        scales = (*STEPS_OF_X, *(scale * self._ladder[1] for scale in STEPS_OF_X))
        configs = [
            self._config(setting, SERIES, scale / self.problem.upper_smoothness, noisy=noisy, rung=1)
            for noisy, scale in itertools.product((False, True), scales)
        ]
        best = min(self._final_errors(configs, LONG))
        if best <= BIASED:
            return f"relative error of L {best:.1e} at a moderate bias"
        raise PluginError(f"relative error of L {best:.1e} at best; expected at most {BIASED:.0e}")

    def _floor(self, setting: Setting, upper: float) -> str:
        """What few inner steps come to, where there are inner steps."""
        if not any(p.kind == "count" and p.required for p in self.parameters.values()):
            return ""
        (error,) = self._final_errors([self._config(setting, FEW, upper)], LONG)
        return f"; with {FEW} inner steps {error:.1e}"

    def _falls(self, setting: Setting, batch_size: int = MINI, samples: int = SHORT) -> str:
        """At the better of two scales of x's steps; of three where the method sizes its steps itself, or has
        a bias that its steps may be divided by."""
        sized = self.solver.adaptive or not self.solver.estimates_hypergradient or self.solver.bias
        configs = []
        for scale in STEPS_OF_X if sized else STEPS_OF_X[1:]:
            upper = scale / self.problem.upper_smoothness
            configs.append(self._config(setting, SERIES, upper, batch_size, noisy=True))
            if self.solver.tables:
                configs[-1].update({n: REMEMBERED * v for n, v in configs[-1].items() if n in LOWER_STEPS})
        spent = self._at_least(samples, SOME, configs[0])
        found = zip(*(self._final_errors(configs, spent, seed) for seed in range(SEEDS)), strict=True)
        errors = min(found, key=math.fsum)
        mean = math.fsum(errors) / SEEDS
        worst = f"{max(errors):.1e} at worst"
        said = f"relative error of L from 1 to {mean:.1e} in the mean of {SEEDS} seeds, {worst}"
        enough = FALLEN if self.solver.estimates_hypergradient else BETTER
        if mean <= enough:
            return said
        raise PluginError(f"{said}; expected at most {enough} in the mean")

    def _falls_on_full_batches(self, setting: Setting) -> str:
        return "randomised: " + self._falls(setting, FULL, LONG)

    # --- the step of x

    def _step_size(self, setting: Setting) -> str:
        if "upper_step_size" not in self.parameters:
            raise PluginError(f"no parameter upper_step_size; it has {', '.join(self.parameters)}")
        taken = []
        for upper in (0.02, 0.01):
            self._run(self._config(setting, FEW, upper), iterations=1)
            taken.append(float(self.problem.upper_steps[0].step_size.max()))
        said = f"the first step of x is {taken[0]:g} and {taken[1]:g} for upper_step_size 0.02 and 0.01"
        most = math.inf if self.solver.adaptive else 0.02
        if 0 < taken[0] <= most and math.isclose(taken[0], 2 * taken[1]):
            return said
        raise PluginError(f"{said}; expected no more than that, and in proportion")

    def _feasible(self, setting: Setting) -> str:
        """Steps so long that x leaves the set at once unless it is projected."""
        largest, long = 0.0, 100 * max((1.0, *self._ladder))  # where steps are divided by a penalty, too
        for iterations in (1, 2, 3):
            config = self._config(setting, ENOUGH, long / self.problem.upper_smoothness)
            largest = max(largest, self._run(config, iterations=iterations).metrics["x_max"])
        said = f"steps of {long:g} / L end at |x_k| = {largest:.3g}"
        if largest <= BOX:
            return f"{said}, the edge of the set"
        raise PluginError(f"{said}; expected at most {BOX:g}: the step is not projected")


def _nothing() -> str:
    return "nothing to judge: the method says that it moves x without an estimate of the hypergradient"


def _is_step(name: str) -> bool:
    return name.endswith("step_size")


def _list(errors: list[float]) -> str:
    return ", ".join(f"{error:.1e}" for error in errors)
