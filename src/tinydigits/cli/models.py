"""List the networks of the zoo: size, cost, claims, and shipped weights.

documented: the accuracy that a document states; goal: what we aim at.

PATTERN chooses names, with * and ? as in a shell; quote it.

Example:
  tinydigits models '*-9k'
"""

import argparse
from typing import Any

from tinydigits.cli.arguments import add_json
from tinydigits.cli.output import print_json, stdout_console
from tinydigits.errors import UnknownModelError


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

    inspection = inspect_model(create_model(name), name=name)
    path = packaged_weights(name)
    card = load_card(path) if path else None
    claim = inspection.claim
    return {
        "model": name,
        "parameters": inspection.parameters,
        "macs": inspection.macs,
        "documented": claim.as_dict() if claim and claim.source else None,
        "goal": claim.as_dict() if claim and not claim.source else None,
        "weights": card
        and {"accuracy": card.accuracy, "data": card.data, "recipe": card.recipe_name, "epochs": card.epochs},
    }


def _print(rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.table import Table

    from tinydigits.reports.tables import percent

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("model", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("MACs", justify="right", no_wrap=True)
    table.add_column("documented", justify="right", no_wrap=True)
    table.add_column("goal", justify="right", no_wrap=True)
    table.add_column("weights shipped", no_wrap=True)
    for row in rows:
        weights = row["weights"]
        shipped = f"{percent(weights['accuracy'])} on {weights['data']}" if weights else "–"
        claims = [percent(row[key]["accuracy"]) if row[key] else "–" for key in ("documented", "goal")]
        table.add_row(row["model"], f"{row['parameters']:,}", f"{row['macs']:,}", *claims, shipped)
    stdout_console().print(table)
