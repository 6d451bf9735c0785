"""Serve the networks over HTTP: a page to draw on at /, and an HTTP API.

POST /predict takes PNG or JPEG pictures of any size up to a million pixels,
POST /v2/models/NAME/infer takes tensors following the Open Inference Protocol;
/docs shows the whole API. The server listens on this machine alone and keeps
nothing that it is sent. When its queue is full, it rejects requests (503). It
prints its address on stdout, and a line of JSON for each request on stderr.

MODEL is the network for requests that name none: a zoo model with shipped
weights, or your own, by its run directory or .safetensors file (PyTorch loads
it once, in a process of its own). The other zoo models are served, too.

Ctrl-C or SIGTERM stops the server after it has finished what it has accepted.

Requires the extra: pip install "tinydigits[serve]"

Example:
  tinydigits serve
  curl --data-binary @digit.png http://127.0.0.1:8000/predict
"""

import argparse
import os

from tinydigits.cli.arguments import add_model
from tinydigits.cli.output import print_plain, stdout_console
from tinydigits.errors import ServeError

_TOKEN = "TINYDIGITS_TOKEN"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, "a zoo model, a run directory or a .safetensors file")
    parser.add_argument("--host", metavar="H", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", metavar="N", type=int, default=8000, help="port; 0: any free one (default: 8000)")
    parser.add_argument("--workers", metavar="N", type=int, default=1, help="number of processes (default: 1)")
    words = "size of the queue of each process, in requests (default: 24)"
    parser.add_argument("--waiting", metavar="N", type=int, help=words)
    words = "accept a --host at which other machines can connect"
    parser.add_argument("--allow-remote", action="store_true", help=words)
    words = f"token that requests need (prefer the environment variable {_TOKEN})"
    parser.add_argument("--token", metavar="T", help=words)
    words = "let scripts of this web site read responses"
    parser.add_argument("--cors", metavar="ORIGIN", action="append", default=[], help=words)
    parser.add_argument("--quiet", action="store_true", help="no access log")


def run(arguments: argparse.Namespace) -> int:
    try:
        from tinydigits.server.options import WAITING, Options
        from tinydigits.server.server import serve
    except ModuleNotFoundError as error:
        raise ServeError(
            f'the package {error.name} is not installed. Install the extra with `pip install "tinydigits[serve]"`.'
        ) from error
    options = Options(
        model=arguments.model,
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
