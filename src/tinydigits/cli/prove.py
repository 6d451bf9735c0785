"""Train the same network with several seeds, and say what that proves of a budget.

  tinydigits prove plain-9k --recipe documented-plain-9k --budget document-plain-9k --seeds 8
  tinydigits prove net.py:Net --budget era-s7 --epochs 15

One process a core, one thread each. The same command goes on after a kill: finished runs are kept, unfinished ones go
on from their last epoch. Exit code 1 unless the budget is met.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinydigits.cli.arguments import add_budget, add_data, add_json, add_model, add_protocol, add_recipe, run_config
from tinydigits.cli.output import print_json, stderr_console, stdout_console
from tinydigits.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tinydigits.data.dataset import DigitData
    from tinydigits.models.budget import Budget
    from tinydigits.models.inspect import Inspection
    from tinydigits.studies.runners import Job, JobDone, JobEpoch, JobRepeated
    from tinydigits.training.config import RunConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `tinydigits prove`."""
    add_model(parser)
    parser.add_argument("--seeds", metavar="N", type=int, default=5, help="seeds 0 to N-1 (default: 5)")
    add_budget(parser)
    add_recipe(parser)
    add_data(parser)
    add_protocol(parser)
    parser.add_argument(
        "--twin",
        action="store_true",
        help="also train the tune twin (seed 0, without the held-out digits) and calibrate by it",
    )
    parser.add_argument("--workers", metavar="N", type=int, help="processes (default: one per core)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="default: studies/MODEL-RECIPE")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Refuse what cannot be met, train what is missing, judge, write, print."""
    from tinydigits.reports.badge import badge
    from tinydigits.storage import write_bytes
    from tinydigits.studies.prove import collect, judge, open_jobs, open_study

    for name in ("seeds", "workers"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} {value}: it is at least 1.")
    console = stderr_console(quiet=arguments.quiet)
    config, budget, inspection, data = _prepare(arguments, console)
    held_out = data.split("tune")[1] if arguments.twin else None
    study = arguments.out or _default_directory(config)
    seeds = range(arguments.seeds)
    with open_study(study, config):
        jobs = open_jobs(study, config, seeds, twin=arguments.twin)
        sentence = f"{config.model}, recipe {config.recipe.name}: {len(jobs)} runs to train, in {study}"
        console.print(sentence, markup=False, soft_wrap=True)
        _watch(jobs, arguments.workers, console)
        document = collect(study, config, seeds, held_out)
        verdict = judge(study, document, budget, inspection)
        label, figure = verdict["budget"] or "tinydigits", f"{100 * verdict['mean']:.2f} % · n = {verdict['n']}"
        write_bytes(study / "badge.svg", badge(label, verdict["verdict"], figure).encode())
    if arguments.json:
        print_json(verdict)
    else:
        _print(document, verdict)
    return 0 if budget is None or verdict["verdict"] == "met" else 1


def _prepare(
    arguments: argparse.Namespace, console: "Console"
) -> "tuple[RunConfig, Budget | None, Inspection, DigitData]":
    """The config with its digits settled, the budget, the network's inspection; refuses before any training."""
    from dataclasses import replace

    from tinydigits.data.sources import load_dataset
    from tinydigits.models.budget import load_budget, refuse
    from tinydigits.models.inspect import inspect_model
    from tinydigits.models.registry import canonical_name, create_model

    config = run_config(arguments)
    config = replace(config, model=canonical_name(config.model), threads=1, device="cpu")
    inspection = inspect_model(create_model(config.model), name=config.model)
    budget = load_budget(arguments.budget) if arguments.budget else None
    if budget is not None:
        refuse(budget, inspection, config.recipe.epochs)
    data = load_dataset(config.data, Path(config.data_dir) if config.data_dir else None)
    if data.notice:
        console.print(data.notice, style="bold yellow", markup=False, soft_wrap=True)
    return replace(config, data=data.name), budget, inspection, data


def _default_directory(config: "RunConfig") -> Path:
    """The same for the same question, so that the same command goes on with what it began."""
    from tinydigits.training.rundir import file_stem

    parts = [file_stem(config.model), config.recipe.name]
    if config.data != "mnist":
        parts.append(file_stem(config.data))
    if config.protocol != "final":
        parts.append(config.protocol)
    return Path("studies") / "-".join(parts)


def _watch(jobs: "list[Job]", workers: int | None, console: "Console") -> None:
    """A live table of all runs on a terminal; a line a finished run elsewhere."""
    from rich.live import Live

    from tinydigits.studies.runners import JobDone, run_local

    rows = [{"run": job.directory.name, "epochs": job.config.recipe.epochs, "state": "waiting"} for job in jobs]
    with Live(
        _table(rows), console=console, refresh_per_second=4, transient=True, auto_refresh=console.is_terminal
    ) as live:
        for event in run_local(jobs, workers):
            _note(rows[event.job], event)
            live.update(_table(rows))
            if isinstance(event, JobDone):
                result = event.result
                live.console.print(
                    f"{rows[event.job]['run']}: {result['accuracy']:.2%} after {result['epochs']} epochs, "
                    f"{result['time_seconds']:,.0f} s"
                )


def _note(row: dict[str, Any], event: "JobEpoch | JobDone | JobRepeated") -> None:
    from tinydigits.studies.runners import JobDone, JobEpoch

    if isinstance(event, JobEpoch):
        row.update(event.record, state="training")
    elif isinstance(event, JobDone):
        row["state"] = "done"
    else:
        row["state"] = "its process died: once more"


def _table(rows: list[dict[str, Any]]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table("run", "epoch", "loss", "accuracy", "time left", "state", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        if "epoch" not in row:
            table.add_row(row["run"], "", "", "", "", row["state"])
            continue
        left = round((row["epochs"] - row["epoch"]) * row["time_seconds"])
        table.add_row(
            row["run"],
            f"{row['epoch']}/{row['epochs']}",
            f"{row['train_loss']:.4f}",
            f"{row['accuracy']:.2%}",
            f"{left // 60}:{left % 60:02d}" if row["state"] != "done" else "",
            row["state"],
        )
    return table


def _print(document: Mapping[str, Any], verdict: Mapping[str, Any]) -> None:
    from tinydigits.reports.tables import clause_table, study_table

    screen = stdout_console()
    screen.print(study_table(document))
    if verdict["clauses"]:
        screen.print(clause_table(verdict["clauses"]))
    screen.print(verdict["line"], style="bold", markup=False, soft_wrap=True)
    screen.print(f"Evidence: {verdict['study_dir']}", markup=False, soft_wrap=True)
