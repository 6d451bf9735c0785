"""List the studies and runs below directories: filter, sort, find the best.

A run counts as a study of one seed; runs that belong to a study are listed
only with --runs. Files that cannot be read are named on stderr and left out.

--budget B lists only what is within B's limits and has its structure, each
with its verdict.
--best N ranks by the lower bound of the mean over seeds, which needs three of
them, so that no lucky run comes first.

Example:
  tinydigits studies
  tinydigits studies --budget era-s7 --verdict met --best 3
  tinydigits studies results/proofs --model '*-9k' --sort parameters
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from tinydigits.cli.arguments import add_json
from tinydigits.cli.output import print_json, print_warning, printable, stdout_console
from tinydigits.errors import ConfigError, RunError
from tinydigits.records import OUTCOMES, StudyRow

_USUAL = (Path("studies"), Path("runs"))
_SORT_KEYS = ("path", "lower-bound", "accuracy", "parameters", "epochs", "seeds", "time", "newest")
_SHOWN = 100  # rows, unless --best says otherwise
_FILES_SHOWN = 5  # files that are left out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directories", nargs="*", metavar="DIR", type=Path, help="default: studies and runs")
    words = "list single runs, also those of studies, instead of studies"
    parser.add_argument("--runs", action="store_true", help=words)
    parser.add_argument("--model", metavar="PATTERN", help="only matching models, with * and ? as in a shell; quote it")
    parser.add_argument("--recipe", metavar="PATTERN", help="only matching recipes")
    parser.add_argument("--data", metavar="PATTERN", help="only matching digits, such as mnist or 'folder:*'")
    parser.add_argument("--split", choices=("val", "test"), help="only those evaluated on this split")
    parser.add_argument("--verdict", choices=OUTCOMES, help="only with this verdict")
    parser.add_argument("--budget", metavar="B", help="only within this budget's limits, with its verdict")
    words = f"{', '.join(_SORT_KEYS)} (default: path; lower-bound with --best or --budget)"
    parser.add_argument("--sort", metavar="KEY", choices=_SORT_KEYS, help=words)
    words = "the first N; ranked by lower-bound unless --sort is given"
    parser.add_argument("--best", metavar="N", type=int, help=words)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from tinydigits.studies.catalog import list_studies
    from tinydigits.studies.ranking import ACCURACY_KEYS, evaluated_alike, matching, ranked, under_budget

    if arguments.best is not None and arguments.best < 1:
        raise ConfigError(f"--best {arguments.best}: must be at least 1.")
    directories = arguments.directories or _usual()
    listing = list_studies(directories, runs=arguments.runs)
    _warn_of("left out:", listing.problems)
    _warn_of("not finished (--runs lists the runs that are):", listing.unfinished)
    rows = matching(listing.rows, model=arguments.model, recipe=arguments.recipe, data=arguments.data)
    rows = [row for row in rows if arguments.split in (None, row.split)]
    if arguments.budget:
        from tinydigits.inspection.budget import load_budget  # loads torch

        budget = load_budget(arguments.budget)
        rows, unknown = under_budget(rows, budget)
        if models := sorted({row.model for row in unknown}):
            _warn_of(f"left out, because not everything that {budget.name} limits is recorded:", models)
            inspect = f"tinydigits inspect {models[0]} --budget {arguments.budget}"
            print_warning(f"`{inspect}` shows it, `tinydigits prove` records it.")
    if arguments.verdict:
        rows = [row for row in rows if any(found.verdict == arguments.verdict for found in row.verdicts)]
    sort = arguments.sort or ("lower-bound" if arguments.best or arguments.budget else "path")
    if sort in ACCURACY_KEYS and not evaluated_alike(rows):
        print_warning("Ranked together, though evaluated on different digits: choose one kind with --data and --split.")
    rows = ranked(rows, sort)[: arguments.best]
    if arguments.json:
        print_json(rows)
    elif rows:
        _print(rows, len(rows) if arguments.best else _SHOWN)
    else:
        found = f"{len(listing.rows):,} recorded" if listing.rows else "nothing is recorded"
        print_warning(f"No such study or run in {', '.join(map(str, directories))}: {found}.")
    return 0


def _usual() -> list[Path]:
    if found := [directory for directory in _USUAL if directory.is_dir()]:
        return found
    raise RunError(
        f"There is neither {' nor '.join(map(str, _USUAL))} here. Name a directory with studies or runs, or create "
        "some with `tinydigits prove` or `tinydigits train`."
    )


def _print(rows: Sequence[StudyRow], most: int) -> None:
    from tinydigits.reports.tables import studies_table

    screen = stdout_console()
    width = max(24, screen.width - 50)  # accuracy and verdict stand beside it
    paths = [(row, printable(row.path)) for row in rows[:most]]
    # a long path's end tells records apart
    shown = [replace(row, path=path if len(path) <= width else "…" + path[1 - width :]) for row, path in paths]
    screen.print(studies_table(shown))
    if len(rows) > most:
        screen.print(f"The first {most} of {len(rows):,}. --best N shows more, --json all.", style="dim")


def _warn_of(what: str, names: Sequence[str]) -> None:
    """One line that names the first of them."""
    if names:
        more = f", and {len(names) - _FILES_SHOWN:,} more" if len(names) > _FILES_SHOWN else ""
        print_warning(f"Warning: {what} {'; '.join(map(printable, names[:_FILES_SHOWN]))}{more}")
