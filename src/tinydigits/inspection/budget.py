"""A budget: what a network may cost, what it must reach, how it must be built; every clause gets a verdict.

The shipped budgets are the TOML files in `budgets/`; a user's own is such a file too.
"""

import importlib.resources
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from msgspec.structs import replace

from tinydigits.errors import BudgetError, ConfigError, RunError
from tinydigits.inspection.design_cost import DesignFacts
from tinydigits.inspection.result import BudgetCheck, Inspection
from tinydigits.models.reported import Target
from tinydigits.records import LAST3, MIN_SEEDS, Clause, Outcome
from tinydigits.settings import build, check_fraction, check_one_of, nearest, read_settings

NUMBER_FORMATS = ("float32", "int8")
ACCURACIES = ("final", "last3")
Counted = Inspection | DesignFacts  # what is counted of a network, by inspecting it or from its design alone
_OR = " or "

# A fact in words, what shows that a network has it, and what shows that it has not.
_FACTS = {
    "batch_norm": (
        "batch norm",
        "in training, a digit's output depends on the rest of its batch",
        "in training, a digit's output does not depend on the rest of its batch",
    ),
    "dropout": ("dropout", "two passes differ", "two passes give the same output"),
    "global_pooling": ("global pooling", "a pool sees the whole last map", "no pool sees the whole last map"),
    "single_linear_head": (
        "a single linear head",
        "the only fully connected layer is the last that learns",
        "there is not exactly one fully connected layer, or another layer learns after it",
    ),
    "hidden_linear": (
        "a hidden linear layer",
        "another layer learns after a fully connected one",
        "no layer learns after a fully connected one",
    ),
}


@dataclass(frozen=True)
class Budget:
    """Limits on a network and its training; None: no limit. All limits are inclusive.

    The accuracy is measured on `dataset`. `max_weight_bytes` and `max_activation_bytes` are in `number_format`, as
    footprint.py defines them. The accuracy, in [0, 1], is at least `min_accuracy`, or above it if `strict_accuracy`;
    it is that of the last epoch (`final`) or the mean of the last three (`last3`), on the test digits. `require` and
    `forbid` name facts of `inspection.result.Structure`; an entry of `require` may offer a choice, such as
    “global_pooling or single_linear_head”.

    Raises:
        ConfigError: a limit is out of its range, a fact is unknown, or no network can satisfy all of it.
    """

    name: str
    dataset: str = "mnist"
    max_parameters: int | None = None
    max_epochs: int | None = None
    max_macs: int | None = None
    max_weight_bytes: int | None = None
    max_activation_bytes: int | None = None
    number_format: Literal["float32", "int8"] = "float32"
    min_accuracy: float | None = None
    strict_accuracy: bool = False
    accuracy_of: Literal["final", "last3"] = "final"
    require: tuple[str, ...] = ()
    forbid: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        here = f"budget {self.name}: "
        if self.dataset not in ("mnist", "optdigits") and not self.dataset.startswith("folder:"):
            raise ConfigError(f"{here}dataset = {self.dataset!r}: must be mnist, optdigits or folder:PATH.")
        check_one_of(f"{here}number_format", self.number_format, NUMBER_FORMATS)
        check_one_of(f"{here}accuracy_of", self.accuracy_of, ACCURACIES)
        limits = {key: value for key, value in vars(self).items() if key.startswith("max_") and value is not None}
        for key, limit in limits.items():
            if limit < 1:
                raise ConfigError(f"{here}{key} = {limit:,}: must be at least 1; omit it for no limit.")
        if not limits and self.min_accuracy is None and not self.require and not self.forbid:
            raise ConfigError(f"{here}it limits nothing. Add a clause, such as max_parameters = 10_000.")
        self._check_accuracy(here)
        self._check_structure(here)

    def _check_accuracy(self, here: str) -> None:
        if self.min_accuracy is None:
            if self.strict_accuracy or self.accuracy_of != "final":
                raise ConfigError(f"{here}strict_accuracy and accuracy_of need min_accuracy. Add it.")
            return
        check_fraction(f"{here}min_accuracy", self.min_accuracy)
        if self.strict_accuracy and self.min_accuracy == 1:
            raise ConfigError(f"{here}no accuracy is above min_accuracy = 1. Lower it, or remove strict_accuracy.")
        if self.accuracy_of == "last3" and self.max_epochs is not None and self.max_epochs < LAST3:
            raise ConfigError(
                f'{here}max_epochs = {self.max_epochs} and accuracy_of = "last3" contradict each other: a mean of the '
                f"last {LAST3} epochs needs at least {LAST3}. Raise max_epochs, or remove accuracy_of."
            )

    def _check_structure(self, here: str) -> None:
        for fact in (*(fact for entry in self.require for fact in entry.split(_OR)), *self.forbid):
            if fact not in _FACTS:
                raise ConfigError(f"{here}{fact!r} is no structural fact. {nearest(fact, _FACTS)}")
        allowed = {entry: set(entry.split(_OR)) - set(self.forbid) for entry in self.require}
        for entry, left in allowed.items():
            if not left:
                raise ConfigError(f"{here}{_words(entry)} is both required and forbidden. Remove one of the two.")
        if {"single_linear_head"} in allowed.values() and {"hidden_linear"} in allowed.values():
            raise ConfigError(
                f"{here}a network with a hidden linear layer has no single linear head; both are required. Remove one."
            )


def load_budget(name_or_path: str | os.PathLike[str]) -> Budget:
    """A shipped budget by its name, or a user's own by the path of its `.toml` file, named after the file by default.

    Raises:
        ConfigError: there is none of that name, or the file is not a valid budget.
    """
    name_or_path = os.fspath(name_or_path)
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
    else:
        name = name_or_path.replace("_", "-")
        if name not in list_budgets():
            hint = nearest(name, list_budgets())
            raise ConfigError(f"budget {name_or_path!r} is unknown. {hint} Name your own as a .toml file.")
        path = _shipped() / f"{name}.toml"
    return build(Budget, {"name": path.stem, **read_settings(path)}, str(path))


def list_budgets() -> list[str]:
    """Names of the shipped budgets."""
    return sorted(path.stem for path in _shipped().glob("*.toml"))


def budget_of(target: Target) -> Budget | None:
    """What is reported of a model, or our goal for it, as a budget; None if it names no accuracy."""
    if target.accuracy is None:
        return None
    return Budget(
        name=target.source or "goal",
        max_parameters=target.parameters,
        max_epochs=target.epochs,
        min_accuracy=target.accuracy,
        strict_accuracy=target.strict,
    )


def check_budget(budget: Budget, network: Counted) -> BudgetCheck:
    """What can be said of a budget before training: the clauses that need none, and the rules left open."""
    clauses = structural_clauses(budget, network, epochs=None)
    verdict = overall_verdict(clauses) if clauses else "not judged"
    return BudgetCheck(budget.name, verdict, clauses, open=tuple(training_rules(budget)))


def structural_clauses(budget: Budget, network: Counted, epochs: int | None) -> tuple[Clause, ...]:
    """The clauses that need no training. Without `epochs`, those on their number are left out."""
    figures = {
        "parameters": network.parameters,
        "epochs": epochs,
        "macs": network.macs,
        "weight_bytes": getattr(network.weight_bytes, budget.number_format),
        "activation_bytes": getattr(network.activation_bytes, budget.number_format),
    }
    clauses = []
    for name, unit in _units(budget).items():
        figure, limit = figures[name], getattr(budget, f"max_{name}")
        if limit is not None and figure is not None:
            clause = _limit_clause(name, figure, limit, unit)
            if name == "macs" and clause.verdict == "met" and not network.macs_complete:
                sentence = f"at least {clause.sentence}, but an operation with learned weights is not counted"
                clause = replace(clause, verdict="not judged", sentence=sentence)
            clauses.append(clause)
    if budget.accuracy_of == "last3" and epochs is not None and epochs < LAST3:
        rule = f"the accuracy is the mean of the last {LAST3}, {LAST3 - epochs} too few"
        clauses.append(Clause("last3", LAST3, epochs, "failed", f"{_plural(epochs, 'epochs')}: {rule}"))
    for entries, required in ((budget.require, True), (budget.forbid, False)):
        for entry in entries:
            found = tuple(fact for fact in entry.split(_OR) if getattr(network.structure, fact))
            clauses.append(_fact_clause(entry, found, required=required))
    return tuple(clauses)


def accuracy_clause(
    budget: Budget, *, mean: float, lower_bound: float | None, n: int, data: str, split: str
) -> Clause | None:
    """The verdict on the accuracy of `n` runs with different seeds; None: the budget limits no accuracy.

    `met`: three runs or more, and the lower bound of their mean reaches the target. `plausible`: the mean does, but
    the bound does not, or there are fewer runs. `failed`: the mean does not. `not judged`: the budget is about other
    test digits.

    `mean` and its one-sided 95 % `lower_bound` (None below three runs) are of the accuracy that `budget.accuracy_of`
    names, in [0, 1], measured on the digits `data` of the `split` val or test.

    Raises:
        RunError: the mean is not a number in [0, 1].
    """
    target = budget.min_accuracy
    if target is None:
        return None
    if not 0 <= mean <= 1:
        raise RunError(f"accuracy {mean}: must be a number from 0 to 1. The run is damaged; remove it and train again.")
    verdict: Outcome
    figure = f"accuracy {percent(mean)}{' in one run' if n == 1 else f', mean of {n} runs'}"
    rule = _accuracy_rule(budget)
    if data != budget.dataset or split != "test":
        verdict = "not judged"
        digits = f"validation digits of {data}" if split == "val" else f"digits of {data}"
        sentence = f"{figure}, measured on {digits}: the rule, {rule}, is about test digits of {_shown(budget.dataset)}"
    elif not _reaches(mean, budget):
        verdict = "failed"
        sentence = f"{figure}, {rule}: {_points(mean, target)}"
    elif n < MIN_SEEDS or lower_bound is None:
        verdict = "plausible"
        proof = f"likely, not proved: that takes at least {MIN_SEEDS} seeds"
        sentence = f"{figure}, {rule}: {_points(mean, target)}; {proof}"
    else:
        verdict = "met" if _reaches(lower_bound, budget) else "plausible"
        bound = f"its 95 % lower bound {percent(lower_bound)}"
        sentence = f"{figure}, {bound}, {rule}: the bound is {_points(lower_bound, target)}"
        if verdict == "plausible":
            sentence += f", the mean {_points(mean, target)}"
    return Clause("accuracy", target, mean, verdict, sentence)


def overall_verdict(clauses: Sequence[Clause]) -> Outcome:
    """The verdict on the whole budget: that of its worst clause."""
    order: tuple[Outcome, ...] = ("failed", "not judged", "plausible")
    found = {clause.verdict for clause in clauses}
    return next((verdict for verdict in order if verdict in found), "met")


def reject_over_budget(budget: Budget, inspection: Inspection, epochs: int | None) -> None:
    """Stop before training if the network or its number of epochs breaks the budget.

    Raises:
        BudgetError: naming each broken clause with its figure, its limit, and how far it is.
    """
    broken = [clause for clause in structural_clauses(budget, inspection, epochs) if clause.verdict == "failed"]
    if broken:
        sentences = "".join(f"\n  {clause.sentence}" for clause in broken)
        raise BudgetError(
            f"{inspection.model} does not meet the budget {budget.name}, so nothing was trained:{sentences}\n"
            f"Change the network or its training, or name another budget."
        )


def budget_in_words(budget: Budget) -> str:
    """The whole budget in words."""
    parts = training_rules(budget)
    for name, unit in _units(budget).items():
        limit = getattr(budget, f"max_{name}")
        if limit is not None and name != "epochs":
            parts.append(f"at most {limit:,} {unit}")
    parts += [f"with {_words(entry)}" for entry in budget.require]
    parts += [f"without {_words(entry)}" for entry in budget.forbid]
    return ", ".join(parts)


def training_rules(budget: Budget) -> list[str]:
    """The rules that need training, in words."""
    rules = []
    if budget.min_accuracy is not None:
        rules.append(f"{_accuracy_rule(budget)} on {_shown(budget.dataset)}")
    if budget.max_epochs is not None:
        rules.append(f"at most {_plural(budget.max_epochs, 'epochs')}")
    return rules


def _shipped() -> Path:
    return Path(str(importlib.resources.files("tinydigits") / "inspection" / "budgets"))


def _units(budget: Budget) -> dict[str, str]:
    """The limits that a budget may set on numbers, and what is counted."""
    return {
        "parameters": "parameters",
        "epochs": "epochs",
        "macs": "MACs",
        "weight_bytes": f"bytes of weights ({budget.number_format})",
        "activation_bytes": f"bytes of activations ({budget.number_format})",
    }


def _limit_clause(name: str, figure: int, limit: int, unit: str) -> Clause:
    distance = f"{limit - figure:,} to spare" if figure < limit else "exactly that"
    if figure > limit:
        distance = f"{figure - limit:,} too many ({figure / limit - 1:.1%} over)".replace("%", " %")
    verdict: Outcome = "met" if figure <= limit else "failed"
    return Clause(name, limit, figure, verdict, f"{_plural(figure, unit)}, at most {limit:,}: {distance}")


@cache  # a search asks for the same few all the time
def _fact_clause(entry: str, found: tuple[str, ...], *, required: bool) -> Clause:
    """`found`: those of the entry's alternatives that the network has."""
    met, rule = bool(found) == required, "required" if required else "forbidden"
    state = ("" if met else f"{rule}, but ") + ("found" if found else "not found")
    shown = "; ".join(evidence(fact, holds=bool(found)) for fact in found or entry.split(_OR))
    return Clause(entry, rule, bool(found), "met" if met else "failed", f"{_words(entry)}: {state} ({shown})")


def evidence(fact: str, *, holds: bool) -> str:
    """What a network does that shows a structural fact, or its absence."""
    return _FACTS[fact][1 if holds else 2]


def _reaches(accuracy: float, budget: Budget) -> bool:
    """Compared after rounding: the mean of three times 0.994 may differ from 0.994 in its last bit."""
    assert budget.min_accuracy is not None
    difference = round(accuracy - budget.min_accuracy, 12)
    return difference > 0 if budget.strict_accuracy else difference >= 0


def _accuracy_rule(budget: Budget) -> str:
    assert budget.min_accuracy is not None
    mean = "" if budget.accuracy_of == "final" else f" as mean of the last {LAST3} epochs"
    return f"{'above' if budget.strict_accuracy else 'at least'} {percent(budget.min_accuracy)}{mean}"


def percent(fraction: float) -> str:
    """A fraction in [0, 1], with three decimals if two do not suffice: 99.40 %, 99.395 %."""
    return f"{100 * fraction:.3f}".removesuffix("0") + " %"


def _points(accuracy: float, target: float) -> str:
    """The distance from the target, in percentage points; never rounded to zero."""
    difference = round(100 * (accuracy - target), 10)
    if difference == 0:
        return "exactly there"
    decimals = max(2, -math.floor(math.log10(abs(difference))))
    return f"{abs(difference):.{decimals}f} points {'above' if difference > 0 else 'short'}"


def _words(entry: str) -> str:
    return _OR.join(_FACTS[fact][0] for fact in entry.split(_OR))


def _plural(count: int, unit: str) -> str:
    return f"{count:,} {unit.removesuffix('s') if count == 1 else unit}"


def _shown(dataset: str) -> str:
    return "MNIST" if dataset == "mnist" else dataset
