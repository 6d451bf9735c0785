"""Calibration: against temperatures that are known, and figures worked out by hand."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tinydigits.evaluation.calibration import (
    calibrate,
    coverage_curve,
    expected_calibration_error,
    fit_temperature,
    rejection_threshold,
    softmax,
)
from tinydigits.inference.graph import max_logit
from tinydigits.records import Calibration, encode

Sample = tuple[NDArray[np.float64], NDArray[np.int64]]


def sample(count: int, spread: float = 2.0, seed: int = 0) -> Sample:
    """Logits [N, 10], and labels drawn with exactly the probabilities that these logits state."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, spread, size=(count, 10))
    labels = (logits + generator.gumbel(size=(count, 10))).argmax(axis=1)
    return logits, labels


def sure(confidences: list[float], right: list[bool]) -> Sample:
    """Probabilities whose highest is as given, for digit 0, and labels that agree or do not."""
    highest = np.array(confidences)
    probabilities = np.tile(((1 - highest) / 9)[:, None], 10)
    probabilities[:, 0] = highest
    return probabilities, np.where(right, 0, 1)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 1.7, 5.0])
def test_a_known_temperature_is_found(temperature: float) -> None:
    logits, labels = sample(20_000)
    assert fit_temperature(logits * temperature, labels) == pytest.approx(temperature, rel=0.02)


def test_the_temperature_is_where_the_likelihood_is_highest() -> None:
    logits, labels = sample(500, seed=1)
    best = fit_temperature(logits, labels)

    def loss(temperature: float) -> float:
        return float(-np.log(softmax(logits, temperature))[np.arange(500), labels].mean())

    assert loss(best) < min(loss(best * 0.99), loss(best * 1.01))


def test_without_a_mistake_there_is_no_temperature_to_learn() -> None:
    logits = np.random.default_rng(0).normal(size=(30, 10))
    assert fit_temperature(logits, logits.argmax(axis=1)) == 1.0


def test_a_calibrated_sample_has_almost_no_calibration_error() -> None:
    logits, labels = sample(50_000)
    assert expected_calibration_error(softmax(logits), labels) < 0.006
    assert expected_calibration_error(softmax(logits * 3), labels) > 0.15


@pytest.mark.parametrize(
    ("confidences", "right", "bins", "expected"),
    [
        ([0.9] * 10, [True] * 6 + [False] * 4, 15, 0.3),  # overconfident: 0.6 right at 0.9
        ([0.5] * 4, [True] * 3 + [False], 15, 0.25),  # too modest: 0.75 right at 0.5
        ([0.9, 0.9, 0.3, 0.3], [True, False, False, False], 15, 0.35),  # (2·0.4 + 2·0.3) / 4
        ([0.9, 0.3], [False, True], 15, 0.8),  # apart: (0.9 + 0.7) / 2 …
        ([0.9, 0.3], [False, True], 1, 0.1),  # … in one bin gaps of opposite sign cancel
        ([0.5, 0.6], [True, False], 2, 0.55),  # an edge belongs to the bin below: (0.5 + 0.6) / 2, not |0.5 − 0.55|
        ([1.0], [True], 15, 0.0),
    ],
)
def test_the_calibration_error_is_that_worked_out_by_hand(
    confidences: list[float], right: list[bool], bins: int, expected: float
) -> None:
    assert expected_calibration_error(*sure(confidences, right), bins) == pytest.approx(expected, abs=1e-12)


def test_the_coverage_curve_is_that_worked_out_by_hand() -> None:
    scores = np.array([0.2, 0.9, 0.5, 0.9, 0.7])
    right = np.array([False, True, False, True, True])
    coverage, accuracy = coverage_curve(scores, right)
    np.testing.assert_allclose(coverage, [0.4, 0.6, 0.8, 1.0])  # the two of 0.9 together
    np.testing.assert_allclose(accuracy, [1, 1, 3 / 4, 3 / 5])


@given(st.lists(st.integers(0, 12), min_size=1, max_size=60), st.floats(0.001, 1))
def test_the_threshold_keeps_at_least_the_share_and_is_the_highest_that_does(
    values: list[int], coverage: float
) -> None:
    scores = np.array(values, dtype=np.float64)  # few different values: many ties
    threshold = rejection_threshold(scores, coverage)
    assert np.mean(scores >= threshold) >= coverage - 1e-9
    higher = scores[scores > threshold]
    assert higher.size == 0 or np.mean(scores >= higher.min()) < coverage


@pytest.mark.parametrize(("count", "coverage", "spared"), [(1000, 0.995, 995), (100, 0.07, 7), (10, 0.995, 10)])
def test_the_threshold_keeps_no_more_than_it_must(count: int, coverage: float, spared: int) -> None:
    scores = np.random.default_rng(0).permutation(count).astype(np.float64)
    assert np.count_nonzero(scores >= rejection_threshold(scores, coverage)) == spared


def test_the_max_logit_remembers_what_softmax_forgets() -> None:
    rows = np.log(np.arange(1.0, 21.0)).reshape(2, 10)
    np.testing.assert_allclose(np.exp(max_logit(rows)), [10, 20])
    np.testing.assert_allclose(max_logit(rows + 7), max_logit(rows) + 7)
    np.testing.assert_allclose(softmax(rows + 7), softmax(rows))


def test_the_max_logit_of_a_network_that_ends_in_log_softmax_is_its_confidence() -> None:
    confidences = softmax(sample(100)[0])
    np.testing.assert_allclose(np.exp(max_logit(np.log(confidences))), confidences.max(axis=1))


def test_calibration_puts_the_parts_together() -> None:
    calibrated, labels = sample(4_000)
    logits = calibrated.astype(np.float32) * 2  # twice as sure as it may be
    calibration = calibrate(logits, labels)
    assert calibration.temperature == pytest.approx(2, rel=0.05)
    assert calibration.ece_before == expected_calibration_error(softmax(logits), labels)
    assert calibration.ece_after is not None
    assert calibration.ece_after < calibration.ece_before / 4
    assert calibration.threshold == rejection_threshold(max_logit(logits), 0.995)
    assert calibration.coverage == 0.995
    assert msgspec.json.decode(encode(calibration), type=Calibration) == calibration
