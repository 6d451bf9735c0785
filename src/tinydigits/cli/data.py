"""Show where the digits are: which directories hold MNIST, and which one is used.

Every file found is verified.

Example:
  tinydigits data --fetch
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tinydigits.cli.arguments import add_json
from tinydigits.cli.output import print_plain, print_result, stderr_console
from tinydigits.errors import DamagedDataError

if TYPE_CHECKING:
    from rich.console import Console

    from tinydigits.data.status import DataStatus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fetch", action="store_true", help="download the missing files of MNIST, and verify them")
    words = "look for MNIST there only, and fetch into it (default: $TINYDIGITS_DATA, then the user cache)"
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help=words)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Look, and with `--fetch` download first; without it the network is never used.

    Raises:
        DamagedDataError: files are damaged or missing; the report is printed first.
        DataNotFoundError: `--data-dir` does not hold MNIST, or it could not be downloaded.
        StorageError: the download cannot be saved.
    """
    from tinydigits.data.mnist import fetch_mnist, not_found_in, user_cache
    from tinydigits.data.status import data_status

    if arguments.fetch:
        fetch_mnist(arguments.data_dir or user_cache())
    status = data_status(arguments.data_dir)
    print_result(status, arguments.json, _print)
    if status.mnist.damage is not None:
        raise DamagedDataError(status.mnist.damage)
    if status.mnist.used is not None:
        return 0
    if arguments.data_dir is not None:
        raise not_found_in(arguments.data_dir, status.mnist.locations[0].reason)
    stderr_console(quiet=arguments.json).print(
        "--data auto uses optdigits unless MNIST can be downloaded: run `tinydigits data --fetch`.", soft_wrap=True
    )
    return 0


def _print(status: "DataStatus", screen: "Console") -> None:
    lines = ["MNIST"]
    for location in status.mnist.locations:
        subject = "" if location.state == "damaged" else f"{location.directory} "  # an error names the file
        lines.append(f"  {location.state:<10}  {location.origin}: {subject}{location.reason.splitlines()[0]}")
    lines += ["optdigits", f"  {status.optdigits.state:<10}  {status.optdigits.digits:,} digits"]
    if status.mnist.used is not None:
        lines.append(f"--data auto uses MNIST from {status.mnist.used}")
    print_plain(screen, "\n".join(lines))
