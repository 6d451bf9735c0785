"""How sure a model may say it is, and when it should say "no digit".

Everything here is fitted on validation digits that the model was not trained on: those of the split `val`.
"""

import math

import numpy as np
from numpy.typing import NDArray

from tinydigits.inference.graph import max_logit
from tinydigits.records import Calibration

Floats = NDArray[np.floating]
Labels = NDArray[np.integer]

COVERAGE = 0.995  # the fraction of real digits that must not be rejected
_TEMPERATURES = (0.01, 100.0)  # where the best one is sought


def calibrate(logits: Floats, labels: Labels, coverage: float = COVERAGE) -> Calibration:
    """Fit temperature and rejection threshold on the logits [N, 10] of validation digits with these labels [N].

    The threshold keeps at least the fraction `coverage` of the digits.
    """
    temperature, scores = fit_temperature(logits, labels), max_logit(logits)
    threshold = rejection_threshold(scores, coverage)
    return Calibration(
        temperature=temperature,
        ece_before=expected_calibration_error(softmax(logits), labels),
        ece_after=expected_calibration_error(softmax(logits, temperature), labels),
        threshold=threshold,
        coverage=float(np.mean(scores >= threshold)),
        digits=len(labels),
    )


def softmax(logits: Floats, temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities [N, 10] of logits [N, 10] divided by the temperature, in double precision."""
    from scipy import special  # takes a while to load

    return np.asarray(special.softmax(logits.astype(np.float64) / temperature, axis=1))


def fit_temperature(logits: Floats, labels: Labels) -> float:
    """The temperature T > 0 with which softmax(logits [N, 10] / T) gives the labels [N] the highest likelihood.

    Source: C. Guo, G. Pleiss, Y. Sun, K. Weinberger (2017), "On Calibration of Modern Neural Networks", ICML. The mean
    negative log-likelihood is convex in 1/T, so it has one minimum, sought here over log T from 0.01 to 100. If
    every digit has the highest logit, the likelihood only grows as T falls, and nothing can be learned: T is 1.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    _check(logits, labels)
    values, rows = logits.astype(np.float64), np.arange(len(labels))
    if bool((values[rows, labels] == values.max(axis=1)).all()):
        return 1.0

    def loss(log_temperature: float) -> float:
        return float(-log_softmax(values / math.exp(log_temperature), axis=1)[rows, labels].mean())

    low, high = map(math.log, _TEMPERATURES)
    return math.exp(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x)


def expected_calibration_error(probabilities: Floats, labels: Labels, bins: int = 15) -> float:
    """How far confidence and accuracy lie apart, in [0, 1]: Σ_b n_b/N |accuracy_b − mean confidence_b|.

    Of probabilities [N, 10] for digits with labels [N], bin b of B, all equally wide, holds those whose highest
    probability lies in (b/B, (b+1)/B]. Sources: Guo et al. (2017), as above; M. Naeini, G. Cooper, M. Hauskrecht
    (2015), "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI.

    The figure is biased by the bins. Few digits in a bin push it up: even a perfectly calibrated model shows about
    √(2 p (1 − p) / (π n_b)) in a bin of n_b digits with accuracy p. Wide bins pull it down: gaps of opposite sign
    within one cancel. Compare it only at the same bins and the same number of digits.
    """
    _check(probabilities, labels)
    confidences = probabilities.max(axis=1).astype(np.float64)
    gaps = (probabilities.argmax(axis=1) == labels) - confidences
    which = np.clip(np.ceil(confidences * bins).astype(np.intp) - 1, 0, bins - 1)
    return float(np.abs(np.bincount(which, weights=gaps, minlength=bins)).sum() / len(labels))


def coverage_curve(scores: Floats, correct: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Accuracy of what is kept as ever more of the lowest scores are rejected.

    `scores` [N], N ≥ 1: confidence, max logit, or any other that is high when a model should be believed; `correct`
    [N]: whether the prediction was. Returns coverage (fraction kept, rising to 1) and accuracy of these, float64 [K]
    each: one point for each of the K different scores, so that equal scores are kept or rejected together.
    """
    assert scores.shape == correct.shape
    assert scores.size > 0
    _, where = np.unique(-scores, return_inverse=True)
    kept = np.cumsum(np.bincount(where))
    return kept / len(scores), np.cumsum(np.bincount(where, weights=correct)) / kept


def rejection_threshold(scores: Floats, coverage: float = COVERAGE) -> float:
    """The highest threshold such that at least the fraction `coverage` of `scores` [N] is not below it."""
    assert scores.size > 0
    assert 0 < coverage <= 1
    kept = max(1, math.ceil(round(coverage * scores.size, 9)))  # 0.07 * 100 is a little more than 7
    return float(np.sort(scores)[scores.size - kept])


def _check(rows: Floats, labels: Labels) -> None:
    assert rows.shape == (len(labels), 10)
    assert len(labels) > 0
    assert bool(np.isfinite(rows).all())
