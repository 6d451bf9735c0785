"""List the studies and runs below directories: filter, sort, find the best.

A run counts as a study of one seed; runs that belong to a study are listed with
--runs only. What cannot be read is named on stderr and left out.

--budget B leaves what keeps B's limits and structure, and judges each by B.
--best N ranks by the lower bound of the mean over seeds, which takes three of
them, so that no lucky run comes first.

The JSON files are the truth; an index in the user's cache remembers what they
say, and is made anew when it is damaged or deleted.

Example:
  tinydigits studies
  tinydigits studies --budget era-s7 --verdict met --best 3
  tinydigits studies results/proofs --model '*-9k' --sort parameters
"""

import argparse
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from tinydigits.cli.arguments import add_json
from tinydigits.cli.output import print_json, print_notice, stdout_console
from tinydigits.errors import ConfigError, RunError

if TYPE_CHECKING:
    from tinydigits.studies.index import Record

_USUAL = (Path("studies"), Path("runs"))
_SORT_KEYS = ("path", "lower-bound", "accuracy", "parameters", "epochs", "seeds", "time", "newest")
_VERDICTS = ("met", "plausible", "failed", "not judged")
_SHOWN = 100  # rows, if nothing else is asked for: nobody reads more
_NAMED = 5  # files that are left out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `tinydigits studies`."""
    parser.add_argument("directories", nargs="*", metavar="DIR", type=Path, help="default: studies and runs")
    parser.add_argument("--runs", action="store_true", help="single runs, those of studies too, instead of studies")
    parser.add_argument("--model", metavar="PATTERN", help="only these, with * and ? as in a shell; quote it")
    parser.add_argument("--recipe", metavar="PATTERN", help="only these")
    parser.add_argument("--data", metavar="PATTERN", help="only these digits, such as mnist or 'folder:*'")
    parser.add_argument("--protocol", choices=("tune", "final"), help="only these")
    parser.add_argument("--verdict", choices=_VERDICTS, help="only these")
    parser.add_argument("--budget", metavar="B", help="only what keeps this budget's limits, judged by it")
    parser.add_argument("--sort", metavar="KEY", choices=_SORT_KEYS, help=f"{', '.join(_SORT_KEYS)} (default: path)")
    parser.add_argument(
        "--best", metavar="N", type=int, help="the first N; ranked by lower-bound unless --sort is given"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Find, filter, judge, sort, print."""
    from tinydigits.studies.index import ranked, read_records

    if arguments.best is not None and arguments.best < 1:
        raise ConfigError(f"--best {arguments.best}: it is at least 1.")
    directories = arguments.directories or _usual()
    listing = read_records(directories, runs=arguments.runs)
    _report(listing.problems, "left out, for nothing can be read from")
    _report(listing.unfinished, "not finished (--runs lists the runs that are):")
    records = [record for record in listing.records if _wanted(record, arguments)]
    if arguments.budget:
        records = _judged(records, arguments.budget)
    if arguments.verdict:
        records = [r for r in records if any(found["verdict"] == arguments.verdict for found in r.judgements)]
    sort = arguments.sort or ("lower-bound" if arguments.best or arguments.budget else "path")
    records = ranked(records, sort)
    _warn(records, sort)
    records = records[: arguments.best]
    if arguments.json:
        print_json([record.as_dict() for record in records])
    elif records:
        _print(records, len(records) if arguments.best else _SHOWN)
    else:
        found = f"{len(listing.records):,} recorded" if listing.records else "nothing is recorded"
        print_notice(f"No such study or run in {', '.join(map(str, directories))}: {found}.")
    return 0


def _usual() -> list[Path]:
    found = [directory for directory in _USUAL if directory.is_dir()]
    if not found:
        raise RunError(
            f"There is neither {' nor '.join(map(str, _USUAL))} here. Name a directory with studies or runs, or make "
            "some with `tinydigits prove` or `tinydigits train`."
        )
    return found


def _wanted(record: "Record", arguments: argparse.Namespace) -> bool:
    patterns = (arguments.model, record.model), (arguments.recipe, record.recipe), (arguments.data, record.data)
    return arguments.protocol in (None, record.protocol) and all(
        pattern is None or _matches(text, pattern) for pattern, text in patterns
    )


def _matches(text: str, pattern: str) -> bool:
    """Dashes and underscores are the same, as in all names of the zoo."""
    return fnmatchcase(text.replace("_", "-"), pattern.replace("_", "-"))


def _judged(records: "Sequence[Record]", name: str) -> "list[Record]":
    from tinydigits.models.budget import load_budget
    from tinydigits.studies.index import under_budget

    budget = load_budget(name)
    kept, unknown = under_budget(records, budget)
    if unknown:
        models = sorted({record.model for record in unknown})
        _report(models, f"left out, for not all that {budget.name} limits is recorded of")
        print_notice(
            f"`tinydigits inspect {models[0]} --budget {name}` tells it of a network, `tinydigits prove` records it."
        )
    return kept


def _warn(records: "Sequence[Record]", sort: str) -> None:
    from tinydigits.studies.index import ACCURACY_KEYS, judges_alike

    if sort in ACCURACY_KEYS and not judges_alike(records):
        print_notice("Ranked together, though other digits judged them: --data and --protocol leave those of a kind.")


def _print(records: "Sequence[Record]", most: int) -> None:
    from tinydigits.reports.tables import records_table

    screen = stdout_console()
    room = max(24, screen.width - 50)  # for accuracy and verdict beside it
    rows = [record.as_dict() for record in records[:most]]
    screen.print(records_table([{**row, "path": _end(_printable(row["path"]), room)} for row in rows]))
    if len(records) > most:
        screen.print(f"The first {most} of {len(records):,}. --best N shows more, --json all.", style="dim")


def _end(text: str, room: int) -> str:
    """Where it does not fit, its end: that tells records apart."""
    return text if len(text) <= room else "…" + text[1 - room :]


def _report(names: Sequence[str], what: str) -> None:
    """One line that names the first of them."""
    if names:
        more = f", and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        print_notice(f"Notice: {what} {', '.join(map(_printable, names[:_NAMED]))}{more}")


def _printable(text: str) -> str:
    r"""Names of files may hold bytes that are no UTF-8 (shown `\udcff`), and control characters."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
