r"""Train a network with several seeds, and say what that proves of a budget.

One process a core, one thread each, on this machine or on a Ray cluster; or
all seeds at once, on a GPU. The same command goes on after a kill: finished
runs are kept, unfinished ones go on from their last epoch. Exit code 1 unless
the budget is met.

Example:
  tinydigits prove plain-9k --recipe documented-plain-9k \
      --budget document-plain-9k --seeds 8
  tinydigits prove net.py:Net --budget era-s7 --epochs 15
  tinydigits prove tiny-10k --seeds 20 --engine ray --address auto
"""

import argparse
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinydigits.cli.arguments import (
    add_budget,
    add_data,
    add_engine,
    add_json,
    add_kernels,
    add_model,
    add_protocol,
    add_recipe,
    choose_engine,
    run_config,
)
from tinydigits.cli.output import print_json, print_notice, print_plain, stderr_console, stdout_console
from tinydigits.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tinydigits.data.dataset import DigitData
    from tinydigits.models.budget import Budget
    from tinydigits.models.inspect import Inspection
    from tinydigits.studies.runners import Engine, Event, Job
    from tinydigits.training.config import RunConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `tinydigits prove`."""
    add_model(parser)
    parser.add_argument("--seeds", metavar="N", type=int, default=5, help="seeds 0 to N-1 (default: 5)")
    add_budget(parser)
    add_recipe(parser)
    add_data(parser)
    add_protocol(parser)
    add_kernels(parser)
    parser.add_argument(
        "--twin",
        action="store_true",
        help="also train the tune twin (seed 0, without the held-out digits) and calibrate by it",
    )
    add_engine(parser, stacked=True)
    parser.add_argument("--out", metavar="DIR", type=Path, help="default: studies/MODEL-RECIPE")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Refuse what cannot be met, train what is missing, judge, write, print."""
    if arguments.seeds < 1:
        raise ConfigError(f"--seeds {arguments.seeds}: it is at least 1.")
    engine = choose_engine(arguments)
    config, budget, inspection, data = _prepare(arguments)
    study = arguments.out or _default_directory(config)
    try:
        document, verdict = prove_seeds(arguments, engine, study, config, budget, inspection, data)
    except KeyboardInterrupt:
        print(
            f"Interrupted. What is finished is kept in {shlex.quote(str(study))}, and the same command goes on.",
            file=sys.stderr,
        )
        return 130
    if arguments.json:
        print_json(verdict)
    else:
        print_proof(document, verdict)
    return 0 if budget is None or verdict["verdict"] == "met" else 1


def prove_seeds(
    arguments: argparse.Namespace,
    engine: "Engine",
    study: Path,
    config: "RunConfig",
    budget: "Budget | None",
    inspection: "Inspection",
    data: "DigitData",
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train, collect, judge; returns what stands in study.json and in verdict.json."""
    from tinydigits.reports.badge import badge
    from tinydigits.storage import write_bytes
    from tinydigits.studies.prove import collect, finished_runs, judge, open_jobs, open_study

    console = stderr_console(quiet=arguments.quiet)
    with open_study(study, config):
        n = max(arguments.seeds, finished_runs(study))
        if n > arguments.seeds:
            print_notice(
                f"{study} holds {n} finished runs, and all are judged: leaving out some would be choosing by result."
            )
        jobs = open_jobs(study, config, range(n), twin=arguments.twin)
        runs = _count(len(jobs), "run")
        print_plain(console, f"{config.model}, recipe {config.recipe.name}: {runs} to train, in {study}")
        _watch(jobs, engine, arguments.workers, console)
        held_out = data.split("tune")[1] if arguments.twin else None
        document = collect(study, config, range(n), held_out, data.notice)
        verdict = judge(study, document, budget, inspection)
        label, figure = verdict["budget"] or "tinydigits", f"{100 * verdict['mean']:.2f} % · n = {verdict['n']}"
        write_bytes(study / "badge.svg", badge(label, verdict["verdict"], figure).encode())
    return document, verdict


def _count(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'s' * (number != 1)}"


def _prepare(arguments: argparse.Namespace) -> "tuple[RunConfig, Budget | None, Inspection, DigitData]":
    """The config with its digits settled, the budget, the network's inspection; refuses before any training."""
    from dataclasses import replace

    from tinydigits.data.sources import load_dataset
    from tinydigits.models.budget import load_budget, refuse
    from tinydigits.models.inspect import inspect_model
    from tinydigits.models.registry import canonical_name, create_model
    from tinydigits.training.run import choose_device

    config = run_config(arguments)
    device = "cuda" if arguments.gpu_share else "cpu"
    if arguments.engine == "stacked":
        device = choose_device("auto").type
    config = replace(config, model=canonical_name(config.model), threads=1, device=device)
    inspection = inspect_model(create_model(config.model), name=config.model)
    budget = load_budget(arguments.budget) if arguments.budget else None
    if budget is not None:
        refuse(budget, inspection, config.recipe.epochs)
    data = load_dataset(config.data, config.data_dir)
    if data.notice:
        print_notice(data.notice)
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


def _watch(jobs: "list[Job]", engine: "Engine", workers: int | None, console: "Console") -> None:
    """A live table of all runs on a terminal; a line a finished run elsewhere."""
    from rich.live import Live

    from tinydigits.reports.tables import duration, percent
    from tinydigits.studies.runners import JobDone, JobRepeated

    rows = [{"run": job.directory.name, "epochs": job.config.recipe.epochs, "state": "waiting"} for job in jobs]
    with Live(
        _table(rows), console=console, refresh_per_second=4, transient=True, auto_refresh=console.is_terminal
    ) as live:
        for event in engine(jobs, workers):
            _note(rows[event.job], event)
            live.update(_table(rows))
            if isinstance(event, JobDone):
                result = event.result
                live.console.print(
                    f"{rows[event.job]['run']}: {percent(result['accuracy'])} after "
                    f"{_count(result['epochs'], 'epoch')}, {duration(result['time_seconds'])}",
                    soft_wrap=True,
                )
            elif isinstance(event, JobRepeated):
                live.console.print(f"{rows[event.job]['run']}: its process died; it goes on in another", soft_wrap=True)


def _note(row: dict[str, Any], event: "Event") -> None:
    from tinydigits.studies.runners import JobDone, JobEpoch

    if isinstance(event, JobEpoch):
        row.update(event.record, state="training")
    elif isinstance(event, JobDone):
        row["state"] = "done"
    else:
        row["state"] = "died, once more"


def _table(rows: list[dict[str, Any]]) -> "Table":
    from rich import box
    from rich.table import Table

    from tinydigits.reports.tables import percent

    table = Table("run", "epoch", "loss", "accuracy", "time left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("state", min_width=len("died, once more"))
    for row in rows:
        if "epoch" not in row:
            table.add_row(row["run"], "", "", "", "", row["state"])
            continue
        left = round((row["epochs"] - row["epoch"]) * row["time_seconds"])
        table.add_row(
            row["run"],
            f"{row['epoch']}/{row['epochs']}",
            f"{row['train_loss']:.4f}",
            percent(row["accuracy"]),
            f"{left // 60}:{left % 60:02d}" if row["state"] != "done" else "",
            row["state"],
        )
    return table


def print_proof(document: Mapping[str, Any], verdict: Mapping[str, Any]) -> None:
    """What `prove` shows in the end, from study.json and verdict.json."""
    from tinydigits.reports.tables import calibration_table, clause_table, interval_text, study_table

    screen = stdout_console()
    screen.print(study_table(document))
    interval = f"{interval_text(document['interval'])}, 95 % two-way bootstrap of the final epochs"
    print_plain(screen, f"On new digits of this kind: {interval}")
    if document["calibration"]:
        screen.print(calibration_table(document["calibration"]))
    if verdict["clauses"]:
        screen.print(clause_table(verdict["clauses"]))
    print_plain(screen, verdict["line"], "bold")
    print_plain(screen, f"Evidence: {verdict['study_dir']}")
