"""Asynchronous successive halving: which trial is trained further, and which stays paused.

L. Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020 (arXiv:1810.05934): every network is
trained for a few epochs. Whenever a worker is free, it trains a network that is among the best third of those that got
as far for three times as many epochs; if there is none, it begins a new one. Here a network has to be among the best
third of its peers, those of similar size, so that small networks, which are less accurate, are found too. A smaller
network that beats it counts like a peer that does.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tinydigits.models.design import Design
from tinydigits.studies.search.space import Shape

REDUCTION = 3  # one network in three is promoted, to three times as many epochs
_SIMILAR, _SMALLER = 1.1, 1.5  # peers have up to 1.1 times a network's parameters, or down to 1/1.5 of them
_LEAST_FALL, _USUAL_FALL, _MOST_FALL = 0.2, 0.5, 0.8  # of errors with size: the range and the default
_ENOUGH = 8  # trials that a fit takes
_SMALLEST_ERROR = 1e-4  # a perfect score on a few validation digits does not mean that there is no error


@dataclass(frozen=True)
class Trial:
    """A network of a search and one training of it, as the journal knows it.

    `until`: the epoch up to which it may be trained for now. `accuracies`: on the validation digits by epoch, up to its
    last stop; `seconds`: the time that this took. Only seed 0 takes part in the halving; further seeds retest a network
    of the same `shape`. `over_budget`: the built network breaks the budget. `failed`: why it cannot be trained.
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
        """How many are done, as of its last stop."""
        return len(self.accuracies)

    @property
    def under_way(self) -> bool:
        """Whether it is being trained, or was being trained when its process was killed."""
        return self.failed is None and self.epochs < self.until


def rungs(epochs: int) -> tuple[int, ...]:
    """The epochs at which networks are compared, ascending; the last is the whole training: 15 → 2, 5, 15."""
    return tuple(sorted({math.ceil(epochs / REDUCTION**power) for power in range(3)}))


def promotion(trials: Sequence[Trial], steps: Sequence[int]) -> tuple[Trial, int] | None:
    """The trial to train further, and up to which epoch; the furthest first. None: no trial has earned it."""
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
    """The most promising of the trials that were not trained to the end: the furthest, then the most accurate."""
    paused = [
        trial for trial in trials if trial.seed == 0 and trial.epochs == trial.until < epochs and trial.failed is None
    ]
    return min(paused, key=lambda trial: (-trial.epochs, _rank(trial, trial.epochs)), default=None)


def expected_errors(trials: Sequence[Trial], steps: Sequence[int]) -> Mapping[int, float]:
    """By a trial's number, the error that it is expected to end with, so that trials of any length can be compared.

    All errors are assumed to shrink by the same factor from one step to the next: the median of the trials that
    reached both.
    """
    reached = [trial for trial in trials if trial.seed == 0 and trial.epochs >= steps[0]]
    factors = [1.0]  # from each step to the last, the last first
    for step, further in reversed(list(pairwise(steps))):
        shrinking = [_error(t, further) / _error(t, step) for t in reached if t.epochs >= further]
        factors.append(factors[-1] * (statistics.median(shrinking) if shrinking else 1.0))
    by_step = dict(zip(reversed(steps), factors, strict=True))
    last = {trial.number: max(step for step in steps if step <= trial.epochs) for trial in reached}
    return {t.number: _error(t, last[t.number]) * by_step[last[t.number]] for t in reached}


def shape_losses(trials: Sequence[Trial], steps: Sequence[int]) -> Mapping[int, float]:
    """By a trial's number, how good its shape is regardless of its size; smaller is better.

    Errors fall with the number of parameters p about as p^-b. The rest of an error, log(error) + b·log p, is due to the
    shape; b is fitted to the trials as soon as there are enough.
    """
    errors = expected_errors(trials, steps)
    known = {t.number: (math.log(t.parameters), math.log(errors[t.number])) for t in trials if t.number in errors}
    falling = _USUAL_FALL
    if len(known) >= _ENOUGH and len({size for size, _ in known.values()}) > 1:
        slope = statistics.linear_regression(*zip(*known.values(), strict=True)).slope
        falling = min(max(-slope, _LEAST_FALL), _MOST_FALL)
    return {number: error + falling * size for number, (size, error) in known.items()}


def _error(trial: Trial, step: int) -> float:
    return 1 - trial.accuracies[step - 1] + _SMALLEST_ERROR
