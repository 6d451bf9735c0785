r"""Train a network with several seeds, and report what this proves about a budget.

One process per core, one thread each, on this machine or on a Ray cluster.
Rerun the same command after an interruption: finished runs are kept,
unfinished ones resume from their last epoch. Exit code 1 unless the budget is
met; 0 without a budget.

Example:
  tinydigits prove plain-9k --recipe documented-plain-9k \
      --budget document-plain-9k --seeds 8
  tinydigits prove net.py:Net --budget era-s7 --epochs 15
  tinydigits prove tiny-10k --seeds 20 --engine ray --address auto
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tinydigits.cli import arguments as options
from tinydigits.cli.output import live_table, print_plain, print_result, print_warning, resumable, stderr_console
from tinydigits.records import Epoch, ProofResult, StudyResult

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tinydigits.studies.engines.jobs import Event, Job
    from tinydigits.studies.prove import Study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser, default=None)
    parser.add_argument("--seeds", metavar="N", type=int, default=5, help="seeds 0 to N-1 (default: 5)")
    options.add_budget(parser)
    options.add_recipe(parser)
    options.add_data(parser)
    options.add_split(parser)
    options.add_backend(parser)
    words = "also train a calibration run (seed 0, without the validation digits) and calibrate with it"
    parser.add_argument("--calibrate", action="store_true", help=words)
    options.add_engine(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, help="default: studies/MODEL-RECIPE")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from tinydigits.inspection.budget import load_budget
    from tinydigits.studies.prove import plan_study, run_study

    engine = options.choose_engine(arguments)
    budget = load_budget(arguments.budget) if arguments.budget else None
    config = options.config_from_arguments(arguments)
    if arguments.gpu_fraction:
        config = replace(config, device="cuda")
    elif arguments.address and config.backend == "auto":  # whether the cluster's machines have a compiler, who knows
        config = replace(config, backend="torch")
    study = plan_study(config, budget, arguments.out)
    print_warning(study.data.warning)
    watch = StudyWatch(study, arguments.seeds, stderr_console(quiet=arguments.quiet))
    with resumable(study.directory):
        result, proof = run_study(study, arguments.seeds, calibrate=arguments.calibrate, engine=engine, watch=watch)
    print_result(proof, arguments.json, partial(print_proof, result))
    return 0 if budget is None or proof.verdict == "met" else 1


@dataclass
class RunRow:
    """A run, as the live table shows it."""

    name: str
    epochs: int
    state: str = "waiting"
    last: Epoch | None = None


class StudyWatch:
    """Shows how far the runs of a study have come: a live table on a terminal; one line per finished run elsewhere."""

    def __init__(self, study: "Study", seeds: int, console: "Console") -> None:
        self.study, self.seeds, self.console = study, seeds, console

    def __call__(self, jobs: "Sequence[Job]", events: "Iterator[Event]") -> "Iterator[Event]":
        """The events, shown."""
        from tinydigits.reports.analysis import plural
        from tinydigits.reports.tables import duration, percent
        from tinydigits.studies.engines.jobs import JobDone, JobEpoch
        from tinydigits.studies.study import finished_runs

        config, directory = self.study.config, self.study.directory
        if (finished := finished_runs(directory)) > self.seeds:
            kept = f"{directory} holds {finished} finished runs, and all of them count"
            print_warning(f"{kept}: leaving some out would be choosing by result.")
        what = f"{config.model}, recipe {config.recipe.name}, {config.backend} backend"
        print_plain(self.console, f"{what}: {plural(len(jobs), 'run')} to train, in {directory}")
        rows = [RunRow(job.directory.name, job.config.recipe.epochs) for job in jobs]
        with live_table(self.console, live_runs_table(rows)) as live:
            for event in events:
                row = rows[event.job]
                if isinstance(event, JobEpoch):
                    row.last, row.state = event.epoch, "training"
                elif isinstance(event, JobDone):
                    row.state = "done"
                    epochs, time = plural(event.result.epochs, "epoch"), duration(event.result.time_seconds)
                    print_plain(live.console, f"{row.name}: {percent(event.result.accuracy)} after {epochs}, {time}")
                else:
                    row.state = "died, resumed"
                    print_plain(live.console, f"{row.name}: its process died; another one resumes it")
                live.update(live_runs_table(rows))
                yield event


def live_runs_table(rows: Sequence[RunRow]) -> "Table":
    """The live table."""
    from rich import box
    from rich.table import Table

    from tinydigits.reports.tables import percent

    table = Table("run", "epoch", "loss", "accuracy", "time left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("state", min_width=len("died, resumed"))
    for row in rows:
        cells = ["", "", "", ""]
        if last := row.last:
            left = round((row.epochs - last.epoch) * last.time_seconds)
            time = f"{left // 60}:{left % 60:02d}" if row.state != "done" else ""
            cells = [f"{last.epoch}/{row.epochs}", f"{last.train_loss:.4f}", percent(last.accuracy), time]
        table.add_row(row.name, *cells, row.state)
    return table


def print_proof(result: StudyResult, proof: ProofResult, screen: "Console") -> None:
    """What `prove` shows in the end."""
    from tinydigits.inspection.clause_table import clause_table
    from tinydigits.reports.tables import calibration_table, interval_text, study_table

    screen.print(study_table(result))
    interval = f"{interval_text(result.interval)}, 95 % two-way bootstrap of the final epochs"
    print_plain(screen, f"On new digits of this kind: {interval}")
    if result.calibration:
        screen.print(calibration_table(result.calibration))
    if proof.clauses:
        screen.print(clause_table(proof.clauses))
    print_plain(screen, proof.line, "bold")
    print_plain(screen, f"Study: {proof.study_dir}")
