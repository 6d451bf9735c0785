"""`tinydigits train --find-lr`: the learning-rate range test, its picture and its suggestion."""

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tinydigits.cli.arguments import config_from_arguments
from tinydigits.cli.output import print_json, print_plain, print_warning, stderr_console, stdout_console

if TYPE_CHECKING:
    from rich.console import Console

    from tinydigits.records import LearningRateResult, RateTrial
    from tinydigits.training.config import RunConfig


def find_learning_rate(arguments: argparse.Namespace) -> int:
    """Try growing rates, read the curve, write it with its picture, print what to do next."""
    from tinydigits.errors import StorageError
    from tinydigits.records import write_record
    from tinydigits.reports.plots import learning_rate_curve
    from tinydigits.storage import file_stem, make_directory, next_free
    from tinydigits.training.loop import start_state
    from tinydigits.training.lr_finder import learning_rate_trials, suggest
    from tinydigits.training.prepare import build_network, prepare_task

    if arguments.out is not None and arguments.out.exists():  # before a minute of work
        raise StorageError(f"{arguments.out} exists already, and nothing is overwritten. Name another directory.")
    console = stderr_console(quiet=arguments.quiet)
    network = build_network(config_from_arguments(arguments))
    task, data = prepare_task(network)
    if data.warning:
        print_warning(data.warning)
    running = learning_rate_trials(task, start_state(network.model, task))
    trials = _watch(running, network.config, data.name, console)
    directory = arguments.out or next_free(Path("runs"), f"{file_stem(network.config.model)}-learning-rate")
    result = suggest(network.config, data, trials, str(directory))
    make_directory(directory)
    learning_rate_curve(result, directory / "learning_rate.png")
    write_record(directory / "learning_rate.json", result)
    if arguments.json:
        print_json(result)
    else:
        _print(result, _command(arguments, result))
    return 0


def _watch(trials: "Iterator[RateTrial]", config: "RunConfig", data: str, console: "Console") -> "list[RateTrial]":
    from rich.progress import track

    from tinydigits.training.lr_finder import STEPS

    recipe = config.recipe
    print_plain(
        console,
        f"{config.model}, recipe {recipe.name}, {recipe.optimizer.name}: {STEPS} batches of {recipe.batch_size} digits "
        f"of {data} at growing learning rates",
    )
    hidden = not console.is_terminal
    return list(track(trials, "learning rates", total=STEPS, console=console, transient=True, disable=hidden))


def _command(arguments: argparse.Namespace, result: "LearningRateResult") -> str:
    """The same command, for a training at the rate that is suggested."""
    words = ["tinydigits", "train", *([arguments.model] if arguments.model else [])]
    for key in (
        "recipe",
        "batch_size",
        "config",
        "data",
        "data_dir",
        "split",
        "epochs",
        "seed",
        "device",
        "threads",
        "backend",
    ):
        if (value := getattr(arguments, key)) is not None:
            words += [f"--{key.replace('_', '-')}", str(value)]
    return shlex.join([*words, "--learning-rate", f"{result.learning_rate:g}"])


def _print(result: "LearningRateResult", command: str) -> None:
    screen = stdout_console()
    screen.print(f"[bold]Learning rate {result.learning_rate:g}[/bold]: {result.reading}.", soft_wrap=True)
    print_plain(
        screen,
        f"The recipe {result.recipe} has {result.recipe_learning_rate:g}. One short training is a hint: "
        "`tinydigits prove --split val` and `tinydigits compare` tell which of two rates is better.",
    )
    print_plain(screen, f"Picture and figures: {result.run_dir}")
    print_plain(screen, f"To train with it: {command}")
