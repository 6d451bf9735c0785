"""Serve the networks over HTTP: a page to draw on at /, and an interface for programs.

POST /predict takes PNG or JPEG pictures of any size up to a million pixels, POST
/v2/models/NAME/infer tensors by the Open Inference Protocol; /openapi.json tells
all of it. The server listens on this machine alone, keeps nothing of what it is
sent, and refuses what it cannot answer in good time (503). It writes its address
to stdout, and to stderr a line of JSON for each request.

MODEL is the network that answers where a request names none: one of the zoo with
shipped weights, or your own, by its run directory or .safetensors file (which
takes PyTorch for a moment, in a process of its own). The others of the zoo are
served beside it.

Ctrl-C or SIGTERM stops it: what it has accepted is finished first.

It takes the extra: pip install "tinydigits[serve]"

Example:
  tinydigits serve
  curl --data-binary @digit.png http://127.0.0.1:8000/predict
"""

import argparse
import os

from tinydigits.cli.arguments import DEFAULT_MODEL, add_model
from tinydigits.cli.output import print_plain, stdout_console
from tinydigits.errors import ServeError

_TOKEN = "TINYDIGITS_TOKEN"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    add_model(parser, "a network of the zoo, a run directory or a .safetensors file")
    parser.add_argument("--host", metavar="H", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", metavar="N", type=int, default=8000, help="0: any free one (default: 8000)")
    parser.add_argument(
        "--workers", metavar="N", type=int, default=1, help="processes that share the work (default: 1)"
    )
    parser.add_argument("--waiting", metavar="N", type=int, help="most requests in work, a process (default: 24)")
    parser.add_argument("--allow-remote", action="store_true", help="let other machines connect, if --host does")
    parser.add_argument("--token", metavar="T", help=f"ask for it in each request (better: the variable {_TOKEN})")
    parser.add_argument(
        "--cors", metavar="ORIGIN", action="append", default=[], help="let scripts of this web site read the answers"
    )
    parser.add_argument("--quiet", action="store_true", help="no access log")


def run(arguments: argparse.Namespace) -> int:
    """Serve until it is stopped."""
    try:
        from tinydigits.shipping.serve.options import WAITING, Options
        from tinydigits.shipping.serve.server import serve
    except ModuleNotFoundError as error:
        raise ServeError(
            f"the package {error.name} is not installed. Install what a server takes with "
            '`pip install "tinydigits[serve]"`.'
        ) from error
    options = Options(
        model=arguments.model or DEFAULT_MODEL,
        host=arguments.host,
        port=arguments.port,
        workers=arguments.workers,
        waiting=WAITING if arguments.waiting is None else arguments.waiting,
        token=os.environ.get(_TOKEN) if arguments.token is None else arguments.token,
        origins=tuple(arguments.cors),
        allow_remote=arguments.allow_remote,
        quiet=arguments.quiet,
    )
    serve(options, _started)
    return 0


def _started(address: str, names: list[str]) -> None:
    console = stdout_console()
    others = f", and {', '.join(names[1:])}" if names[1:] else ""
    print_plain(console, f"{address}  reads digits with {names[0]}{others}. Ctrl-C stops it.")
    console.file.flush()
