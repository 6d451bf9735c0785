"""What a search has found: the Pareto front of accuracy against size, and the network that is chosen from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, mean

import numpy as np
from numpy.typing import NDArray

from tinydigits.inspection.budget import Budget, percent
from tinydigits.inspection.design_cost import design_facts
from tinydigits.models.design import Design
from tinydigits.records import LAST3, ChosenRow, FrontRow, derive_record
from tinydigits.studies.search.halving import Trial

_ONE_SIDED = NormalDist().inv_cdf(0.95)


@dataclass(frozen=True, eq=False)
class Finding:
    """A network that was trained to its last epoch, with one seed or more, and evaluated on validation digits.

    `accuracies` are, by seed, those that the budget limits: the last epoch's, or the mean of the last three. `margin`:
    by how much their mean may be lower on other digits, with a confidence of 95 %; see `margin`.
    """

    trials: tuple[Trial, ...]
    accuracies: tuple[float, ...]
    margin: float

    @property
    def design(self) -> Design:
        """The network."""
        return self.trials[0].design

    @property
    def parameters(self) -> int:
        """Of the network."""
        return self.trials[0].parameters

    @property
    def accuracy(self) -> float:
        """The mean over the seeds, in [0, 1]."""
        return mean(self.accuracies)

    def clears(self, target: float | None) -> bool:
        """Whether the accuracy is above the target by the margin; never without a target."""
        return target is not None and self.accuracy - self.margin >= target


def budget_accuracy(budget: Budget, trial: Trial) -> float:
    """The accuracy of a trial that the budget limits, the last epoch's or the mean of the last three, in [0, 1]."""
    return trial.accuracies[-1] if budget.accuracy_of == "final" else mean(trial.accuracies[-LAST3:])


def margin(correct: Sequence[NDArray[np.bool_]], others: int) -> float:
    """By how much the mean accuracy may fall from the validation digits to others of their kind, with 95 % confidence.

    Both sets are samples of the same kind of digits, and each digit is classified correctly by a fraction p of all
    seeds. So the difference of the two means has the standard error s·√(1/n + 1/m), where s is the standard deviation
    of p over the n validation digits, and m is the number of `others`. `correct` [n]: for each seed, which of the
    validation digits it classifies correctly.
    """
    fractions = np.mean(correct, axis=0)
    std = float(fractions.std(ddof=1)) if len(fractions) > 1 else 0.0
    return _ONE_SIDED * std * math.sqrt(1 / len(fractions) + 1 / others)


def pareto(findings: Sequence[Finding]) -> list[Finding]:
    """Those for which no other is at least as small and at least as accurate, the smallest first."""
    front: list[Finding] = []
    for finding in sorted(findings, key=lambda finding: (finding.parameters, -finding.accuracy)):
        if not front or finding.accuracy > front[-1].accuracy:
            front.append(finding)
    return front


def preference(findings: Sequence[Finding], target: float | None) -> list[Finding]:
    """The order in which networks are chosen.

    Those that clear the target by their margin come first, the smallest first; then the others, the most accurate
    first. Without a target all are others.
    """

    def rank(finding: Finding) -> tuple[int, float, float]:
        if finding.clears(target):
            return 0, finding.parameters, -finding.accuracy
        return 1, -finding.accuracy, finding.parameters

    return sorted(findings, key=rank)


def front_row(finding: Finding) -> FrontRow:
    """A finding as it stands in `front.json`."""
    first, facts = finding.trials[0], design_facts(finding.design)
    return derive_record(
        FrontRow,
        finding,
        trial=first.number,
        macs=first.macs,
        weight_bytes=facts.weight_bytes,
        activation_bytes=facts.activation_bytes,
        seeds=tuple(trial.seed for trial in finding.trials),
        epochs=first.epochs,
        seconds=round(sum(trial.seconds for trial in finding.trials), 2),
        network=sketch(finding.design),
    )


def chosen_row(finding: Finding, target: float | None, definition: str) -> ChosenRow:
    """The chosen network as it stands in `front.json`; `definition` is the file with its design."""
    return derive_record(ChosenRow, front_row(finding), why=_why(finding, target), definition=definition)


def _why(chosen: Finding, target: float | None) -> str:
    """Why this network is chosen."""
    if target is None:
        return "the most accurate on the validation digits; the budget sets no accuracy"
    difference = 100 * (chosen.accuracy - target)
    points = f"{abs(difference):.3f} points {'above' if difference >= 0 else 'below'} it"
    points += f", margin {100 * chosen.margin:.3f}"
    if chosen.clears(target):
        return f"the smallest that is above {percent(target)} on the validation digits by its margin ({points})"
    return f"the most accurate on the validation digits; none is above {percent(target)} by its margin ({points})"


def sketch(design: Design) -> str:
    """A network in one line: `8 12 | 16·2 s18 | 24`.

    The numbers are the channels of its blocks. `|` is a max pool, `¦` an average pool, `s` separable, `p` padded, `·2`
    used twice, `(5)` a kernel of 5×5 instead of 3×3.
    """
    words = []
    for block in design.blocks:
        kernel = "" if block.kernel == 3 else f"({block.kernel})"
        times = "" if block.times == 1 else f"·{block.times}"
        words.append(f"{'s' * block.separable}{block.channels}{'p' * block.padding}{kernel}{times}")
        if block.pool != "none":
            words.append("|" if block.pool == "max" else "¦")
    end = ", flatten" if design.head == "flatten" else ""
    return " ".join(words) + end
