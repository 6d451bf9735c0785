"""How far a measured figure can be trusted."""


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """The two-sided Wilson score interval of a proportion, without continuity correction.

    With p = correct / total, n = total and z the normal quantile of (1 + confidence) / 2::

        (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n)

    Source: E. B. Wilson (1927), "Probable inference, the law of succession, and statistical inference",
    Journal of the American Statistical Association 22, 209-212.

    Args:
        correct: successes, 0 to `total`.
        total: trials, at least 1.
        confidence: the share of such intervals that hold the true proportion, between 0 and 1.

    Returns:
        The lower and the upper end, both in [0, 1].
    """
    assert 0 <= correct <= total
    assert total > 0
    assert 0 < confidence < 1
    from scipy.stats import binomtest  # takes a good part of a second, which only those who ask should wait

    interval = binomtest(correct, total).proportion_ci(confidence_level=confidence, method="wilson")
    return float(interval.low), float(interval.high)
