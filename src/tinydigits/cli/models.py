"""List the networks of the zoo: size, cost, reported and proven accuracy.

target: the accuracy that a document reports, or that is our goal.
proven: mean over the seeds of the study whose seed 0 ships, on MNIST.
95 % interval: of the accuracy on new digits of that kind.
int8 bytes: of the weights, batch norm folded.

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
