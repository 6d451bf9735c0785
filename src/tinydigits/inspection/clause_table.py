"""A budget's clauses on a screen. Needs no torch."""

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from tinydigits.records import Clause, Outcome

VERDICT_STYLES: dict[Outcome, str] = {"met": "green", "plausible": "yellow", "failed": "bold red", "not judged": "dim"}


def clause_table(clauses: Sequence[Clause]) -> Table:
    """A budget's clauses, each with its verdict and the sentence that explains it."""
    table = Table("verdict", "clause", box=box.SIMPLE_HEAD, pad_edge=False)
    for clause in clauses:
        table.add_row(Text(clause.verdict, style=VERDICT_STYLES[clause.verdict]), Text(clause.sentence))
    return table
