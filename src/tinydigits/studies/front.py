"""What a search has found: the Pareto front of accuracy against size, and the network that is chosen from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydigits.models.budget import LAST3, Budget
from tinydigits.models.design import Design
from tinydigits.models.design_facts import design_facts
from tinydigits.studies.halving import Trial

_ONE_SIDED = NormalDist().inv_cdf(0.95)


@dataclass(frozen=True, eq=False)
class Finding:
    """A network that was trained to its last epoch, by one seed or more, and judged by held-out digits.

    `accuracy` is the mean over the seeds of what the budget asks for: the last epoch's, or the mean of the last three.
    `margin`: so much less it may be on other digits, with a confidence of 95 %; see `margin`.
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

    def as_dict(self) -> dict[str, Any]:
        """Plain data: a row of `front.json`."""
        first, facts = self.trials[0], design_facts(self.design)
        return {
            "trial": first.number,
            "parameters": first.parameters,
            "macs": first.macs,
            "weight_bytes": vars(facts.weight_bytes),
            "activation_bytes": vars(facts.activation_bytes),
            "accuracy": self.accuracy,
            "margin": self.margin,
            "seeds": [trial.seed for trial in self.trials],
            "accuracies": list(self.accuracies),
            "epochs": first.epochs,
            "seconds": round(sum(trial.seconds for trial in self.trials), 2),
            "network": sketch(self.design),
        }


def judged_accuracy(budget: Budget, trial: Trial) -> float:
    """The accuracy of a trial that the budget asks for, the last epoch's or the mean of the last three, in [0, 1]."""
    return trial.accuracies[-1] if budget.accuracy_of == "final" else mean(trial.accuracies[-LAST3:])


def margin(right: Sequence[NDArray[np.bool_]], judges: int) -> float:
    """By how much the mean accuracy may fall from the held-out digits to others of their kind, with 95 % confidence.

    Both are samples of the same kind of digits, and each digit has its own share p of seeds that read it right. The
    difference of the two means then has the standard error s·√(1/n + 1/m), where s is the deviation of p over the n
    held-out digits and m how many others will judge.

    Args:
        right: for each seed, which of the held-out digits it reads right, [n].
        judges: m, the number of test digits.
    """
    shares = np.mean(right, axis=0)
    deviation = float(shares.std(ddof=1)) if len(shares) > 1 else 0.0
    return _ONE_SIDED * deviation * math.sqrt(1 / len(shares) + 1 / judges)


def pareto(findings: Sequence[Finding]) -> list[Finding]:
    """Those to which no other is at least as small and at least as accurate, the smallest first."""
    front: list[Finding] = []
    for finding in sorted(findings, key=lambda finding: (finding.parameters, -finding.accuracy)):
        if not front or finding.accuracy > front[-1].accuracy:
            front.append(finding)
    return front


def preference(findings: Sequence[Finding], target: float | None) -> list[Finding]:
    """The order in which networks are chosen.

    First those that clear the target by their margin, the smallest first; then the others, the most accurate first.
    Without a target all are others.
    """

    def place(finding: Finding) -> tuple[int, float, float]:
        if target is not None and finding.accuracy - finding.margin >= target:
            return 0, finding.parameters, -finding.accuracy
        return 1, -finding.accuracy, finding.parameters

    return sorted(findings, key=place)


def sketch(design: Design) -> str:
    """A network in one line: `8 12 | 16·2 s18 | 24`.

    The channels of its blocks; `|` is a max pool, `¦` an average pool, `s` separable, `p` padded, `·2` used twice,
    `(5)` a kernel of 5×5 instead of 3×3.
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
