"""Is the first study better than the second, by how much, and how sure is that?

Both were judged by the same digits. The interval of the difference is a
bootstrap over seeds and digits together.

Example:
  tinydigits compare studies/tiny-10k-fast studies/plain-9k-fast
"""

import argparse
from pathlib import Path
from typing import Any

from tinydigits.cli.arguments import add_json
from tinydigits.cli.output import print_json, print_plain, stdout_console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `tinydigits compare`."""
    parser.add_argument("first", metavar="STUDY", type=Path, help="a directory that `tinydigits prove` has made")
    parser.add_argument("second", metavar="STUDY", type=Path, help="another")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Compare, print."""
    from tinydigits.studies.compare import compare

    document = compare(arguments.first, arguments.second)
    if arguments.json:
        print_json(document)
    else:
        _print(document)
    return 0


def _print(document: dict[str, Any]) -> None:
    screen = stdout_console()
    for side in ("first", "second"):
        study = document[side]
        sd = f" ± {100 * study['sd']:.3f}" if study["sd"] is not None else ""
        screen.print(f"{study['study_dir']}: {100 * study['mean']:.3f} %{sd}, n = {study['n']}", markup=False)
    low, high = document["interval"]
    screen.print(
        f"Difference: {100 * document['difference']:+.3f} points, 95 % interval {100 * low:+.3f} to {100 * high:+.3f}"
    )
    if document["p_seeds"] is not None:
        screen.print(f"Over seeds alone (Welch's t test): p = {document['p_seeds']:.3g}")
    pair = document["seed_0"]
    screen.print(
        f"Seed 0 of each on the same digits (exact McNemar test): only the first right {pair['only_first']}, "
        f"only the second {pair['only_second']}, p = {pair['p']:.3g}"
    )
    print_plain(screen, document["sentence"], "bold")
