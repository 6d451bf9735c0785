"""Say where the digits are: what was found in which place, and is used.

What is found is verified.

Example:
  tinydigits data --fetch
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinydigits.cli.arguments import add_json
from tinydigits.cli.output import print_json, print_plain, stderr_console, stdout_console
from tinydigits.errors import DamagedDataError

if TYPE_CHECKING:
    from tinydigits.data.mnist import Place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `tinydigits data`."""
    parser.add_argument("--fetch", action="store_true", help="download what is missing of MNIST, and verify it")
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="look for MNIST there only, and fetch into it (default: $TINYDIGITS_DATA, then the user cache)",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Look, and with `--fetch` download first; without it the network is never touched.

    Raises:
        DamagedDataError: files are there, but broken or not all of them; the report is printed first.
        DataNotFoundError: `--data-dir` does not hold MNIST, or it could not be downloaded.
        StorageError: the download cannot be kept.
    """
    from tinydigits.data.mnist import fetch_mnist, not_found_in, places, user_cache
    from tinydigits.data.optdigits import load_optdigits

    if arguments.fetch:
        fetch_mnist(arguments.data_dir or user_cache())
    found = [_inspect(place) for place in places(arguments.data_dir)]
    damage = next((place["reason"] for place in found if place["state"] == "damaged"), None)
    good = [place["directory"] for place in found if place["state"] == "found"]
    used = good[0] if good and damage is None else None  # damaged files are never passed over
    optdigits = load_optdigits()
    document = {
        "mnist": {"places": found, "used": used},
        "optdigits": {"state": "embedded", "digits": len(optdigits.train) + len(optdigits.test)},
    }
    if arguments.json:
        print_json(document)
    else:
        print_plain(stdout_console(), _report(document))
    if damage is not None:
        raise DamagedDataError(damage)
    if used is not None:
        return 0
    if arguments.data_dir is not None:
        raise not_found_in(arguments.data_dir, found[0]["reason"])
    stderr_console(quiet=arguments.json).print(
        "--data auto takes optdigits, unless MNIST can be downloaded: tinydigits data --fetch", soft_wrap=True
    )
    return 0


def _inspect(place: "Place") -> dict[str, str]:
    """One place, its files verified: found, absent, incomplete (an interrupted download) or damaged."""
    from tinydigits.data.mnist import verify

    row = {"origin": place.origin, "directory": str(place.directory)}
    try:
        verify(place)
    except DamagedDataError as error:
        return row | {"state": "damaged", "reason": str(error)}
    if place.complete:
        return row | {"state": "found", "reason": "holds MNIST's four files, verified"}
    return row | {"state": "incomplete" if place.files else "absent", "reason": place.contents}


def _report(document: dict[str, Any]) -> str:
    mnist, optdigits = document["mnist"], document["optdigits"]
    lines = ["MNIST"]
    for place in mnist["places"]:
        reason = place["reason"].splitlines()[0]
        subject = "" if place["state"] == "damaged" else f"{place['directory']} "  # an error names the file
        lines.append(f"  {place['state']:<10}  {place['origin']}: {subject}{reason}")
    lines.append("optdigits")
    lines.append(f"  embedded    {optdigits['digits']:,} digits")
    if mnist["used"] is not None:
        lines.append(f"--data auto takes MNIST from {mnist['used']}")
    return "\n".join(lines)
