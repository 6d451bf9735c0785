"""Is the first study better than the second, by how much, and how sure is that?

Both must have been evaluated on the same digits. The interval of the
difference is a bootstrap over seeds and digits together.

Example:
  tinydigits compare studies/tiny-10k-fast studies/plain-9k-fast
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tinydigits.cli.arguments import add_json
from tinydigits.cli.output import print_plain, print_result
from tinydigits.records import Comparison

if TYPE_CHECKING:
    from rich.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="STUDY", type=Path, help="a directory that `tinydigits prove` has made")
    parser.add_argument("second", metavar="STUDY", type=Path, help="the study to compare with")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from tinydigits.studies.compare import compare

    print_result(compare(arguments.first, arguments.second), arguments.json, _print)
    return 0


def _print(comparison: Comparison, screen: "Console") -> None:
    for study in (comparison.first, comparison.second):
        sd = f" ± {100 * study.sd:.3f}" if study.sd is not None else ""
        screen.print(f"{study.study_dir}: {100 * study.mean:.3f} %{sd}, n = {study.n}", markup=False)
    low, high = comparison.interval
    screen.print(
        f"Difference: {100 * comparison.difference:+.3f} points, 95 % interval {100 * low:+.3f} to {100 * high:+.3f}"
    )
    if comparison.p_seeds is not None:
        screen.print(f"Over seeds alone (Welch's t test): p = {comparison.p_seeds:.3g}")
    pair = comparison.seed_0
    counts = f"only the first correct {pair.only_first}, only the second {pair.only_second}, p = {pair.p:.3g}"
    screen.print(f"Seed 0 of each on the same digits (exact McNemar test): {counts}")
    print_plain(screen, comparison.sentence, "bold")
