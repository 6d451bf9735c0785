"""Which of the recorded studies are wanted: by name, under a budget, best first. Only a budget takes torch."""

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING

from msgspec.structs import asdict, replace

from tinydigits.records import LAST3, Clause, StudyRow, Verdict

if TYPE_CHECKING:
    from tinydigits.inspection.budget import Budget
    from tinydigits.inspection.result import Inspection

ACCURACY_KEYS = ("accuracy", "lower-bound")  # of SORT_KEYS, those that compare accuracies


def matching(
    rows: Iterable[StudyRow], *, model: str | None = None, recipe: str | None = None, data: str | None = None
) -> list[StudyRow]:
    """The rows that match all patterns, with * and ? as in a shell; dashes and underscores are the same."""

    def matches(text: str, pattern: str | None) -> bool:
        return pattern is None or fnmatchcase(text.replace("_", "-"), pattern.replace("_", "-"))

    return [r for r in rows if matches(r.model, model) and matches(r.recipe, recipe) and matches(r.data, data)]


def ranked(rows: Iterable[StudyRow], key: str) -> list[StudyRow]:
    """Sorted by one of `SORT_KEYS`: best, smallest, newest first; rows without that figure come last.

    Raises:
        KeyError: there is no such key.
    """

    def order(row: StudyRow) -> tuple[bool, float | str, float, str]:
        figure = SORT_KEYS[key](row)
        return figure is None, figure or 0, -row.mean, row.path

    return sorted(rows, key=order)


SORT_KEYS: dict[str, Callable[[StudyRow], float | str | None]] = {
    "path": lambda row: row.path,
    "lower-bound": lambda row: None if row.lower_bound is None else -row.lower_bound,
    "accuracy": lambda row: -row.mean,
    "parameters": lambda row: row.parameters,
    "epochs": lambda row: row.epochs,
    "seeds": lambda row: -row.n,
    "time": lambda row: row.time_seconds,
    "newest": lambda row: -row.modified,
}


def evaluated_alike(rows: Sequence[StudyRow]) -> bool:
    """Whether all were evaluated on the same digits, so that their accuracies can be compared."""
    return len({(row.data, row.split) for row in rows}) < 2


def under_budget(rows: Iterable[StudyRow], budget: "Budget") -> tuple[list[StudyRow], list[StudyRow]]:
    """The rows within the limits and structure of a budget, each with its verdict; and those that are unknown.

    A network of the zoo is built and inspected if the budget limits more than is recorded. A user's own code is not run
    for this: what an earlier verdict said of the same clause counts, and without one the network is unknown.
    """
    from tinydigits.inspection.budget import accuracy_clause, budget_in_words, overall_verdict

    kept, unknown = [], []
    for row in rows:
        figures = ((row.parameters, budget.max_parameters), (row.epochs, budget.max_epochs))
        if any(limit is not None and figure > limit for figure, limit in figures):
            continue
        if budget.accuracy_of == "last3" and row.epochs < LAST3:
            continue
        clauses = _structure(row, budget)
        if clauses is None:
            unknown.append(row)
            continue
        if any(clause.verdict == "failed" for clause in clauses):
            continue
        of = budget.accuracy_of
        row = replace(row, accuracy_of=of, **asdict(row.final if of == "final" else row.last3))
        accuracy = accuracy_clause(
            budget, mean=row.mean, lower_bound=row.lower_bound, n=row.n, data=row.data, split=row.split
        )
        clauses = (*clauses, *([accuracy] if accuracy else []))
        verdict = overall_verdict(clauses)
        reason = "; ".join(clause.sentence for clause in clauses if clause.verdict == verdict)
        found = Verdict(
            budget=budget.name, wording=budget_in_words(budget), verdict=verdict, reason=reason, clauses=clauses
        )
        kept.append(replace(row, verdicts=(found,)))
    return kept, unknown


def _structure(row: StudyRow, budget: "Budget") -> tuple[Clause, ...] | None:
    """The clauses on what is not recorded, or what earlier verdicts say of the same rules; None: it is unknown."""
    from tinydigits.inspection.budget import structural_clauses

    limits = {name: getattr(budget, f"max_{name}") for name in ("macs", "weight_bytes", "activation_bytes")}
    rules = {name: limit for name, limit in limits.items() if limit is not None}
    rules |= dict.fromkeys(budget.require, "required") | dict.fromkeys(budget.forbid, "forbidden")
    if not rules:
        return ()
    inspection = _inspect(row.model)
    if inspection is not None and inspection.parameters == row.parameters:  # otherwise the network has changed
        return structural_clauses(budget, inspection, row.epochs)
    earlier = [clause for verdict in row.verdicts if verdict.budget == budget.name for clause in verdict.clauses]
    same = {
        clause.clause: clause
        for clause in earlier
        if rules.get(clause.clause) == clause.limit
        and (not clause.clause.endswith("_bytes") or f"({budget.number_format})" in clause.sentence)
    }
    return tuple(same.values()) if len(same) == len(rules) else None


@cache
def _inspect(model: str) -> "Inspection | None":
    """A network of the zoo; None for a user's own, and for one that no longer exists."""
    from tinydigits.errors import ModelError
    from tinydigits.inspection.inspect import inspect_model
    from tinydigits.models.factory import create_model
    from tinydigits.models.user_model import is_user_model

    if is_user_model(model):
        return None
    try:
        return inspect_model(create_model(model), name=model)
    except ModelError:
        return None
