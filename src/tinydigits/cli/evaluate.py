"""Evaluate a model: overall and per-digit accuracy, confusion, worst mistakes.

MODEL is a zoo name with shipped weights, a run directory, or a .safetensors
file with its card beside it. A run directory, or the directory named by
--out, also gets confusion.png, mistakes.png and evaluation.json.

Example:
  tinydigits evaluate runs/tiny-10k-001 --data mnist
"""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tinydigits.cli.arguments import add_data, add_device, add_json, add_model, add_split
from tinydigits.cli.output import print_plain, print_result, print_warning, watched
from tinydigits.errors import ConfigError
from tinydigits.records import SPLIT_NAMES, EvaluationResult, Split, write_record

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from tinydigits.data.dataset import Dataset

_MISTAKES_SHOWN = 10  # mistakes on the screen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, "a name with shipped weights, a run directory, or a .safetensors file")
    add_data(parser)
    add_split(parser)
    add_device(parser)
    words = "write the pictures and evaluation.json here (default: the run directory, if MODEL is one)"
    parser.add_argument("--out", type=Path, metavar="DIR", help=words)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from tinydigits.data.sources import load_dataset
    from tinydigits.evaluation.evaluate import evaluate

    source: str = arguments.model
    split: Split = arguments.split or "test"
    device = _prepare_device(arguments)
    data = load_dataset(arguments.data or "auto", arguments.data_dir)
    result = evaluate(source, data, split, device, partial(watched, what="classifying digits"))
    if result.warning:
        print_warning(f"Warning: {result.warning}")
    out = arguments.out or (Path(source) if Path(source).is_dir() else None)
    files = write_files(result, data.split(split)[1], out) if out is not None else []
    print_result(result, arguments.json, partial(_print, files=files))
    return 0


def _prepare_device(arguments: argparse.Namespace) -> "torch.device":
    import torch

    from tinydigits.training.device import choose_device

    threads = 1 if arguments.threads is None else arguments.threads
    if threads < 1:
        raise ConfigError(f"--threads {threads}: must be at least 1.")
    torch.set_num_threads(threads)
    return choose_device(arguments.device or "auto")


def write_files(result: EvaluationResult, digits: "Dataset", out: Path) -> list[Path]:
    """The pictures and evaluation.json of an evaluation, in a directory."""
    from tinydigits.reports.plots import confusion_picture, mistakes_picture
    from tinydigits.storage import make_directory

    if not out.is_dir():
        make_directory(out)
    files = [out / "confusion.png", out / "mistakes.png", out / "evaluation.json"]
    confusion_picture(result.confusion, files[0])
    mistakes_picture(digits.images[[mistake.index for mistake in result.mistakes]], result.mistakes, files[1])
    write_record(files[2], result)
    return files


def _print(result: EvaluationResult, console: "Console", files: list[Path]) -> None:
    from tinydigits.reports import tables

    console.print(f"{result.model} on the {SPLIT_NAMES[result.split]} digits of {result.data}", markup=False)
    console.print(
        f"[bold]Accuracy {tables.percent(result.accuracy)}[/bold]: {result.correct:,} of {result.total:,} correct, "
        f"95 % interval {tables.interval_text(result.interval)} (Wilson)"
    )
    if result.run:
        console.print(f"\nWhat the run itself measured (on {result.run.data}):", tables.run_table(result.run))
    console.print(tables.per_digit_table(result.per_digit), tables.confusion_table(result.confusion))
    if result.mistakes:
        console.print(tables.mistakes_table(result.mistakes[:_MISTAKES_SHOWN]))
    for file in files:
        print_plain(console, f"wrote {file}")
