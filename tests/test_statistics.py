import pytest

from tinydigits.evaluation.statistics import wilson_interval


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        # R. G. Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # 99.40 % of MNIST's test digits.
        (9_940, 10_000, 0.9923, 0.9953),
    ],
)
def test_wilson_interval_agrees_with_published_examples(correct: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_of_a_perfect_score_ends_at_one_and_of_none_starts_at_zero() -> None:
    low, high = wilson_interval(50, 50)
    assert high == pytest.approx(1)
    assert wilson_interval(0, 50) == pytest.approx((0, 1 - low))


def test_more_confidence_makes_a_wider_interval() -> None:
    low, high = wilson_interval(90, 100, confidence=0.9)
    wider_low, wider_high = wilson_interval(90, 100, confidence=0.99)
    assert wider_low < low < 0.9 < high < wider_high
