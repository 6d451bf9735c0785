"""Train a network and leave a run directory with its weights, curves and result.

Without arguments: tiny-10k with the recipe `fast`, on MNIST if it can be had.
Ctrl-C finishes the step and saves; --resume goes on to the very same weights.
--budget refuses what cannot keep it and judges what was trained: exit code 1
when a clause failed or could not be judged.

Example:
  tinydigits train plain-9k --recipe documented-plain-9k --seed 1
  tinydigits train net.py:Net --epochs 5 --data folder:my-digits
  tinydigits train era-8k --recipe era --budget era-s7
  tinydigits train --resume runs/tiny-10k-001
"""

import argparse
import shlex
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tinydigits.cli.arguments import (
    add_budget,
    add_data,
    add_device,
    add_json,
    add_model,
    add_protocol,
    add_recipe,
    run_config,
)
from tinydigits.cli.output import print_json, stderr_console, stdout_console

if TYPE_CHECKING:
    from rich.console import Console

    from tinydigits.training.loop import Epoch
    from tinydigits.training.run import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `tinydigits train`; what is left out is None, so that a config file can fill it in."""
    add_model(parser)
    add_recipe(parser)
    add_data(parser)
    add_protocol(parser)
    parser.add_argument(
        "--seed", metavar="S", type=int, help="of weights, shuffling, augmentation, dropout (default: 0)"
    )
    add_device(parser)
    add_budget(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, help="a new directory (default: the next runs/MODEL-NNN)")
    parser.add_argument("--resume", metavar="DIR", type=Path, help="go on with the run in DIR")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train, watch, draw, summarise."""
    from tinydigits.models.budget import load_budget
    from tinydigits.training.run import finish_run, resume_run, start_run

    budget = load_budget(arguments.budget) if arguments.budget else None
    console = stderr_console(quiet=arguments.quiet)
    if arguments.resume:
        _refuse_beside_resume(arguments)
        training = resume_run(arguments.resume, budget=budget, data_dir=arguments.data_dir)
    else:
        training = start_run(run_config(arguments), arguments.out, budget=budget)
    _announce(training, console)
    flag = f" --budget {shlex.quote(arguments.budget)}" if budget else ""
    with _interruptible() as interrupted:
        if not _watch(training, console, interrupted):
            resume = f"tinydigits train --resume {shlex.quote(str(training.directory.path))}{flag}"
            stderr_console().print(f"Interrupted and saved. Go on with: {resume}", markup=False, soft_wrap=True)
            return 130
        _draw(training)  # before the result: a run without pictures is not finished
        result = finish_run(training)
    if arguments.json:
        print_json(result)
    else:
        from tinydigits.reports.tables import run_table

        screen = stdout_console()
        screen.print(run_table(result))
        if result["verdict"]:
            screen.print(_verdict_text(result), style="bold" if budget else "", markup=False, soft_wrap=True)
            if budget and result["verdict"]["verdict"] == "plausible":
                proof = f"To prove it, with the same recipe: tinydigits prove {result['model']}{flag}"
                screen.print(proof, markup=False, soft_wrap=True)
        screen.print(f"Weights, curves and result: {training.directory.path}", markup=False, soft_wrap=True)
    return 1 if budget and result["verdict"]["verdict"] in ("failed", "not judged") else 0


def _verdict_text(result: Mapping[str, Any]) -> str:
    verdict, budget = result["verdict"], result["budget"]
    subject = f"Budget {budget}" if budget else f"Claim of {result['model']}"
    return f"{subject} ({verdict['claim']}): {verdict['verdict']}, {verdict['reason']}."


def _refuse_beside_resume(arguments: argparse.Namespace) -> None:
    from tinydigits.errors import ConfigError

    beside = ("quiet", "json", "resume", "command", "budget", "data_dir")
    given = [key for key, value in vars(arguments).items() if value is not None and key not in beside]
    if given:
        names = ", ".join("MODEL" if key == "model" else "--" + key.replace("_", "-") for key in given)
        raise ConfigError(
            f"--resume goes on with the run as it was begun, so {names} cannot be changed. Leave that out."
        )


def _announce(training: "Run", console: "Console") -> None:
    config, recipe = training.config, training.config.recipe
    if training.notice:  # whatever --quiet says: these are not the digits that were asked for
        stderr_console().print(training.notice, style="bold yellow", markup=False, soft_wrap=True)
    judged = "test digits" if config.protocol == "final" else "held-out training digits"
    counts = [len(digits.labels) for digits in (training.train, training.judge)]
    plain = recipe.epochs - recipe.augmented_epochs
    augmented = f"the last {plain} not augmented" if recipe.augmented_epochs and plain else "augmented"
    lines = (
        f"{config.model}, {training.parameters:,} parameters, on {counts[0]:,} digits of {training.data_name}, "
        f"judged by {counts[1]:,} {judged}",
        f"recipe {recipe.name}: {recipe.epochs} epoch{'s' * (recipe.epochs > 1)}, "
        f"{augmented if recipe.augmented_epochs else 'not augmented'}, batch {recipe.batch_size}; seed {config.seed}; "
        f"{config.device}, {config.threads} thread{'s' * (config.threads != 1)}; into {training.directory.path}",
    )
    console.print(*lines, sep="\n", markup=False, soft_wrap=True)


def _watch(training: "Run", console: "Console", interrupted: list[int]) -> bool:
    """Train to the end with a line an epoch; False when it was interrupted (and saved)."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from tinydigits.training.loop import Epoch
    from tinydigits.training.run import run_epochs, save_run

    judged = "test" if training.config.protocol == "final" else "held-out"
    total = training.config.recipe.epochs * len(training.state.losses)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), TextColumn("left"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("training", total=total, completed=training.state.step)
        for record in run_epochs(training):
            if isinstance(record, Epoch):
                bar.console.print(_epoch_line(record, training, judged), soft_wrap=True)
            bar.update(task, completed=training.state.step)
            if interrupted and training.state.step < total:
                save_run(training)
                return False
    return True


def _epoch_line(record: "Epoch", training: "Run", judged: str) -> str:
    epochs = training.config.recipe.epochs
    done = training.state.epochs[-3:]
    left = round((epochs - record.epoch) * sum(e.time_seconds for e in done) / len(done))
    return (
        f"epoch {record.epoch:>{len(str(epochs))}}/{epochs}  loss {record.train_loss:.4f}  "
        f"train {100 * record.train_accuracy:6.2f} %  {judged} {100 * record.accuracy:6.2f} %  "
        f"{record.images_per_second:>8,.0f} images/s  {left // 60}:{left % 60:02d} left"
    )


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """A list that holds the signal once Ctrl-C or a polite kill has come; the second Ctrl-C stops at once."""
    received: list[int] = []

    def note(number: int, _frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _draw(training: "Run") -> None:
    from tinydigits.reports.plots import augmentation_preview, training_curve
    from tinydigits.training.run import preview_augmentation

    judged_by: Literal["test", "held-out"] = "test" if training.config.protocol == "final" else "held-out"
    epochs = [epoch.as_dict() for epoch in training.state.epochs]
    training_curve(epochs, training.directory.path / "curve.png", judged_by)
    if pictures := preview_augmentation(training):
        augmentation_preview(*pictures, training.directory.path / "augmentation.png")
