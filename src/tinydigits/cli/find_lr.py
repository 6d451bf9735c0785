"""`tinydigits train --find-lr`: show the learning-rate range test, its picture and its suggestion."""

import argparse
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tinydigits.cli.arguments import config_from_arguments, given_options
from tinydigits.cli.output import print_plain, print_result, print_warning, stderr_console, watched
from tinydigits.records import LearningRateResult

if TYPE_CHECKING:
    from rich.console import Console


def run(arguments: argparse.Namespace) -> int:
    """Find a learning rate, draw its curve, print what to do next."""
    from tinydigits.reports.plots import learning_rate_curve
    from tinydigits.training.lr_finder import STEPS, find_learning_rate

    config = config_from_arguments(arguments)
    what = f"{config.model}, recipe {config.recipe.name}, {config.recipe.optimizer.name}"
    batches = f"{STEPS} batches of {config.recipe.batch_size} digits at increasing learning rates"
    print_plain(stderr_console(quiet=arguments.quiet), f"{what}: {batches}")
    watch = partial(watched, what="learning rates", total=STEPS, hidden=arguments.quiet)
    result = find_learning_rate(config, arguments.out, watch)
    print_warning(result.warning)
    learning_rate_curve(result, Path(result.run_dir) / "learning_rate.png")
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
