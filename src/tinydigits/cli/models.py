"""List the networks of the zoo: size, cost, claims, and proven accuracy.

claim: the accuracy that a document states, or that we aim at.
proven: mean over the seeds of the study whose seed 0 ships, on MNIST.
95 % interval: of the accuracy on new digits of that kind.
int8 bytes: of the weights, batch norm folded.
s an epoch: of 60,000 digits, by the last `tinydigits train` on MNIST here.

PATTERN chooses names, with * and ? as in a shell; quote it.

Example:
  tinydigits models '*-9k'
"""

import argparse
from typing import TYPE_CHECKING, Any

from tinydigits.cli.arguments import add_json
from tinydigits.cli.output import print_json, stdout_console
from tinydigits.errors import UnknownModelError

if TYPE_CHECKING:
    from tinydigits.models.weights import Card


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="only these names (default: all)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Build and count every network that is asked for.

    Raises:
        UnknownModelError: no name matches.
    """
    from tinydigits.models.registry import list_models

    names = list_models(arguments.pattern)
    if not names:
        raise UnknownModelError(f"no model's name matches {arguments.pattern!r}. There are {', '.join(list_models())}.")
    rows = [_row(name) for name in names]
    if arguments.json:
        print_json(rows)
    else:
        _print(rows)
    return 0


def _row(name: str) -> dict[str, Any]:
    from tinydigits.models.inspect import inspect_model
    from tinydigits.models.registry import create_model
    from tinydigits.models.weights import load_card, packaged_weights
    from tinydigits.training.speed import epoch_seconds

    inspection = inspect_model(create_model(name), name=name)
    path = packaged_weights(name)
    card = load_card(path) if path else None
    claim = inspection.claim
    return {
        "model": name,
        "parameters": inspection.parameters,
        "macs": inspection.macs,
        "int8_bytes": inspection.weight_bytes.int8,
        "documented": claim.as_dict() if claim and claim.source else None,
        "goal": claim.as_dict() if claim and not claim.source else None,
        "weights": card
        and {"accuracy": card.accuracy, "data": card.data, "recipe": card.recipe_name, "epochs": card.epochs},
        "proven": card and _proven(card),
        "epoch_seconds": epoch_seconds(name),
    }


def _proven(card: "Card") -> dict[str, Any] | None:
    """What the study behind the shipped weights came to; None: they come from a single run."""
    if card.study is None:
        return None
    final = card.study["final"]
    figures = {key: final[key] for key in ("mean", "sd", "lower_bound")}
    return {"n": card.study["n"], "interval": card.study["interval"], **figures}


def _print(rows: list[dict[str, Any]]) -> None:
    from tinydigits.reports.tables import zoo_table

    stdout_console().print(zoo_table(rows))
