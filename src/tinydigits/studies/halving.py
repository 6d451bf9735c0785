"""Asynchronous successive halving: which trial is trained further, and which stays where it is.

L. Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020 (arXiv:1810.05934): every network is
trained for a few epochs; whenever a worker is free, a network that is among the best third of those that got as far
goes on to three times as many epochs, and if there is none, a new one is begun. Here a network has to be among the best
third of its peers, those of similar size, so that small ones, which are less accurate, are found too; a smaller network
that beats it counts like a peer that does.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tinydigits.models.design import Design
from tinydigits.studies.space import Shape

REDUCTION = 3  # one in so many goes on, for so many times as long
_SIMILAR, _SMALLER = 1.1, 1.5  # peers have up to so many times a network's parameters, or down to such a part
_FALLS, _USUAL_FALL, _ENOUGH = (0.2, 0.8), 0.5, 8  # of errors with size: what is believed, and from so many trials on
_SMALLEST_ERROR = 1e-4  # lest a perfect answer to a few held-out digits be taken for no error at all


@dataclass(frozen=True)
class Trial:
    """A network of a search and one training of it, as it stands on disk.

    `until` is the epoch up to which it may be trained for now, `accuracies` those on the held-out digits by epoch, up
    to where it has last stopped, `seconds` the time this took. Only seed 0 takes part in the halving; others judge a
    network anew (`shape` is then the same). `failed`: why it cannot be trained.
    """

    number: int
    shape: Shape
    design: Design
    parameters: int
    macs: int
    seed: int
    until: int
    accuracies: tuple[float, ...] = ()
    seconds: float = 0.0
    over_budget: bool = False
    failed: str | None = None

    @property
    def epochs(self) -> int:
        """How many are done, as far as it was told."""
        return len(self.accuracies)

    @property
    def under_way(self) -> bool:
        """Whether it is being trained, or was when its process was killed."""
        return self.failed is None and self.epochs < self.until


def rungs(epochs: int) -> tuple[int, ...]:
    """The epochs at which networks are judged, ascending; the last is the whole training: 15 → 2, 5, 15."""
    return tuple(sorted({math.ceil(epochs / REDUCTION**power) for power in range(3)}))


def promotion(trials: Sequence[Trial], steps: Sequence[int]) -> tuple[Trial, int] | None:
    """The trial that goes on, the furthest first, and up to which epoch; None: no one has earned it."""
    racing = [trial for trial in trials if trial.seed == 0 and trial.failed is None]
    for step, further in reversed(list(pairwise(steps))):
        reached = [trial for trial in racing if trial.epochs >= step]
        waiting = [trial for trial in reached if trial.until == step]
        for trial in sorted(waiting, key=lambda trial: _rank(trial, step)):
            least, most = trial.parameters / _SMALLER, trial.parameters * _SIMILAR
            peers = sum(least <= other.parameters <= most for other in reached)
            better = sum(o.parameters <= most and _rank(o, step) < _rank(trial, step) for o in reached)
            if better < peers // REDUCTION:
                return trial, further
    return None


def _rank(trial: Trial, step: int) -> tuple[float, int, int]:
    """Smaller is better: by accuracy at that epoch, then by size."""
    return -trial.accuracies[step - 1], trial.parameters, trial.number


def best_paused(trials: Sequence[Trial], epochs: int) -> Trial | None:
    """The most promising of those that were not trained to the end: the furthest, then the most accurate."""
    paused = [
        trial for trial in trials if trial.seed == 0 and trial.epochs == trial.until < epochs and trial.failed is None
    ]
    return min(paused, key=lambda trial: (-trial.epochs, _rank(trial, trial.epochs)), default=None)


def expected_errors(trials: Sequence[Trial], steps: Sequence[int]) -> Mapping[int, float]:
    """By a trial's number, the error it may be expected to end with, so that trials of any length can be compared.

    From each step to the next all errors are taken to shrink by the same factor: the median of those that went on.
    """
    judged = [trial for trial in trials if trial.seed == 0 and trial.epochs >= steps[0]]
    factors = [1.0]  # from each step to the last, the last first
    for step, further in reversed(list(pairwise(steps))):
        shrinking = [_error(t, further) / _error(t, step) for t in judged if t.epochs >= further]
        factors.append(factors[-1] * (statistics.median(shrinking) if shrinking else 1.0))
    by_step = dict(zip(reversed(steps), factors, strict=True))
    last = {trial.number: max(step for step in steps if step <= trial.epochs) for trial in judged}
    return {t.number: _error(t, last[t.number]) * by_step[last[t.number]] for t in judged}


def shape_losses(trials: Sequence[Trial], steps: Sequence[int]) -> Mapping[int, float]:
    """By a trial's number, how good its shape is whatever its size, smaller is better.

    Errors fall with the number of parameters p about as p^-b. What is left of an error after that is the shape's own,
    log(error) + b·log p; b is fitted to the trials, once there are some.
    """
    errors = expected_errors(trials, steps)
    known = [(math.log(trial.parameters), math.log(errors[trial.number])) for trial in trials if trial.number in errors]
    falling = _USUAL_FALL
    if len(known) >= _ENOUGH and len({size for size, _ in known}) > 1:
        slope = statistics.linear_regression(*zip(*known, strict=True)).slope
        falling = min(max(-slope, _FALLS[0]), _FALLS[1])
    numbered = [trial for trial in trials if trial.number in errors]
    return {t.number: math.log(errors[t.number]) + falling * math.log(t.parameters) for t in numbered}


def _error(trial: Trial, step: int) -> float:
    return 1 - trial.accuracies[step - 1] + _SMALLEST_ERROR
