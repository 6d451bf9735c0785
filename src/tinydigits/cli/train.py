"""Train a network and leave a run directory with its weights, curves and result.

Without arguments: tiny-10k with the recipe `fast`, on MNIST if available.
Ctrl-C finishes the current step and saves; --resume ends with bit-identical
weights. With --budget, a network that cannot meet it is rejected before
training; otherwise the run gets a verdict, and the exit code is 1 if a clause
failed or was not judged.

--find-lr trains briefly at increasing learning rates, suggests one, and
leaves learning_rate.png and .json in a directory of its own.

Example:
  tinydigits train plain-9k --recipe documented-plain-9k --seed 1
  tinydigits train net.py:Net --epochs 5 --data folder:my-digits
  tinydigits train era-8k --recipe era --budget era-s7
  tinydigits train --resume runs/tiny-10k-001
  tinydigits train net.py:Net --find-lr
"""

import argparse
import shlex
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tinydigits.cli import arguments as options
from tinydigits.cli.output import print_json, print_plain, print_warning, stderr_console, stdout_console
from tinydigits.errors import ConfigError
from tinydigits.records import SPLIT_NAMES, Epoch, Verdict

if TYPE_CHECKING:
    from rich.console import Console
    from torch.utils.tensorboard import SummaryWriter

    from tinydigits.training.run import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser, default=None)
    options.add_recipe(parser)
    options.add_data(parser)
    options.add_split(parser)
    words = "random seed for weights, shuffling, augmentation, dropout (default: 0)"
    parser.add_argument("--seed", metavar="S", type=int, help=words)
    options.add_device(parser)
    options.add_backend(parser)
    options.add_budget(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, help="a new directory (default: the next runs/MODEL-NNN)")
    parser.add_argument("--resume", metavar="DIR", type=Path, help="resume the run in DIR")
    parser.add_argument("--find-lr", action="store_true", help="do not train: suggest a learning rate")
    words = "also write RUN/tensorboard: scalars, graph, pictures (requires the extra `tensorboard`)"
    parser.add_argument("--tensorboard", action="store_true", help=words)
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from tinydigits.inspection.budget import list_budgets, load_budget
    from tinydigits.training.run import finish_run, resume_run, start_run

    if arguments.find_lr:
        from tinydigits.cli import find_lr

        _reject_conflicts_with_find_lr(arguments)
        return find_lr.run(arguments)
    if arguments.tensorboard:
        from tinydigits.training.tensorboard import require_tensorboard

        require_tensorboard()
    budget = load_budget(arguments.budget) if arguments.budget else None
    console = stderr_console(quiet=arguments.quiet)
    if arguments.resume:
        _reject_conflicts_with_resume(arguments)
        training = resume_run(arguments.resume, budget=budget, data_dir=arguments.data_dir)
    else:
        training = start_run(options.config_from_arguments(arguments), arguments.out, budget=budget)
    _announce(training, console)
    flag = f" --budget {shlex.quote(arguments.budget)}" if budget else ""
    board = _open_board(training) if arguments.tensorboard else None
    with _interruptible() as interrupted:
        if not _train(training, console, interrupted, board):
            resume = f"tinydigits train --resume {shlex.quote(str(training.directory))}{flag}"
            print_plain(stderr_console(), f"Interrupted and saved. Resume with: {resume}")
            return 130
        _draw(training)  # before the result, so that a run finished by this command has its pictures
        result = finish_run(training)
        if board is not None:
            _show_pictures(board, training)
            board.close()
    if arguments.json:
        print_json(result)
    else:
        from tinydigits.reports.tables import run_table

        screen = stdout_console()
        screen.print(run_table(result))
        if result.verdict:
            print_plain(screen, _verdict_text(training, result.verdict), "bold" if budget else "")
            if result.verdict.verdict == "plausible":
                documented = f"document-{training.config.model}"
                flag = flag or (f" --budget {documented}" if documented in list_budgets() else "")
                what = "To prove it" if flag else "To train several seeds"  # our own goals are no budgets
                config = shlex.quote(str(training.directory / "config.json"))
                print_plain(screen, f"{what}, with the same settings: tinydigits prove --config {config}{flag}")
        print_plain(screen, f"Weights, curves and result: {training.directory}")
    return 1 if budget and result.verdict and result.verdict.verdict in ("failed", "not judged") else 0


def _verdict_text(training: "Run", verdict: Verdict) -> str:
    from tinydigits.models.registry import target_of

    model = training.config.model
    stated = f"{model} as reported" if (target := target_of(model)) and target.documented else f"Goal of {model}"
    subject = f"Budget {verdict.budget}" if verdict.budget else stated
    return f"{subject} ({verdict.wording}): {verdict.verdict}, {verdict.reason}."


def _reject_conflicts_with_resume(arguments: argparse.Namespace) -> None:
    allowed = ("quiet", "json", "resume", "command", "budget", "data_dir", "tensorboard")
    if given := ", ".join(options.given_options(arguments, allowed)):
        raise ConfigError(f"--resume continues the run as it was begun, so {given} cannot be changed. Omit that.")


def _reject_conflicts_with_find_lr(arguments: argparse.Namespace) -> None:
    given = options.given_options(arguments, ())
    conflicting = ", ".join(
        name for name in ("--resume", "--budget", "--tensorboard", "--learning-rate") if name in given
    )
    if conflicting:
        raise ConfigError(f"--find-lr trains nothing that is kept, so {conflicting} has no effect. Omit that.")


def _announce(training: "Run", console: "Console") -> None:
    config, recipe = training.config, training.config.recipe
    print_warning(training.data.warning)  # despite --quiet: these are not the digits that the user expects
    counts = [len(digits.labels) for digits in (training.task.train, training.task.evaluation)]
    plain = recipe.epochs - recipe.augmented_epochs
    backend = f"{config.backend} backend" + (f" ({training.why_torch})" if training.why_torch else "")
    augmented = f"the last {plain} not augmented" if recipe.augmented_epochs and plain else "augmented"
    lines = (
        f"{config.model}, {training.parameters:,} parameters, on {counts[0]:,} digits of {training.data.name}, "
        f"evaluated on {counts[1]:,} {SPLIT_NAMES[config.split]} digits",
        f"recipe {recipe.name}: {recipe.epochs} epoch{'s' * (recipe.epochs > 1)}, "
        f"{augmented if recipe.augmented_epochs else 'not augmented'}, batch {recipe.batch_size}; seed {config.seed}; "
        f"{config.device}, {config.threads} thread{'s' * (config.threads != 1)}, {backend}; "
        f"into {training.directory}",
    )
    print_plain(console, "\n".join(lines))


def _train(training: "Run", console: "Console", interrupted: threading.Event, board: "SummaryWriter | None") -> bool:
    """Train to the end with one line per epoch; False when it was interrupted (and saved)."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from tinydigits.training.run import run_epochs, save_run
    from tinydigits.training.tensorboard import note_epoch

    total = training.config.recipe.epochs * training.task.steps_per_epoch
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), TextColumn("left"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        bar_task = bar.add_task("training", total=total, completed=training.state.steps_done)
        for record in run_epochs(training):
            if isinstance(record, Epoch):
                bar.console.print(_epoch_line(record, training), soft_wrap=True)
                if board is not None:
                    note_epoch(board, training, record)
            bar.update(bar_task, completed=training.state.steps_done)
            if interrupted.is_set() and training.state.steps_done < total:
                save_run(training)
                return False
    return True


def _epoch_line(record: Epoch, training: "Run") -> str:
    epochs, digits = training.config.recipe.epochs, SPLIT_NAMES[training.config.split]
    done = training.state.epochs[-3:]
    left = round((epochs - record.epoch) * sum(e.time_seconds for e in done) / len(done))
    return (
        f"epoch {record.epoch:>{len(str(epochs))}}/{epochs}  loss {record.train_loss:.4f}  "
        f"train {100 * record.train_accuracy:6.2f} %  {digits} {100 * record.accuracy:6.2f} %  "
        f"{record.images_per_second:>8,.0f} images/s  {left // 60}:{left % 60:02d} left"
    )


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """It is set once Ctrl-C or a polite kill has come; the second Ctrl-C stops at once."""
    interrupted = threading.Event()

    def note(_number: int, _frame: object) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _draw(training: "Run") -> None:
    from tinydigits.reports.plots import augmentation_preview, training_curve
    from tinydigits.training.run import preview_augmentation

    evaluated_on = SPLIT_NAMES[training.config.split]
    training_curve(training.state.epochs, training.directory / "curve.png", evaluated_on)
    if pictures := preview_augmentation(training):
        augmentation_preview(pictures.originals, pictures.augmented, training.directory / "augmentation.png")


def _open_board(training: "Run") -> "SummaryWriter":
    from tinydigits.training.tensorboard import open_board

    board = open_board(training)
    where = f"tensorboard --logdir {shlex.quote(str(training.directory))}"
    print_plain(stderr_console(), f"To watch: {where}")
    return board


def _show_pictures(board: "SummaryWriter", training: "Run") -> None:
    """Those of the run directory, and what the network still gets wrong."""
    from tinydigits.cli.evaluate import write_files
    from tinydigits.evaluation.evaluate import evaluate
    from tinydigits.training.tensorboard import add_picture

    result = evaluate(training.directory, training.data, training.config.split)
    with tempfile.TemporaryDirectory() as directory:
        write_files(result, training.data.split(result.split)[1], Path(directory))
        for folder in (training.directory, Path(directory)):
            for file in sorted(folder.glob("*.png")):
                add_picture(board, file)
