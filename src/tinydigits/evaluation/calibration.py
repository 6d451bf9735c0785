"""How sure a model may say it is, and when it should say "no digit".

Everything here is fitted on held-out digits that the model was not trained on: those of the protocol `tune`.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Labels = NDArray[np.integer]

COVERAGE = 0.995  # the share of real digits that "no digit" must spare
_TEMPERATURES = (0.01, 100.0)  # where the best one is sought


@dataclass(frozen=True)
class Calibration:
    """What held-out digits say of a model's sureness; `ece_…` is the expected calibration error.

    Logits divided by `temperature` give honest probabilities. A picture whose `evidence` is below `threshold` is no
    digit; `coverage` is the share of the `digits` held-out digits that this keeps.
    """

    temperature: float
    ece_before: float
    ece_after: float
    threshold: float
    coverage: float
    digits: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as it stands in the card."""
        return asdict(self)


def calibrate(logits: Floats, labels: Labels, coverage: float = COVERAGE) -> Calibration:
    """Fit temperature and rejection threshold.

    Args:
        logits: [N, 10], of held-out digits.
        labels: [N], their digits.
        coverage: the least share of digits that the threshold keeps.
    """
    temperature = fit_temperature(logits, labels)
    scores = evidence(logits)
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
    from scipy.special import softmax as scipy_softmax  # scipy takes a while, which only those who ask should wait

    return np.asarray(scipy_softmax(logits.astype(np.float64) / temperature, axis=1))


def evidence(logits: Floats) -> NDArray[np.float64]:
    """The highest logit of each row, float64 [N]: high for digits like those of the training, low for other pictures.

    It tells non-digits better than the probability of the best digit, because softmax forgets how large the logits
    were. A network of the user's that ends in log_softmax has forgotten it too; its evidence is that probability's
    logarithm. Source: D. Hendrycks, S. Basart, M. Mazeika and others (2022), "Scaling Out-of-Distribution Detection
    for Real-World Settings", ICML.
    """
    return np.asarray(logits.max(axis=1), dtype=np.float64)


def fit_temperature(logits: Floats, labels: Labels) -> float:
    """The temperature T > 0 with which softmax(logits / T) gives the labels the highest likelihood.

    Source: C. Guo, G. Pleiss, Y. Sun, K. Weinberger (2017), "On Calibration of Modern Neural Networks", ICML. The mean
    negative log-likelihood is convex in 1/T, so it has one minimum, sought here over log T from 0.01 to 100. If
    every digit has the highest logit, the likelihood only grows as T falls, and nothing can be learned: T is 1.

    Args:
        logits: [N, 10], N ≥ 1.
        labels: [N].
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

    Bin b of B holds the digits whose highest probability lies in (b/B, (b+1)/B]. Sources: Guo et al. (2017), as
    above; M. Naeini, G. Cooper, M. Hauskrecht (2015), "Obtaining Well Calibrated Probabilities Using Bayesian
    Binning", AAAI.

    The figure is biased by the bins. Few digits in a bin push it up: even a perfectly calibrated model shows about
    √(2 p (1 − p) / (π n_b)) in a bin of n_b digits with accuracy p. Wide bins pull it down: gaps of opposite sign
    within one cancel. Compare it only at the same bins and the same number of digits.

    Args:
        probabilities: [N, 10], N ≥ 1.
        labels: [N].
        bins: of equal width.
    """
    _check(probabilities, labels)
    confidences = probabilities.max(axis=1).astype(np.float64)
    gaps = (probabilities.argmax(axis=1) == labels) - confidences
    which = np.clip(np.ceil(confidences * bins).astype(np.intp) - 1, 0, bins - 1)
    return float(np.abs(np.bincount(which, weights=gaps, minlength=bins)).sum() / len(labels))


def coverage_curve(scores: Floats, right: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Accuracy of what is kept as ever more of the lowest scores are rejected.

    Args:
        scores: [N], N ≥ 1: confidence, evidence, or any other score that is high when a model should be believed.
        right: [N], whether the answer was right.

    Returns:
        Coverage (share kept, rising to 1) and accuracy of these, float64 [K] each: one point for each of the K
        different scores, so that equal scores are kept or rejected together.
    """
    assert scores.shape == right.shape
    assert scores.size > 0
    different, where = np.unique(-scores, return_inverse=True)
    kept = np.cumsum(np.bincount(where, minlength=len(different)))
    correct = np.cumsum(np.bincount(where, weights=right, minlength=len(different)))
    return kept / len(scores), correct / kept


def rejection_threshold(scores: Floats, coverage: float = COVERAGE) -> float:
    """The highest threshold such that at least the share `coverage` of `scores` [N] is not below it."""
    assert scores.size > 0
    assert 0 < coverage <= 1
    kept = max(1, math.ceil(round(coverage * scores.size, 9)))  # 0.07 * 100 is a little more than 7
    return float(np.sort(scores)[scores.size - kept])


def _check(rows: Floats, labels: Labels) -> None:
    assert rows.shape == (len(labels), 10)
    assert len(labels) > 0
    assert bool(np.isfinite(rows).all())
