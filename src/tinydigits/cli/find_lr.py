"""`tinydigits train --find-lr`: the learning-rate range test, its picture and its suggestion."""

import argparse
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tinydigits.cli.arguments import config_from_arguments, given_options
from tinydigits.cli.output import print_plain, print_result, print_warning, stderr_console, watched
from tinydigits.errors import StorageError
from tinydigits.records import LearningRateResult, write_record

if TYPE_CHECKING:
    from rich.console import Console


def find_learning_rate(arguments: argparse.Namespace) -> int:
    """Try growing rates, read the curve, write it with its picture, print what to do next."""
    from tinydigits.reports.plots import learning_rate_curve
    from tinydigits.storage import file_stem, make_directory, next_free
    from tinydigits.training.loop import start_state
    from tinydigits.training.lr_finder import STEPS, learning_rate_trials, suggest
    from tinydigits.training.prepare import build_network, prepare_task

    if arguments.out is not None and arguments.out.exists():  # before a minute of work
        raise StorageError(f"{arguments.out} exists already, and nothing is overwritten. Name another directory.")
    network = build_network(config_from_arguments(arguments))
    task, data = prepare_task(network)
    print_warning(data.warning)
    recipe = network.config.recipe
    what = f"{network.config.model}, recipe {recipe.name}, {recipe.optimizer.name}"
    batches = f"{STEPS} batches of {recipe.batch_size} digits of {data.name} at growing learning rates"
    print_plain(stderr_console(quiet=arguments.quiet), f"{what}: {batches}")
    running = learning_rate_trials(task, start_state(network.model, task))
    trials = list(watched(running, "learning rates", STEPS, hidden=arguments.quiet))
    directory = arguments.out or next_free(Path("runs"), f"{file_stem(network.config.model)}-learning-rate")
    result = suggest(network.config, data, trials, str(directory))
    make_directory(directory)
    learning_rate_curve(result, directory / "learning_rate.png")
    write_record(directory / "learning_rate.json", result)
    # the same command, for a training at the rate that is suggested
    given = given_options(arguments, ("command", "find_lr", "out", "quiet", "json"))
    words = ["tinydigits", "train", *([arguments.model] if given.pop("MODEL", None) else [])]
    words += [str(word) for option in given.items() for word in option]
    command = shlex.join([*words, "--learning-rate", f"{result.learning_rate:g}"])
    print_result(result, arguments.json, partial(_print, command=command))
    return 0


def _print(result: LearningRateResult, screen: "Console", command: str) -> None:
    screen.print(f"[bold]Learning rate {result.learning_rate:g}[/bold]: {result.reading}.", soft_wrap=True)
    print_plain(
        screen,
        f"The recipe {result.recipe} has {result.recipe_learning_rate:g}. One short training is a hint: "
        "`tinydigits prove --split val` and `tinydigits compare` tell which of two rates is better.",
    )
    print_plain(screen, f"Picture and figures: {result.run_dir}")
    print_plain(screen, f"To train with it: {command}")
