"""Show a network layer by layer: shapes, cost, receptive field, and pitfalls.

If a document describes the network, its figures are compared with the
measured ones. Your own network's code is executed. With --budget, the
clauses that need no training get a verdict, and the exit code is 1 unless all
are met; those that need training, such as the accuracy, are only listed.

Example:
  tinydigits inspect net.py:Net --budget era-s6
"""

import argparse

from tinydigits.cli.arguments import ANY_MODEL, add_budget, add_json, add_model
from tinydigits.cli.output import print_result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, ANY_MODEL)
    add_budget(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from tinydigits.inspection.inspect import inspect
    from tinydigits.inspection.result import print_inspection

    inspection = inspect(arguments.model, arguments.budget)
    print_result(inspection, arguments.json, print_inspection)
    clauses = inspection.budget.clauses if inspection.budget else ()
    return 1 if any(clause.verdict != "met" for clause in clauses) else 0
