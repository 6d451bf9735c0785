"""Write an HTML report on a run or study, or a comparison of several.

Name a run or study by its directory. The page loads nothing and runs no
script; it can be read, printed and handed in. Digit pictures need the dataset,
which is looked up where training found it; nothing is downloaded.

Example:
  tinydigits report studies/tiny-10k-fast
  tinydigits report studies/tiny-10k-fast studies/plain-9k-fast --out both.html
"""

import argparse
from pathlib import Path

from tinydigits.cli.arguments import add_json
from tinydigits.cli.output import print_json, print_plain, stderr_console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words = "a directory that train or prove has made, or a study's .json; several are compared with the first"
    parser.add_argument("sources", metavar="RUN|STUDY", nargs="+", type=Path, help=words)
    parser.add_argument("--data-dir", metavar="DIR", type=Path, help="directory of the MNIST files")
    words = "the page (default: report.html in the directory; for several, comparison.html here)"
    parser.add_argument("--out", metavar="FILE", type=Path, help=words)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from tinydigits.reports.report import report

    result = report(*arguments.sources, out=arguments.out, data_dir=arguments.data_dir)
    if arguments.json:
        print_json(result)
    else:
        print_plain(stderr_console(), f"wrote {result.file} ({result.size_bytes / 1000:,.0f} kB)")
    return 0
