"""Where trials stood at shares of the budget, and what the final evaluation says of it.

At a share s a trial stands at its last upper iteration before the one that a budget of s times the study's
would not have paid for: its output, had that been the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from harness.budget import Accountant
from harness.problem import Problem

Output = tuple[Tensor, Tensor]
Point = dict[str, float]


@dataclass(frozen=True)
class Stop:
    """point: the ledger there, as a point of a curve has it."""

    share: float
    iteration: int
    point: Point
    output: Output


@dataclass
class Stops:
    """Of a pack of `trials`: the stops of each, in order of `shares`."""

    shares: Sequence[float]
    trials: int
    reached: list[list[Stop]] = field(init=False)

    def __post_init__(self) -> None:
        self.reached = [[] for _ in range(self.trials)]

    def pass_by(
        self,
        live: np.ndarray,
        running: slice | np.ndarray,
        declared: np.ndarray,
        accountant: Accountant,
        stop: Callable[[int, float], Stop],
    ) -> None:
        """Before an upper iteration that costs `declared`: stop(local, share) for the trials of `live` that
        could not pay it of that share."""
        for place, share in enumerate(self.shares):
            pending = np.array([len(self.reached[n]) == place for n in live])
            if pending.any():
                for local in np.flatnonzero(pending & ~accountant.fits(running, declared, share)):
                    self.reached[live[local]].append(stop(int(local), share))

    def judge(
        self, problem: Problem, start: Output, iterations: np.ndarray, end: Sequence[Point]
    ) -> list[list[Point]]:
        """Of each trial its points, x0 first: share, ledger, metrics, and the samples of the evaluation (of
        the trial alone; 0 where the point is judged already).

        iterations: upper iterations of every trial. end: the last point of every trial, judged."""
        if not self.shares:
            return [[] for _ in range(self.trials)]
        todo = {
            (n, stop.iteration): stop.output
            for n, stops in enumerate(self.reached)
            for stop in stops
            if 0 < stop.iteration < iterations[n]
        }
        (origin,) = problem.evaluate_pack(*(part.unsqueeze(0) for part in start))
        scores = {(n, 0): origin for n in range(self.trials)} | _evaluated(problem, todo, self.trials)
        return [self._points(problem, n, scores, end[n]) for n in range(self.trials)]

    def _points(
        self, problem: Problem, n: int, scores: dict[tuple[int, int], dict[str, float]], end: Point
    ) -> list[Point]:
        zero = dict.fromkeys(set(end) - set(problem.metric_names), 0.0)
        points = [{"share": 0.0, "evaluation_samples": problem.evaluation_samples} | zero | scores[n, 0]]
        seen = {0}
        for stop in self.reached[n]:
            score = scores.get(
                (n, stop.iteration), {m: v for m, v in end.items() if m in problem.metric_names}
            )
            fresh = (n, stop.iteration) in scores and stop.iteration not in seen
            seen.add(stop.iteration)
            samples = problem.evaluation_samples if fresh else 0
            points.append({"share": stop.share, "evaluation_samples": samples} | stop.point | score)
        return points + [
            {"share": share, "evaluation_samples": 0} | end for share in self.shares[len(self.reached[n]) :]
        ]


def _evaluated(
    problem: Problem, outputs: dict[tuple[int, int], Output], at_once: int
) -> dict[tuple[int, int], dict[str, float]]:
    """The final evaluation of all outputs, in packs."""
    scores: dict[tuple[int, int], dict[str, float]] = {}
    keys = list(outputs)
    for first in range(0, len(keys), at_once):
        part = keys[first : first + at_once]
        x, y = (torch.stack(side) for side in zip(*(outputs[key] for key in part), strict=True))
        scores |= dict(zip(part, problem.evaluate_pack(x, y), strict=True))
    return scores
