"""Compare what is reported about a network with what is measured, line by line.

Checks what a document reports or, with --reported FILE, your own report.
FILE is TOML with any of parameters, macs, accuracy, epochs, receptive_field,
total_mb, batch_norm, dropout, global_pooling, single_linear_head (true or
false), source, and tables

  [[layer]]
  number = 5             # as `tinydigits inspect` numbers the layers
  output = "12×12"       # or with channels, "16×12×12"
  parameters = 1_168
  receptive_field = 6
  jump = 2

Counts are exact; accuracy (0.994 for 99.4 %) is a lower bound, epochs an
upper one. These two need training: they are checked against a study, that of
the shipped weights or --study DIR. Exit code 1 if a line is contradicted.

Example:
  tinydigits audit bottleneck-9k
  tinydigits audit net.py:Net --reported reported.toml
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinydigits.cli.arguments import ANY_MODEL, add_json, add_model
from tinydigits.cli.output import print_result

if TYPE_CHECKING:
    from rich.console import Console

    from tinydigits.inspection.audit import Audit, AuditRow

_STYLES = {"agrees": "green", "contradicted": "bold red", "not checked": "yellow"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, ANY_MODEL)
    parser.add_argument("--reported", metavar="FILE", type=Path, help="your own report, instead of the document")
    parser.add_argument("--study", metavar="DIR", type=Path, help="a study of this model, made by `tinydigits prove`")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from tinydigits.inspection.audit import audit

    result = audit(arguments.model, arguments.reported, arguments.study)
    print_result(result, arguments.json, _print)
    return 1 if result.contradicted else 0


def _print(audit: "Audit", console: "Console") -> None:
    from rich.text import Text

    from tinydigits.inspection.result import print_items

    heading = Text.assemble((audit.model, "bold"), f", as reported by {audit.source}")
    console.print(heading if audit.wording is None else heading.append(f":\n{audit.wording}"), soft_wrap=True)
    _print_lines(audit.lines, console)
    console.print(
        f"\n{audit.agreeing} of {len(audit.lines)} agree, {audit.contradicted} contradicted, "
        f"{audit.not_checked} not checked.",
        style="bold",
    )
    for title, sentences in (("Findings", audit.findings), ("Notes", audit.notes)):
        if sentences:
            console.print(f"\n[bold]{title}[/bold]")
            print_items(sentences, console)


def _print_lines(lines: "Sequence[AuditRow]", console: "Console") -> None:
    """A row each, and its reason below, over the whole width."""
    from rich.rule import Rule
    from rich.table import Table
    from rich.text import Text

    from tinydigits.inspection.result import print_items

    reported = max(len("reported"), *(len(line.reported) for line in lines))
    measured = max(len("measured"), *(len(line.measured) for line in lines))
    verdict = len("contradicted")
    longest = max(len(line.what) for line in lines)
    widest = max(16, console.width - reported - measured - verdict - 6)

    def row(what: str, *cells: str | Text, style: str = "") -> Table:
        grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
        grid.add_column(width=min(longest, widest), overflow="fold")
        grid.add_column(width=reported, justify="right")
        grid.add_column(width=measured, justify="right")
        grid.add_column(width=verdict)
        grid.add_row(Text(what), *cells, style=style)
        return grid

    console.print()
    console.print(row("what", "reported", "measured", "verdict", style="bold"))
    console.print(Rule(style="dim"), width=min(console.width, min(longest, widest) + reported + measured + verdict + 6))
    for line in lines:
        console.print(row(line.what, line.reported, line.measured, Text(line.verdict, style=_STYLES[line.verdict])))
        if line.why:
            print_items([line.why], console, "dim", indent=4)
