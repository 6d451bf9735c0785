r"""Find a network that keeps a budget, and prove it.

Only networks that keep all that can be said before training are ever built.
They are trained for a few epochs, the promising ones further, and judged by
held-out digits. The smallest whose accuracy clears the budget's by a margin is
chosen; if there is none, the most accurate. It is then proved as `prove` does.

The same command goes on after a kill, and may run several times at once.
Exit code 1 unless the budget is met. Takes the extra: pip install
"tinydigits[search]"

Example:
  tinydigits search --budget era-s7 --minutes 30
  tinydigits search --budget sensor.toml --data folder:my-digits --trials 40
"""

import argparse
import math
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinydigits.cli.arguments import add_budget, add_data, add_engine, add_json, choose_engine
from tinydigits.cli.output import print_json, print_notice, print_plain, stderr_console, stdout_console
from tinydigits.errors import ConfigError, ToolMissingError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tinydigits.data.dataset import DigitData
    from tinydigits.models.budget import Budget
    from tinydigits.studies.halving import Trial
    from tinydigits.studies.plan import Limits, Plan
    from tinydigits.studies.runners import Engine
    from tinydigits.studies.search import Search


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `tinydigits search`."""
    add_budget(parser)
    parser.add_argument(
        "--minutes", metavar="X", type=float, default=30.0, help="time for trials; the proof comes after (default: 30)"
    )
    parser.add_argument("--trials", metavar="N", type=int, help="at most so many networks (default: what time allows)")
    parser.add_argument("--seeds", metavar="N", type=int, default=5, help="of the proof, 0 to N-1 (default: 5)")
    add_data(parser)
    add_engine(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, help="default: studies/search-BUDGET")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Refuse what nothing can keep, try networks, choose, prove, print."""
    _check(arguments)
    try:
        from tinydigits.studies.plan import Limits
        from tinydigits.studies.search import open_search
    except ModuleNotFoundError as error:
        raise ToolMissingError(
            f"the package {error.name} is not installed. Install what a search takes with "
            '`pip install "tinydigits[search]"`.'
        ) from error
    engine = choose_engine(arguments)
    limits = Limits(arguments.minutes, arguments.trials)
    budget, data, plan = _prepare(arguments, limits)
    directory = arguments.out or _default_directory(budget, data)
    try:
        with open_search(directory, plan, data, limits, arguments.workers) as (search, wait_for_others):
            document, study = _search(arguments, search, engine, wait_for_others)
    except KeyboardInterrupt:
        print(
            f"Interrupted. What is done is kept in {shlex.quote(str(directory))}, and the same command goes on.",
            file=sys.stderr,
        )
        return 130
    if arguments.json:
        print_json(document)
    else:
        _print(document, study)
    return 0 if document["verdict"]["verdict"] == "met" else 1


def _check(arguments: argparse.Namespace) -> None:
    if not arguments.budget:
        raise ConfigError("search needs a budget: what to keep to. Name one with --budget, such as --budget era-s7.")
    if not (math.isfinite(arguments.minutes) and arguments.minutes > 0):
        raise ConfigError(f"--minutes {arguments.minutes:g}: it is greater than 0; try 30.")
    for name in ("trials", "seeds"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} {value}: it is at least 1.")


def _prepare(arguments: argparse.Namespace, limits: "Limits") -> "tuple[Budget, DigitData, Plan]":
    """The budget, the digits, and how the networks will be trained; refuses what nothing can keep."""
    from tinydigits.data.sources import load_dataset
    from tinydigits.models.budget import load_budget
    from tinydigits.studies.plan import RECIPE, make_plan
    from tinydigits.studies.runners import default_workers
    from tinydigits.studies.space import refuse_impossible
    from tinydigits.training.config import RunConfig
    from tinydigits.training.recipes import get_recipe

    budget = load_budget(arguments.budget)
    refuse_impossible(budget)
    data = load_dataset(arguments.data or "auto", arguments.data_dir)
    if data.notice:
        print_notice(data.notice)
    config = RunConfig(
        model="net.toml",
        recipe=get_recipe(RECIPE),
        data=data.name,
        data_dir=str(arguments.data_dir) if arguments.data_dir else None,
        device="cuda" if arguments.gpu_share else "cpu",
        kernels="native" if _native(arguments) else "torch",
    )
    return budget, data, make_plan(budget, config, data, limits, arguments.workers or default_workers())


def _native(arguments: argparse.Namespace) -> bool:
    """Whether the kernels that train small networks faster can be had; another machine's compiler is not known here."""
    from tinydigits.errors import StorageError
    from tinydigits.training.native.library import load_kernels

    if arguments.gpu_share or arguments.address:
        return False
    try:
        load_kernels()
    except (ToolMissingError, StorageError):
        return False
    return True


def _default_directory(budget: "Budget", data: "DigitData") -> Path:
    """The same for the same question, so that the same command goes on with what it began."""
    from tinydigits.training.rundir import file_stem

    parts = ["search", file_stem(budget.name)]
    if data.name != "mnist":
        parts.append(file_stem(data.name))
    return Path("studies") / "-".join(parts)


def _search(
    arguments: argparse.Namespace, search: "Search", engine: "Engine", wait_for_others: Callable[[], None]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trials, choice, proof; returns `front.json`, with the verdict, and `study.json`."""
    from tinydigits.reports.front_plot import front_picture
    from tinydigits.storage import write_json

    console = stderr_console(quiet=arguments.quiet)
    _watch(search, engine, console)
    wait_for_others()
    document = search.conclude()
    front_picture(document, search.directory / "front.png")
    study, verdict = _prove(arguments, search, engine, document, console)
    document["verdict"] = verdict
    write_json(search.directory / "front.json", document)
    return document, study


def _prove(
    arguments: argparse.Namespace, search: "Search", engine: "Engine", document: Mapping[str, Any], console: "Console"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Prove what was chosen, as the command `prove` does."""
    from tinydigits.cli.prove import prove_seeds
    from tinydigits.models.inspect import inspect_model
    from tinydigits.models.registry import create_model
    from tinydigits.reports.tables import duration

    chosen, config = document["chosen"], search.proof_config()
    print_plain(console, f"Chosen: {chosen['network']} ({chosen['parameters']:,} parameters), {chosen['why']}.")
    time = duration(search.proof_seconds(document, arguments.seeds))
    runs = f"{arguments.seeds} seed{'s' * (arguments.seeds != 1)}"
    print_plain(console, f"Its proof: {runs}, {document['epochs']} epochs each, about {time} in all.")
    inspection = inspect_model(create_model(config.model), name=config.model)
    options = argparse.Namespace(seeds=arguments.seeds, workers=arguments.workers, quiet=arguments.quiet, twin=False)
    study = search.directory / f"proof-{chosen['trial']:04d}"
    return prove_seeds(options, engine, study, config, search.plan.budget, inspection, search.data)


def _watch(search: "Search", engine: "Engine", console: "Console") -> None:
    """A live table of the trials that run on a terminal; a line a network that is trained to the end elsewhere."""
    from rich.live import Live

    from tinydigits.reports.tables import duration, percent
    from tinydigits.studies.runners import JobDone, JobEpoch, JobPaused

    plan = search.plan
    print_plain(
        console,
        f"{plan.budget.name}: networks of at most {plan.limits.max_macs:,} MACs, {plan.epochs} epochs of "
        f"{plan.config.recipe.name} with {plan.config.kernels} kernels on {search.data.name}, "
        f"judged at epochs {', '.join(map(str, search.steps))}; "
        f"{duration(max(0.0, search.limits.seconds - search.elapsed))} left, in {search.directory}",
    )
    rows: dict[int, dict[str, Any]] = {}
    with Live(
        _table(search, rows), console=console, refresh_per_second=4, transient=True, auto_refresh=console.is_terminal
    ) as live:
        for trial, event in search.events(engine):
            if isinstance(event, JobEpoch):
                rows[trial.number] = {"trial": trial, **event.record}
            elif isinstance(event, JobPaused | JobDone):
                record = rows.pop(trial.number, None)
                if isinstance(event, JobDone) and record is not None:
                    seed = f", seed {trial.seed}" if trial.seed else ""
                    print_plain(
                        live.console,
                        f"trial {trial.number}{seed}: {percent(record['accuracy'])} held out, "
                        f"{trial.parameters:,} parameters: {_sketch(trial)}",
                    )
            live.update(_table(search, rows))


def _sketch(trial: "Trial") -> str:
    from tinydigits.studies.front import sketch

    return sketch(trial.design)


def _table(search: "Search", rows: Mapping[int, Mapping[str, Any]]) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from tinydigits.reports.tables import duration, percent

    trials = search.journal.trials()
    ended = sum(trial.epochs == search.plan.epochs for trial in trials)
    left = duration(max(0.0, search.limits.seconds - search.elapsed))
    title = f"{len(trials)} trials, {ended} to the last epoch, {left} left"
    table = Table(
        "trial", "epoch", "held out", "params", box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left"
    )
    table.add_column("network", no_wrap=True)
    for number, row in sorted(rows.items()):
        trial = row["trial"]
        table.add_row(
            str(number),
            f"{row['epoch']}/{trial.until}",
            percent(row["accuracy"]),
            f"{trial.parameters:,}",
            Text(_sketch(trial)),
        )
    return table


def _print(document: Mapping[str, Any], study: Mapping[str, Any]) -> None:
    from tinydigits.cli.prove import print_proof
    from tinydigits.reports.tables import front_table

    screen = stdout_console()
    chosen, trials, candidates = document["chosen"], document["trials"], document["candidates"]
    screen.print(front_table(document["front"], chosen["trial"]))
    words = [
        f"{trials['begun']} networks tried, {trials['complete']} to the last epoch",
        f"{candidates['costed']:,} candidates costed",
        f"{document['over_budget_built']} built over the budget",
    ]
    if document["busy_share"] is not None:
        words.append(f"workers {100 * document['busy_share']:.0f} % busy")
    print_plain(screen, "; ".join(words))
    print_plain(screen, f"Chosen: {chosen['network']}, {chosen['why']}.")
    print_proof(study, document["verdict"])
    names = ", ".join(f"{document['search_dir']}/{name}" for name in ("net.toml", "front.png", "front.json"))
    print_plain(screen, f"Network, picture and figures: {names}")
