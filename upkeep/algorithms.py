"""The tables of all solvers, from their docstrings and fields: docs/algorithms.md.

python -m upkeep.algorithms > docs/algorithms.md
"""

import inspect
import re
import sys
from collections.abc import Sequence
from typing import Any

from harness.listing import needs_in_words
from harness.plugins import Plugins
from harness.solver import Solver

HEAD = """# Algorithms

One line for each solver, made by `python -m upkeep.algorithms`; the docstring of its file has the rule,
the symbols, the reference and what differs from the paper. Costs are samples of an upper iteration.
batch_size stands for the examples that a batch has: all of them where it is larger than the set, and fewer
in the last batch of an epoch where it does not divide their number; n_lower and n_upper are all examples of
a level, and where a method has an upper_batch_size that is not 0, it stands in the place of n_upper.
"""


def paragraph(text: str, head: str) -> str:
    """What follows `head` up to the end of its paragraph, in one line; empty where it does not occur."""
    found = re.search(rf"{head}(.*?)(?=\n\n|\n[A-Z][a-z]*: |\Z)", text, re.S)
    return " ".join(found[1].split()).removeprefix(": ").removeprefix(", ") if found else ""


def rule(solver: type[Solver[Any]]) -> str:
    """The first sentence of the class's own docstring."""
    first, _, _ = " ".join((solver.__doc__ or "").split()).partition(". ")
    return first.removeprefix(f"{solver.label}: ").rstrip(".")


def cost(solver: type[Solver[Any]]) -> str:
    """From the docstring of the class, else of its file."""
    head, file = "Cost per upper iteration", inspect.getdoc(inspect.getmodule(solver)) or ""
    return (paragraph(solver.__doc__ or "", head) or paragraph(file, head)).rstrip(".")


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    plugins = Plugins()
    solvers = {name: plugins.solver(name) for name in plugins.names("solver")}
    problems = {name: plugins.problem(name) for name in plugins.names("problem")}
    rows = []
    for name, solver in solvers.items():
        needs = needs_in_words(solver.needs) or "nothing"
        warm = [*solver.warm_starts, *(f"{table} by batch" for table in solver.tables)] or ["nothing"]
        said = rule(solver), needs, cost(solver), ", ".join(warm), solver.reference
        rows.append([f"`{name}`", solver.label, *said])
    heads = ["name", "method", "rule", "needs", "cost", "warm-starts", "reference"]
    defined = [
        [f"`{name}`", *("–" if solver.needs.unmet(problem) else "•" for problem in problems.values())]
        for name, solver in solvers.items()
    ]
    where = "## What runs where\n\nWhat depends on the sizes of the data is checked when a study begins."
    page = [HEAD, markdown(heads, rows), "", where, "", markdown(["solver", *problems], defined)]
    sys.stdout.write("\n".join(page) + "\n")


if __name__ == "__main__":
    main()
