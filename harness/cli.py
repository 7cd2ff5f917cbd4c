"""The command line. It declares options only; what is heavy is imported by the command that needs it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.errors import HarnessError

app = typer.Typer(
    name="harness",
    help="Compare bilevel optimisation methods under one exact sample budget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ProblemName = Annotated[str, typer.Argument(metavar="PROBLEM", help="a problem of `harness list`")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="the folder of a study")]
Budget = Annotated[float, typer.Option(help="samples per trial")]
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
    Path | None, typer.Option("--space", help="a search space (TOML) instead of the shipped one")
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
Curves = Annotated[int, typer.Option(help="points along each trial with cheap metrics; 0: none")]


@app.command()
def run(
    problem: ProblemName,
    out: Annotated[Path, typer.Option(help="the folder of the study; the same command there resumes it")],
    budget: Budget,
    trials: Annotated[int, typer.Option(help="configurations per solver")],
    solvers: Annotated[str, typer.Option(help="names, with commas; default: all of the search space")] = "",
    seed: Seed = 1,
    data_seed: DataSeed = None,
    search_seed: Annotated[int | None, typer.Option(help="seed of the draws; default: --seed")] = None,
    workers: Annotated[
        int | None, typer.Option(help="packs at once; default: one per CPU, or per GPU")
    ] = None,
    pack: Annotated[str, typer.Option(help="trials per pack, or auto")] = "auto",
    device: Device = "auto",
    executor: Annotated[str, typer.Option(help="ray, or inline (this process)")] = "ray",
    address: Annotated[str | None, typer.Option(help="an existing Ray cluster, e.g. auto")] = None,
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
    evaluate_at: Annotated[
        str,
        typer.Option(
            metavar="SHARES", help="judge x by the final evaluation at these shares, e.g. 0.05,0.2,0.5"
        ),
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and stop")] = False,
) -> None:
    """Run a study, or resume it: one problem, some solvers, the same budget for every trial."""
    from harness.launch import Execution, Search, run_study
    from harness.options import numbers, prices
    from harness.rules import Rules
    from harness.worker import make_context

    shares = numbers("--evaluate-at", evaluate_at)
    rules = Rules(budget, prices(price or []), seed, divergence, system_failure, curves, shares)
    context = make_context(
        problem, options or [], plugins or [], data_dir, data_seed, device, rules, trial_timeout
    )
    search = Search(trials, solvers, space, sampler, search_seed, published)
    raise typer.Exit(run_study(context, search, Execution(executor, workers, address, pack), out, dry_run))


@app.command(context_settings={"ignore_unknown_options": False})
def trial(
    problem: ProblemName,
    solver: Annotated[str, typer.Argument(metavar="SOLVER")],
    budget: Budget,
    values: Annotated[
        list[str] | None, typer.Argument(metavar="NAME=VALUE", help="the configuration")
    ] = None,
    seed: Seed = 1,
    data_seed: DataSeed = None,
    device: Device = "cpu",
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
) -> None:
    """Run one configuration; ties and fixed values of the search space are filled in."""
    from harness.commands import run_trial
    from harness.options import prices
    from harness.rules import Rules
    from harness.worker import make_context

    rules = Rules(budget, prices(price or []), seed, divergence, system_failure, curves)
    context = make_context(
        problem, options or [], plugins or [], data_dir, data_seed, device, rules, trial_timeout
    )
    raise typer.Exit(run_trial(context, solver, values or [], space, as_json))


@app.command()
def replay(
    folder: Folder,
    trial: Annotated[str, typer.Argument(metavar="TRIAL", help="SOLVER/NUMBER, as reports name it")],
    tolerance: Annotated[
        float, typer.Option(help="relative difference of metrics that counts as equal")
    ] = 1e-3,
    data_dir: DataDir = None,
    device: Device = "cpu",
) -> None:
    """Run a recorded trial again, alone, and compare; exit code 1 where it differs."""
    from harness.commands import replay_trial

    raise typer.Exit(replay_trial(folder, trial, tolerance, data_dir, device))


@app.command()
def status(folder: Folder) -> None:
    """How far a study has come; works while a driver runs."""
    from harness.commands import show_status

    show_status(folder)


@app.command()
def report(
    folder: Folder,
    top: Annotated[int, typer.Option(help="best trials a solver is judged by")] = 10,
    out: Annotated[
        Path | None, typer.Option(help="where to write; default: DIR/report, with prices DIR/repriced")
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND=PRICE", help="rank at other prices of a sample, or of seconds=1"),
    ] = None,
    budget: Annotated[float | None, typer.Option(help="budget in these prices; default: the study's")] = None,
) -> None:
    """Write tables, figures and a page of a recorded study."""
    from harness.commands import report_study
    from harness.options import prices
    from reports.report import write_report

    if price or budget is not None:
        from reports.pricing import at_prices

        writer = at_prices(prices(price or []), budget, write_report)
        report_study(folder, top, out or folder / "repriced", writer)
    else:
        report_study(folder, top, out or folder / "report", write_report)


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="the folders of studies")],
    out: Annotated[Path, typer.Option(help="where to write")] = Path("comparison"),
) -> None:
    """Write ranks, means and performance profiles of solvers across studies."""
    from harness.commands import compare_studies
    from reports.compare import write_comparison

    compare_studies(folders, out, write_comparison)


@app.command("list")
def list_plugins(plugins: PluginFile = None) -> None:
    """Every problem and solver that can be named."""
    from harness.listing import print_list

    print_list(plugins or [])


@app.command()
def show(name: Annotated[str, typer.Argument(metavar="NAME")], plugins: PluginFile = None) -> None:
    """The parameters of a solver or the options of a problem."""
    from harness.listing import print_plugin

    print_plugin(name, plugins or [])


@app.command()
def check(
    name: Annotated[str, typer.Argument(metavar="SOLVER|PROBLEM")],
    options: Option = None,
    plugins: PluginFile = None,
    data_dir: DataDir = None,
) -> None:
    """Does a plug-in do what it says? A verdict per check; exit code 1 where one fails."""
    from harness.commands import check_plugin

    raise typer.Exit(check_plugin(name, options or [], plugins or [], data_dir))


def main() -> None:
    """Errors of the user end in one line and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except HarnessError as error:
        code = _complain(str(error))
    except OSError as error:
        code = _complain(f"{error}; what is recorded is safe, the same command goes on from there")
    except KeyboardInterrupt:
        code = 130
    except Exception as error:  # noqa: BLE001 - usage errors of the option parser; anything else is a defect
        if not hasattr(error, "format_message"):
            raise
        code = _complain(error.format_message()) if error.format_message() else 2
    sys.exit(code)


def _complain(text: str) -> int:
    sys.stderr.write("error: " + " ".join(text.split()) + "\n")
    return 2
