"""Design, train, prove and ship digit classifiers under hard limits.

Each command has --help with examples. Exit codes: 0 done; 1 a check
(budget, parity, audit) failed or could not be made; 2 wrong usage or bad
input; 130 interrupted.

Example:
  tinydigits train tiny-10k --epochs 3
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from tinydigits.cli.output import results_alone_on_stdout
from tinydigits.errors import TinydigitsError

COMMANDS = {
    "models": "the zoo: parameters, cost, accuracy",
    "inspect": "a network layer by layer",
    "audit": "what a document reports, against what is measured",
    "train": "train a network",
    "evaluate": "evaluate trained weights",
    "prove": "many seeds, one verdict",
    "compare": "is one study better than another?",
    "search": "find a network that meets a budget, and prove it",
    "studies": "list studies and runs; the best under a budget",
    "report": "HTML report on a run or study, or a comparison of several",
    "predict": "read digits from pictures",
    "export": "C, ONNX, HTML or a hub folder, checked against PyTorch",
    "serve": "an HTTP server with a page to draw on",
    "data": "where the digits are; fetch and verify them",
    "completion": "let the shell complete names and options",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = build_parser().parse_args(argv)
    if arguments.command is None:
        build_parser().print_help()
        return 2
    command = importlib.import_module(f"tinydigits.cli.{arguments.command}")
    try:
        with results_alone_on_stdout():
            return int(command.run(arguments))
    except TinydigitsError as error:
        print(f"tinydigits {arguments.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as error:
        print(str(error) or "Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (`| head`) has gone; keep the interpreter from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def build_parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="tinydigits", description=__doc__, formatter_class=formatter)
    parser.add_argument("--version", action="version", version=f"tinydigits {version('tinydigits')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, summary in COMMANDS.items():
        module = importlib.import_module(f"tinydigits.cli.{name}")
        command = commands.add_parser(
            name, help=summary, description=module.__doc__, formatter_class=formatter, allow_abbrev=False
        )
        module.add_arguments(command)
    return parser
