"""`tinydigits train --find-lr`: the learning-rate range test, its picture and its suggestion."""

import argparse
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinydigits.cli.arguments import run_config
from tinydigits.cli.output import print_json, print_notice, print_plain, stderr_console, stdout_console

if TYPE_CHECKING:
    from rich.console import Console

    from tinydigits.training.config import RunConfig
    from tinydigits.training.range_test import Suggestion, Trial


def find_learning_rate(arguments: argparse.Namespace) -> int:
    """Try growing rates, read the curve, write it with its picture, print what to do next."""
    from tinydigits.errors import StorageError
    from tinydigits.reports.range_plot import range_curve
    from tinydigits.storage import make_directory, write_json
    from tinydigits.training.range_test import start_range_test, suggest
    from tinydigits.training.rundir import environment, file_stem, next_free

    if arguments.out is not None and arguments.out.exists():  # before a minute of work
        raise StorageError(f"{arguments.out} exists already, and nothing is overwritten. Name another directory.")
    console = stderr_console(quiet=arguments.quiet)
    config, data, running = start_range_test(run_config(arguments))
    if data.notice:
        print_notice(data.notice)
    trials = _watch(running, config, data.name, console)
    suggestion = suggest(trials)
    directory = arguments.out or next_free(Path("runs"), f"{file_stem(config.model)}-learning-rate")
    make_directory(directory)
    document = {
        "schema": 1,
        "model": config.model,
        "data": data.name,
        "recipe": config.recipe.name,
        "optimizer": config.recipe.optimizer.name,
        "batch_size": config.recipe.batch_size,
        "seed": config.seed,
        **asdict(suggestion),
        "recipe_learning_rate": config.recipe.optimizer.learning_rate,
        "trials": [asdict(trial) for trial in trials],
        "environment": environment(config.kernels),
        "run_dir": str(directory),
    }
    range_curve(document["trials"], suggestion.learning_rate, suggestion.at_lowest, directory / "learning_rate.png")
    write_json(directory / "learning_rate.json", document)
    if arguments.json:
        print_json(document)
    else:
        _print(document, suggestion, _command(arguments, suggestion))
    return 0


def _watch(trials: "Iterator[Trial]", config: "RunConfig", data: str, console: "Console") -> "list[Trial]":
    from rich.progress import track

    from tinydigits.training.range_test import STEPS

    recipe = config.recipe
    print_plain(
        console,
        f"{config.model}, recipe {recipe.name}, {recipe.optimizer.name}: {STEPS} batches of {recipe.batch_size} digits "
        f"of {data} at growing learning rates",
    )
    hidden = not console.is_terminal
    return list(track(trials, "range test", total=STEPS, console=console, transient=True, disable=hidden))


def _command(arguments: argparse.Namespace, suggestion: "Suggestion") -> str:
    """The same command, for a training at the rate that is suggested."""
    words = ["tinydigits", "train", *([arguments.model] if arguments.model else [])]
    for key in (
        "recipe",
        "batch_size",
        "config",
        "data",
        "data_dir",
        "protocol",
        "epochs",
        "seed",
        "device",
        "threads",
        "kernels",
    ):
        if (value := getattr(arguments, key)) is not None:
            words += [f"--{key.replace('_', '-')}", str(value)]
    return shlex.join([*words, "--learning-rate", f"{suggestion.learning_rate:g}"])


def _print(document: dict[str, Any], suggestion: "Suggestion", command: str) -> None:
    screen = stdout_console()
    screen.print(f"[bold]Learning rate {suggestion.learning_rate:g}[/bold]: {suggestion.reading}.", soft_wrap=True)
    print_plain(
        screen,
        f"The recipe {document['recipe']} has {document['recipe_learning_rate']:g}. One short training is a hint: "
        "of two rates, `tinydigits prove --protocol tune` and `tinydigits compare` tell which is better.",
    )
    print_plain(screen, f"Picture and figures: {document['run_dir']}")
    print_plain(screen, f"To train with it: {command}")
