"""`harness reproduce`: run the studies of a recipe, then write its figures, tables and verdicts."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import typer

from harness.config import toml_value
from harness.launch import Execution, Search, run_study
from harness.options import one_of
from harness.plugins import Plugins
from harness.problem import Problem
from harness.record import load_record
from harness.rules import Rules
from harness.worker import Context, make_context, set_up
from recipes.recipe import Findings, Part, Recipe, Spaces, markdown
from reports.figures import house_style, write_figure

RECIPES = (
    "amigo_synthetic",
    "amigo_newsgroups",
    "amigo_distillation",
    "grazzi_equilibrium",
    "grazzi_meta_learning",
    "grazzi_poisoning",
    "public_benchmark",
)
STUDIES = "studies"


def recipe(name: str) -> Recipe:
    """Raises HarnessError: no recipe of that name."""
    found: Recipe = importlib.import_module(f"recipes.{one_of('the recipe', name, RECIPES)}").RECIPE
    return found


def print_recipes() -> None:
    for name in RECIPES:
        typer.echo(f"{name:22} {recipe(name).title}")


def run_recipe(name: str, scale: str, out: Path, execution: Execution, data_dir: Path | None) -> int:
    """0, or the exit code of a study that was interrupted: the same command goes on from there."""
    found = recipe(name)
    chosen = found.scales[one_of("--scale", scale, tuple(found.scales))]

    def setup(problem: str, **options: Any) -> Problem:
        return set_up(Plugins(), _context(Part("", problem, (), 1, options=options), data_dir))

    parts = []
    for part in found.parts(chosen, setup):
        if code := _run(part, out / STUDIES, execution, data_dir):
            return code
        parts.append(part)
    records = {part.name: load_record(out / STUDIES / part.name) for part in parts}
    with house_style():
        findings = found.findings(records, chosen, setup)
        for picture in findings.pictures:
            write_figure(picture, out)
    text = _page(found, name, scale, parts, findings)
    (out / "README.md").write_text(text, encoding="utf-8")
    for claim in findings.claims:
        typer.echo(f"{claim.verdict}: {claim.text}: {claim.numbers}")
    typer.echo(f"{out / 'README.md'}: figures, tables and verdicts")
    return 0


def _context(part: Part, data_dir: Path | None) -> Context:
    options = [f"{name}={value}" for name, value in part.options.items()]
    rules = Rules(part.budget, {}, part.seed, curves=part.curves)
    return make_context(part.problem, options, [], data_dir, part.data_seed, "auto", rules, 0.0)


def _run(part: Part, studies: Path, execution: Execution, data_dir: Path | None) -> int:
    folder = studies / part.name
    space = None
    if part.spaces is not None:
        studies.mkdir(parents=True, exist_ok=True)
        space = studies / f"{part.name}.toml"
        space.write_text(_toml(part.spaces), encoding="utf-8")
    search = Search(part.trials, ",".join(part.solvers), space, part.sampler, None, part.published)
    if part.alone:
        execution = replace(execution, executor="inline", workers=None, pack="1")
    return run_study(_context(part, data_dir), search, execution, folder, dry_run=False)


def _toml(spaces: Spaces) -> str:
    return "\n".join(
        f"[{solver}]\n" + "".join(f"{key} = {toml_value(value)}\n" for key, value in entries.items())
        for solver, entries in spaces.items()
    )


def _page(found: Recipe, name: str, scale: str, parts: Sequence[Part], findings: Findings) -> str:
    claims = [[claim.text, claim.verdict, claim.numbers] for claim in findings.claims]
    pictures = "\n\n".join(f"![{p.name}]({p.name}.png)\n\n{p.caption}" for p in findings.pictures)
    tables = "\n".join(f"## {title}\n\n{table}" for title, table in findings.tables.items())
    studies = [
        [
            f"`{part.name}`",
            f"`{part.problem}`" + "".join(f" {key}={value}" for key, value in part.options.items()),
            str(len(part.solvers)),
            str(part.trials),
            f"{part.budget:,.0f}",
            str(part.seed),
        ]
        for part in parts
    ]
    return f"""# {found.title}

    harness reproduce {name} --scale {scale} --out DIR

{findings.note}

## The claims, on these numbers

{markdown(["claim", "verdict", "numbers"], claims)}
{pictures}

{tables}
## The studies

Each is a folder of `{STUDIES}/` that `harness report`, `harness replay` and this command read.
Machine: {os.cpu_count()} CPUs, load average {os.getloadavg()[2]:.1f} at the end, PyTorch {torch.__version__}.

{markdown(["study", "problem", "solvers", "trials each", "samples a trial", "seed"], studies)}"""
