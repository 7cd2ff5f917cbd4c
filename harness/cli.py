"""The command line. It declares options only; what is heavy is imported by the command that needs it."""

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.errors import HarnessError, one_line, show_traceback
from harness.shadow import require_unshadowed, shadowed_by

app = typer.Typer(
    name="harness",
    help="Compare bilevel optimisation methods under one exact sample budget.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _names(kind: str) -> Callable[[str], list[str]]:
    """For the shell's completion."""

    def complete(incomplete: str) -> list[str]:
        from harness.plugins import Plugins

        return [name for name in Plugins().names(kind) if name.startswith(incomplete)]

    return complete


ProblemName = Annotated[
    str,
    typer.Argument(metavar="PROBLEM", help="a problem of `harness list`", autocompletion=_names("problem")),
]
SolverName = Annotated[str, typer.Argument(metavar="SOLVER", autocompletion=_names("solver"))]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="the folder of a study")]
Place = Annotated[Path, typer.Argument(metavar="DIR|FILE", help="the folder of a study, or an exported file")]
Budget = Annotated[float | None, typer.Option(help="samples per trial; default: the problem's own")]
Seed = Annotated[int, typer.Option(help="seed of mini-batches and initial points")]
DataSeed = Annotated[int | None, typer.Option(help="seed of the data split; default: --seed")]
Option = Annotated[
    list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="an option of the problem")
]
PluginFile = Annotated[
    list[Path] | None, typer.Option("--plugin", help="a Python file with problems or solvers")
]
DataDir = Annotated[Path | None, typer.Option(help="folder with the data files; default: $HARNESS_DATA")]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto")]
SpaceFile = Annotated[
    Path | None,
    typer.Option("--space", help="TOML tables that replace the shipped ones, or add to them"),
]
Price = Annotated[
    list[str] | None,
    typer.Option(metavar="KIND=PRICE", help="price of one sample of a kind, e.g. hessian_vector=2"),
]
Divergence = Annotated[
    str, typer.Option(help="where a diverged trial is scored: x0, last, or worst (ranked last)")
]
SystemFailure = Annotated[
    str, typer.Option(help="a system solve that is not finite: start (falls back to its start) or diverge")
]
Timeout = Annotated[
    float, typer.Option(help="seconds per trial after which it is recorded as failed; 0: none")
]
Workers = Annotated[int | None, typer.Option(help="packs at once; default: one per CPU, or per GPU")]
PackSize = Annotated[str, typer.Option(help="trials in a pack at most, as memory allows, or auto")]
ExecutorName = Annotated[str, typer.Option(help="ray, or inline (this process)")]
Address = Annotated[str | None, typer.Option(help="a Ray cluster that runs: auto, or HOST:PORT of its head")]
Curves = Annotated[int, typer.Option(help="points along each trial with cheap metrics; 0: none")]


def _say_version(asked: bool) -> None:
    if asked:
        import harness

        typer.echo(f"bilevel-harness {harness.__version__}")
        raise typer.Exit


def _take_config(context: typer.Context, path: Path | None) -> Path | None:
    """The values of a study file as this command's defaults."""
    if path is not None and not context.resilient_parsing:
        from harness.config import read_config

        names = [parameter.name or "" for parameter in context.command.params]
        context.default_map = read_config(path, names)
    return path


@app.callback()
def everywhere(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="the version, and stop")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="errors with their traceback; may stand anywhere")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    problem: ProblemName,
    out: Annotated[
        Path | None,
        typer.Option(help="the folder of the study; the same command resumes it; default: runs/PROBLEM-DATE"),
    ] = None,
    budget: Budget = None,
    trials: Annotated[
        str | None,
        typer.Option(
            metavar="INTEGER|defaults",
            help="configurations per solver, or the published ones alone; default: the problem's own number",
        ),
    ] = None,
    solvers: Annotated[str, typer.Option(help="names, with commas; default: all of the search space")] = "",
    seed: Seed = 1,
    data_seed: DataSeed = None,
    search_seed: Annotated[int | None, typer.Option(help="seed of the draws; default: --seed")] = None,
    workers: Workers = None,
    pack: PackSize = "auto",
    device: Device = "auto",
    executor: ExecutorName = "ray",
    address: Address = None,
    sampler: Annotated[str, typer.Option(help="random, sobol, grid or tpe")] = "random",
    published: Annotated[
        bool, typer.Option("--published", help="trial 0 is the published configuration, where one is known")
    ] = False,
    space: SpaceFile = None,
    options: Option = None,
    plugins: PluginFile = None,
    data_dir: DataDir = None,
    price: Price = None,
    divergence: Divergence = "x0",
    system_failure: SystemFailure = "start",
    trial_timeout: Timeout = 0.0,
    curves: Curves = 20,
    config: Annotated[
        Path | None,
        typer.Option(
            callback=_take_config, is_eager=True, help="a study file (TOML) with any of these options"
        ),
    ] = None,
    save_config: Annotated[
        Path | None, typer.Option(help="write these options to a study file, and stop")
    ] = None,
    evaluate_at: Annotated[
        str,
        typer.Option(
            metavar="SHARES", help="judge x by the final evaluation at these shares, e.g. 0.05,0.2,0.5"
        ),
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and stop")] = False,
    retry: Annotated[str, typer.Option(metavar="failed", help="run trials again that failed")] = "",
    shard: Annotated[
        str, typer.Option(metavar="NUMBER/OF", help="run this share of the trials, for `harness merge`")
    ] = "1/1",
    redo: Annotated[
        str, typer.Option(metavar="SOLVERS", help="run all trials of these again, e.g. after a change")
    ] = "",
) -> None:
    """Run a study, or resume it: one problem, some solvers, the same budget for every trial."""
    from harness.launch import Execution, Search, run_study, save_study, with_defaults
    from harness.options import DEFAULTS, numbers, one_of, prices
    from harness.options import trials as number_of
    from harness.rules import Rules
    from harness.share import Share
    from harness.worker import make_context

    if retry:
        one_of("--retry", retry, ("failed",))
    taken = with_defaults(problem, plugins or [], budget, number_of(trials), out)
    shares = numbers("--evaluate-at", evaluate_at)
    rules = Rules(taken.budget, prices(price or []), seed, divergence, system_failure, curves, shares)
    found = make_context(
        problem,
        options or [],
        plugins or [],
        data_dir,
        data_seed,
        device,
        rules,
        trial_timeout,
        bool(address),
    )
    alone = trials == DEFAULTS
    search = Search(taken.trials, solvers, space, sampler, search_seed, published or alone, alone)
    if save_config:
        raise typer.Exit(save_study(save_config, found, search))
    taken.say()
    execution = Execution(executor, workers, address, pack, Share.parse(shard))
    raise typer.Exit(run_study(found, search, execution, taken.out, dry_run, bool(retry), redo))


@app.command(context_settings={"ignore_unknown_options": False})
def trial(
    context: typer.Context,
    problem: ProblemName,
    solver: SolverName,
    values: Annotated[
        list[str] | None, typer.Argument(metavar="NAME=VALUE", help="the configuration")
    ] = None,
    budget: Budget = None,
    seed: Seed = 1,
    data_seed: DataSeed = None,
    device: Device = "auto",
    space: SpaceFile = None,
    options: Option = None,
    plugins: PluginFile = None,
    data_dir: DataDir = None,
    price: Price = None,
    divergence: Divergence = "x0",
    system_failure: SystemFailure = "start",
    trial_timeout: Timeout = 0.0,
    curves: Curves = 0,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
    pdb: Annotated[bool, typer.Option("--pdb", help="the debugger where the trial raises")] = False,
) -> None:
    """Run one configuration; ties and fixed values of the search space are filled in."""
    from harness.commands import print_line, print_result, run_trial
    from harness.launch import with_defaults
    from harness.options import prices
    from harness.rules import Rules
    from harness.worker import make_context

    taken = with_defaults(problem, plugins or [], budget)
    taken.say()
    rules = Rules(taken.budget, prices(price or []), seed, divergence, system_failure, curves)
    found = make_context(
        problem, options or [], plugins or [], data_dir, data_seed, device, rules, trial_timeout
    )
    caught = not (pdb or context.obj.debug)
    show = context.obj.show or (print_line if as_json else print_result)
    raise typer.Exit(run_trial(found, solver, values or [], space, show, caught, pdb))


@app.command()
def replay(
    place: Place,
    trial: Annotated[str, typer.Argument(metavar="TRIAL", help="SOLVER/NUMBER, as reports name it")],
    tolerance: Annotated[
        float, typer.Option(help="relative difference of metrics that counts as equal")
    ] = 1e-3,
    plugins: PluginFile = None,
    data_dir: DataDir = None,
    device: Annotated[
        str, typer.Option(help="study (its own, where it is here), cpu, cuda or auto")
    ] = "study",
) -> None:
    """Run a recorded trial again, alone, and compare; exit code 1 where it differs. No plug-in file runs that
    is not named here."""
    from harness.commands import replay_trial

    raise typer.Exit(replay_trial(place, trial, tolerance, plugins or [], data_dir, device))


@app.command()
def repair(folder: Folder) -> None:
    """Write a damaged record anew from what verifies; the run command makes the rest again."""
    from harness.reading import repair_study

    repair_study(folder)


@app.command()
def status(folder: Folder) -> None:
    """How far a study has come; works while a driver runs."""
    from harness.reading import show_status

    show_status(folder)


@app.command()
def confirm(
    folder: Folder,
    top: Annotated[int, typer.Option(help="best trials of each solver that run again")] = 5,
    seeds: Annotated[int, typer.Option(help="fresh seeds: those after the study's")] = 5,
    data_seeds: Annotated[
        int | None, typer.Option(help="fresh data splits for each seed; default: the study's own split")
    ] = None,
    workers: Workers = None,
    pack: PackSize = "auto",
    device: Device = "auto",
    executor: ExecutorName = "ray",
    address: Address = None,
    plugins: PluginFile = None,
    data_dir: DataDir = None,
    trial_timeout: Timeout = 0.0,
) -> None:
    """Run the best configurations of a study again on fresh seeds, or go on with that; `report` compares."""
    from harness.confirm import Fresh, confirm_study, context_of
    from harness.launch import Execution

    fresh = Fresh(top, seeds, data_seeds)
    execution = Execution(executor, workers, address, pack)
    context = context_of(folder, plugins or [], data_dir, device, trial_timeout, bool(address))
    raise typer.Exit(confirm_study(folder, fresh, execution, context))


@app.command()
def report(
    place: Place,
    top: Annotated[int, typer.Option(help="best trials a solver is judged by")] = 10,
    out: Annotated[
        Path | None, typer.Option(help="where to write; default: DIR/report, with prices DIR/repriced")
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND=PRICE", help="rank at other prices of a sample, or of seconds=1"),
    ] = None,
    budget: Annotated[float | None, typer.Option(help="budget in these prices; default: the study's")] = None,
    others: Annotated[
        list[Path] | None,
        typer.Option(
            "--with", help="a study of the same protocol to report against: DIR, or an exported file"
        ),
    ] = None,
    solvers: Annotated[str, typer.Option(help="show these only, in this order")] = "",
    rename: Annotated[
        str, typer.Option(metavar="SOLVER=LABEL,...", help="labels in place of the solvers' own")
    ] = "",
    params: Annotated[str, typer.Option(help="show these parameters only")] = "",
    targets: Annotated[
        list[float] | None,
        typer.Option("--target", help="a value of the objective to reach; default: chosen from the data"),
    ] = None,
    width: Annotated[str, typer.Option(help="of the figures in a paper: page or column")] = "page",
    paper: Annotated[
        bool, typer.Option("--paper", help="write paper.tex too, with tables and figures in place")
    ] = False,
) -> None:
    """Write tables, figures and a page of a recorded study; of an exported file, --out says where."""
    from harness.options import finite, names, one_of, pairs, prices
    from harness.reading import report_study
    from reports.choice import Choice
    from reports.figures import WIDTHS
    from reports.report import write_report

    choice = Choice(names(solvers), pairs(names(rename), "--rename"), names(params))
    one_of("--width", width, tuple(WIDTHS))
    goals = [finite("--target", target) for target in targets or []]
    write = partial(write_report, choice=choice, width=width, paper=paper, targets=goals)
    if price or budget is not None:
        from reports.pricing import at_prices

        priced = at_prices(prices(price or []), budget, write)
        report_study(place, others or [], top, out or _beside(place, "repriced"), priced)
    else:
        report_study(place, others or [], top, out or _beside(place, "report"), write)


def _beside(folder: Path, name: str) -> Path:
    if folder.is_file():
        raise HarnessError(f"{folder} is a file; say by --out where the report goes")
    return folder / name


@app.command()
def export(folder: Folder, out: Annotated[Path, typer.Option(help="the file, e.g. study.parquet")]) -> None:
    """Write a study as one file, for others to report against: Parquet, nothing in it can be run."""
    from harness.reading import export_study

    export_study(folder, out)


@app.command()
def dashboard(
    folder: Folder, out: Annotated[Path, typer.Option(help="the file, e.g. dashboard.log")]
) -> None:
    """Write a copy of a study for optuna-dashboard: parameters, each metric by its name, attributes."""
    from harness.dashboard import write_dashboard

    typer.echo(f"{out}: {write_dashboard(folder, out)} trials; next: optuna-dashboard {out}")


@app.command()
def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="a new folder")],
    places: Annotated[list[Path], typer.Argument(metavar="DIR...", help="folders, or exported files")],
) -> None:
    """Join studies of one protocol, e.g. the shards of one; contradictions are reported, not decided."""
    from harness.reading import merge_studies

    merge_studies(out, places)


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="the folders of studies")],
    out: Annotated[Path, typer.Option(help="where to write")] = Path("comparison"),
) -> None:
    """Write ranks, means and performance profiles of solvers across studies."""
    from harness.reading import compare_studies
    from reports.compare import write_comparison

    compare_studies(folders, out, write_comparison)


@app.command()
def reproduce(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="a recipe; without one they are listed")] = "",
    scale: Annotated[str, typer.Option(help="smoke, small, paper, or one of the recipe's own")] = "small",
    out: Annotated[Path | None, typer.Option(help="where to; the same command there goes on")] = None,
    workers: Workers = None,
    executor: ExecutorName = "ray",
    data_dir: DataDir = None,
) -> None:
    """Reproduce an experiment of a paper: its studies, figures, tables, and a verdict for each claim."""
    from harness.launch import Execution
    from recipes.reproduce import print_recipes, run_recipe

    if not name:
        return print_recipes()
    execution = Execution(executor, workers, None, "auto")
    raise typer.Exit(run_recipe(name, scale, out or Path("runs") / name, execution, data_dir))


@app.command("list")
def list_plugins(plugins: PluginFile = None) -> None:
    """Every problem and solver that can be named."""
    from harness.listing import print_list

    print_list(plugins or [])


@app.command()
def show(name: Annotated[str, typer.Argument(metavar="NAME")], plugins: PluginFile = None) -> None:
    """The parameters of a solver and their usual ranges, or the options of a problem."""
    from harness.listing import print_plugin

    print_plugin(name, plugins or [])


@app.command("space")
def print_space(
    problem: ProblemName,
    solver: Annotated[str, typer.Argument(metavar="[SOLVER]", autocompletion=_names("solver"))] = "",
) -> None:
    """The shipped search space of a problem, or of one solver on it, as TOML."""
    from harness.space import shipped_text

    typer.echo(shipped_text(problem, solver))


@app.command()
def check(
    name: Annotated[str, typer.Argument(metavar="SOLVER|PROBLEM")],
    options: Option = None,
    plugins: PluginFile = None,
    data_dir: DataDir = None,
    limit: Annotated[float, typer.Option(help="seconds that a check may take")] = 300.0,
) -> None:
    """Does a plug-in do what it says? A verdict per check; exit code 1 where one fails."""
    from harness.commands import check_plugin

    raise typer.Exit(check_plugin(name, options or [], plugins or [], data_dir, limit))


@dataclass
class Settings:
    """debug: errors with their traceback. show: takes a trial's result, in place of stdout."""

    debug: bool = False
    show: Callable[[dict[str, Any]], None] | None = None


def main() -> None:
    """Errors of the user end in one line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # where a terminal lacks a letter
    words = [word for word in sys.argv[1:] if word != "--debug"]
    settings = Settings(len(words) < len(sys.argv) - 1)
    try:
        require_unshadowed()
        code = app(words, standalone_mode=False, obj=settings)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        code = 130
    except Exception as error:  # noqa: BLE001 - a user's mistake, or one of the option parser; else a defect
        text = explained(error)
        if settings.debug:
            show_traceback(error)
        elif text is None:
            raise
        code = _complain(text) if text else 2
    sys.exit(code)


def explained(error: Exception) -> str | None:
    """An error in words; None: a defect of ours."""
    if isinstance(error, HarnessError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error}; what is recorded is safe, the same command goes on from there"
    if hasattr(error, "format_message"):  # of the option parser
        return str(error.format_message())
    return shadowed_by(error)


def _complain(text: str) -> int:
    sys.stderr.write(f"error: {one_line(text)}\n")
    return 2
