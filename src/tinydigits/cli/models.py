"""List the networks of the zoo: size, cost, reported and proven accuracy.

target: accuracy reported by a document, or our own goal.
proven: mean accuracy on MNIST over all seeds; seed 0's weights ship.
95 % interval: for the accuracy on new digits like these.
int8 bytes: size of the int8 weights with batch norm folded in.

PATTERN selects names, with * and ? as in a shell; quote it.

Example:
  tinydigits models '*-9k'
"""

import argparse

from tinydigits.cli.arguments import add_json
from tinydigits.cli.output import print_result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="only these names (default: all)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Describe the matching networks, print.

    Raises:
        UnknownModelError: no name matches.
    """
    from tinydigits.inspection.zoo import describe_models
    from tinydigits.reports.tables import zoo_table

    models = describe_models(arguments.pattern)
    print_result(models, arguments.json, lambda models, screen: screen.print(zoo_table(models)))
    return 0
