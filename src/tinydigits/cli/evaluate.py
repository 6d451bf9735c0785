"""Score a model on digits: accuracy, per digit, confusion, worst mistakes.

MODEL is a zoo name with shipped weights, a run directory, or a .safetensors
file with its card beside it. A run directory, or the directory named by
--out, also gets confusion.png, mistakes.png and evaluation.json.

Example:
  tinydigits evaluate runs/tiny-10k-001 --data mnist
"""

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinydigits.cli.arguments import DEFAULT_MODEL, add_data, add_device, add_json, add_model, add_protocol
from tinydigits.cli.output import print_json, print_notice, print_plain, stdout_console, watched
from tinydigits.errors import ConfigError, RunError

if TYPE_CHECKING:
    import torch

    from tinydigits.data.dataset import Dataset, DigitData, Protocol
    from tinydigits.models.weights import Card

_LISTED = 10  # mistakes on the screen
_KEPT = 24  # mistakes in the picture and in the JSON


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    add_model(parser, "a name with shipped weights, a run directory, or a .safetensors file")
    add_data(parser)
    add_protocol(parser)
    add_device(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write the pictures and evaluation.json here (default: the run directory, if MODEL is one)",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, write, print."""
    from tinydigits.data.sources import load_dataset
    from tinydigits.evaluation.disputed import disputed_labels
    from tinydigits.evaluation.predictions import evaluate
    from tinydigits.models.weights import load_model

    source: str = arguments.model or DEFAULT_MODEL
    protocol: Protocol = arguments.protocol or "final"
    device = _prepare_device(arguments)
    model, card = load_model(source)
    run_directory = Path(source) if Path(source).is_dir() else None
    run_result = _read_result(run_directory) if run_directory else None
    data = load_dataset(arguments.data or "auto", arguments.data_dir)
    _, digits = data.split(protocol)
    notices = _notices(card, data, protocol)
    for notice in notices:
        print_notice(f"Notice: {notice}")

    watch = partial(watched, what="reading digits")
    evaluation = evaluate(model, digits, card.mean, card.deviation, device, watch)
    document = {
        "model": card.model,
        "data": data.name,
        "protocol": protocol,
        "notice": " ".join(notices) or None,
        **evaluation.as_dict(),
        "mistakes": evaluation.mistake_rows(_KEPT, disputed_labels(data, protocol)),
        "run": run_result,
    }
    out = arguments.out or run_directory
    files = _write_files(document, digits, out) if out is not None else []
    if arguments.json:
        print_json(document)
    else:
        _print(document, files)
    return 0


def _prepare_device(arguments: argparse.Namespace) -> "torch.device":
    import torch

    from tinydigits.training.run import choose_device

    threads = 1 if arguments.threads is None else arguments.threads
    if threads < 1:
        raise ConfigError(f"--threads {threads}: it is at least 1.")
    torch.set_num_threads(threads)
    return choose_device(arguments.device or "auto")


def _read_result(directory: Path) -> dict[str, Any] | None:
    """What the run said of itself, its figures kept apart; None for a run without a summary."""
    import json

    path = directory / "result.json"
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        keys = ("data", "protocol", "epochs", "accuracy", "accuracy_last3", "accuracy_best")
        return {key: result[key] for key in keys}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(
            f"{path} is not the summary of a run: {type(error).__name__}: {error}. "
            f"Evaluate {directory / 'model.safetensors'} instead, or train again."
        ) from error


def _notices(card: "Card", data: "DigitData", protocol: str) -> list[str]:
    """Whatever makes the figure mean less than it seems to, as sentences."""
    notices = [data.notice] if data.notice else []
    if card.data != data.name:
        notices.append(f"These weights were trained on {card.data}, and are judged by {data.name}.")
    elif card.data_sha256 != data.train.sha256:
        notices.append(f"{data.name} has changed since the training: some of these digits may have been seen in it.")
    elif protocol == "tune" and card.protocol == "final":
        notices.append("These weights were trained on the held-out digits too: the accuracy on them is optimistic.")
    return notices


def _write_files(document: Mapping[str, Any], digits: "Dataset", out: Path) -> list[Path]:
    from tinydigits.reports.plots import confusion_picture, mistakes_picture
    from tinydigits.storage import make_directory, write_json

    if not out.is_dir():
        make_directory(out)
    files = [out / "confusion.png", out / "mistakes.png", out / "evaluation.json"]
    mistakes = document["mistakes"]
    confusion_picture(document["confusion"], files[0])
    mistakes_picture(digits.images[[row["index"] for row in mistakes]], mistakes, files[1])
    write_json(files[2], document)
    return files


def _print(document: Mapping[str, Any], files: list[Path]) -> None:
    from tinydigits.reports import tables

    console = stdout_console()
    kind = "test" if document["protocol"] == "final" else "held-out"
    console.print(f"{document['model']} on the {kind} digits of {document['data']}", markup=False)
    console.print(
        f"[bold]Accuracy {tables.percent(document['accuracy'])}[/bold]: {document['correct']:,} of "
        f"{document['total']:,} right, 95 % interval {tables.interval_text(document['interval'])} (Wilson)",
    )
    if document["run"]:
        console.print(f"\nWhat the run itself reported (on {document['run']['data']}):")
        console.print(tables.run_table(document["run"]))
    console.print(tables.per_digit_table(document["per_digit"]))
    console.print(tables.confusion_table(document["confusion"]))
    if document["mistakes"]:
        console.print(tables.mistakes_table(document["mistakes"][:_LISTED]))
    for file in files:
        print_plain(console, f"wrote {file}")
