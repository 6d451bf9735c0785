"""How far a measured figure can be trusted. docs/statistics.md says which of these to use when.

SciPy is imported where it is used: it takes a good part of a second, which only those who ask should wait.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist, mean, variance

import numpy as np
from numpy.typing import NDArray

from tinydigits.records import MIN_SEEDS

_CHUNK = 250  # resamples drawn at once: little memory even where every digit has its own pattern


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """The two-sided Wilson score interval of a proportion, without continuity correction.

    With p = correct / total, n = total and z the normal quantile of (1 + confidence) / 2::

        (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n)

    Both ends are in [0, 1]. Source: E. B. Wilson (1927), "Probable inference, the law of succession, and statistical
    inference", Journal of the American Statistical Association 22, 209-212.
    """
    _check_proportion(correct, total, confidence)
    p, z = correct / total, NormalDist().inv_cdf((1 + confidence) / 2)
    centre, half = p + z**2 / (2 * total), z * math.sqrt(p * (1 - p) / total + z**2 / (4 * total**2))
    whole = 1 + z**2 / total
    low, high = (centre - half) / whole, (centre + half) / whole
    return low if correct else 0.0, high if correct < total else 1.0


def clopper_pearson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """The two-sided "exact" interval of a proportion: it holds the true one at least as often as it says.

    Its ends are the proportions at which `correct` or more, and `correct` or fewer, would be seen with probability
    α/2, α = 1 − confidence; by quantiles of the beta distribution, with k = correct and n = total::

        B(α/2; k, n − k + 1)   to   B(1 − α/2; k + 1, n − k)

    Source: C. J. Clopper, E. S. Pearson (1934), "The use of confidence or fiducial limits illustrated in the case
    of the binomial", Biometrika 26, 404-413.
    """
    _check_proportion(correct, total, confidence)
    from scipy.stats import binomtest

    interval = binomtest(correct, total).proportion_ci(confidence_level=confidence, method="exact")
    return float(interval.low), float(interval.high)


def mean_lower_bound(values: Sequence[float], confidence: float = 0.95) -> float | None:
    """The one-sided lower bound of the mean of which `values` are a sample; None for fewer than three.

    With n values, mean m, sample std s and t the quantile of `confidence` at n − 1 degrees of freedom::

        m − t s / √n

    Source: Student (1908), "The probable error of a mean", Biometrika 6, 1-25. Equal values are their own bound,
    exactly.
    """
    return _mean_bound(values, 1 - confidence)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """The two-sided t interval of the mean of which `values` are a sample; None for fewer than three.

    As in `mean_lower_bound`, m ± t s / √n with t the quantile of (1 + confidence) / 2. It knows no limits: the
    interval of accuracies close to 1 may end above 1.
    """
    low, high = (_mean_bound(values, fraction) for fraction in ((1 - confidence) / 2, (1 + confidence) / 2))
    return None if low is None or high is None else (low, high)


def two_way_bootstrap(
    correct: NDArray[np.bool_], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of the mean accuracy over new seeds *and* new digits of the same kind.

    Every resample draws as many seeds as there are, with replacement, and, independently, as many digits; its figure
    is the mean of the drawn rows at the drawn columns. Sources: A. B. Owen (2007), "The pigeonhole bootstrap",
    Annals of Applied Statistics 1, 386-411; P. McCullagh (2000), "Resampling and exchangeable arrays", Bernoulli 6,
    285-301, who shows that no bootstrap of such a table is exact. docs/statistics.md has its measured coverage.

    One seed is allowed: the interval then knows nothing of other seeds. It cannot know of mistakes that were never
    seen either: if all is correct it is (1, 1), and `clopper_pearson_interval` should be used.

    `correct` [seeds, digits]: whether the run of that seed classified that digit correctly. `seed`: of the resampling,
    not of a run.
    """
    (means,) = _resampled_means([correct], resamples, seed)
    return _percentiles(means, confidence)


def paired_bootstrap(
    first: NDArray[np.bool_],
    second: NDArray[np.bool_],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """How much better the first recipe is than the second, over new seeds and new digits of the same kind.

    As `two_way_bootstrap`, with one draw of digits for both, because both classified the same ones in the same order,
    and a draw of seeds for each. Returns the difference of the mean accuracies, first less second, and the ends of its
    percentile interval.
    """
    means, others = _resampled_means([first, second], resamples, seed)
    low, high = _percentiles(means - others, confidence)
    return float(first.mean() - second.mean()), low, high


def mcnemar_exact(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[int, int, float]:
    """Do two networks classify different fractions of the same digits correctly? McNemar's test in its exact form.

    Only digits that one of them alone classifies correctly tell: if both are equally good, each is as likely to be the
    first's as the second's. With b of the one and c of the other kind, p is the two-sided binomial probability of b in
    b + c at ½, which is 1 where b + c = 0. Sources: Q. McNemar (1947), "Note on the sampling error of the difference
    between correlated proportions or percentages", Psychometrika 12, 153-157; A. Agresti (2013), "Categorical Data
    Analysis", 3rd edition, section 11.1.

    It compares two sets of weights, not two recipes: other seeds would give other weights. `first` and `second`
    [digits]: whether that network classifies that digit correctly. Returns how many digits only the first classifies
    correctly, how many only the second, and p.
    """
    assert first.ndim == 1
    assert first.shape == second.shape
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if only_first == only_second:
        return only_first, only_second, 1.0
    return only_first, only_second, float(binomtest(only_first, only_first + only_second).pvalue)


def compare_means(
    first: Sequence[float], second: Sequence[float], confidence: float = 0.95
) -> tuple[float, tuple[float, float], float]:
    """How far apart the means of two samples are, whatever their standard deviations: Welch's test.

    With means m, sample variances v and sizes n, e = v₁/n₁ + v₂/n₂ and t the quantile of (1 + confidence) / 2::

        m₁ − m₂ ± t √e   at   ν = e² / ((v₁/n₁)²/(n₁ − 1) + (v₂/n₂)²/(n₂ − 1))   degrees of freedom

    Source: B. L. Welch (1947), "The generalization of 'Student's' problem when several different population
    variances are involved", Biometrika 34, 28-35. If neither sample varies, the interval is the difference
    itself, and p is 1 or 0. Returns the difference, first less second; its interval; and the two-sided p of none.
    """
    assert len(first) >= 2
    assert len(second) >= 2
    assert 0 < confidence < 1
    from scipy.special import stdtr, stdtrit

    difference = float(mean(first)) - float(mean(second))
    errors = float(variance(first)) / len(first), float(variance(second)) / len(second)
    if sum(errors) == 0:
        return difference, (difference, difference), float(difference == 0)
    fractions = errors[0] / sum(errors), errors[1] / sum(errors)  # ν by fractions: squares of tiny variances vanish
    freedom = 1 / (fractions[0] ** 2 / (len(first) - 1) + fractions[1] ** 2 / (len(second) - 1))
    error = math.sqrt(sum(errors))
    reach = float(stdtrit(freedom, (1 + confidence) / 2)) * error
    p = 2 * float(stdtr(freedom, -abs(difference) / error))
    return difference, (difference - reach, difference + reach), p


def seeds_needed(
    sd_first: float, sd_second: float, difference: float, power: float = 0.8, alpha: float = 0.05
) -> int | None:
    """How many seeds of each recipe `compare_means` takes to see that they differ by `difference`; None if that is 0.

    Seen means a two-sided p below `alpha`, with probability `power`. The standard deviations over seeds are in the unit
    of `difference`, whose sign does not matter. With a and b the normal quantiles of 1 − α/2 and of `power`, it begins
    with the normal approximation::

        n = (a + b)² (s₁² + s₂²) / d²

    and goes up until the noncentral t distribution, of noncentrality d / √((s₁² + s₂²)/n) and with Welch's degrees of
    freedom, gives the power. Source: J. Cohen (1988), "Statistical Power Analysis for the Behavioral Sciences", 2nd
    edition, chapter 2. Never fewer than three, below which no mean is bounded.

    The standard deviations, and a difference taken from a study, are estimates themselves: from few seeds, this is a
    guess.
    """
    assert sd_first >= 0
    assert sd_second >= 0
    assert 0 < alpha < power < 1
    from scipy.special import ndtri
    from scipy.stats import nct, t

    spread = math.hypot(sd_first, sd_second)
    if difference == 0:
        return None
    if spread == 0:
        return MIN_SEEDS
    by_normal = float((ndtri(1 - alpha / 2) + ndtri(power)) * spread / difference) ** 2
    freedom_per_seed = 1 / ((sd_first / spread) ** 4 + (sd_second / spread) ** 4)  # Welch's, over n − 1

    def seen(count: int) -> float:
        freedom = freedom_per_seed * (count - 1)
        shift = min(abs(difference) / spread * math.sqrt(count), 100)  # beyond it, certain; SciPy gives up at 1e12
        return float(nct.sf(t.ppf(1 - alpha / 2, freedom), freedom, shift))

    count = max(MIN_SEEDS, math.floor(by_normal))
    while seen(count) < power:
        count += 1
    return count


def _check_proportion(correct: int, total: int, confidence: float) -> None:
    assert 0 <= correct <= total
    assert total > 0
    assert 0 < confidence < 1


def _mean_bound(values: Sequence[float], fraction: float) -> float | None:
    """The mean plus as many standard errors as the t quantile of `fraction` says."""
    assert 0 < fraction < 1
    if len(values) < MIN_SEEDS:
        return None
    from scipy.special import stdtrit

    # The module `statistics` rounds once, at the end: values that are all equal have exactly that mean, and no spread.
    error = math.sqrt(variance(values) / len(values))
    return float(mean(values)) + float(stdtrit(len(values) - 1, fraction)) * error


def _resampled_means(groups: list[NDArray[np.bool_]], resamples: int, seed: int) -> list[NDArray[np.float64]]:
    """For each group, bool [its seeds, digits], the means of its resamples, float64 [resamples].

    Digits that the same seeds classify correctly can stand for each other. So there are few kinds of digits, and how
    often each kind is drawn is multinomial: the same distribution as drawing 10,000 digits one by one, in less time.
    """
    table = np.concatenate(groups)
    assert table.dtype == np.bool_
    assert all(group.ndim == 2 and group.size for group in groups)
    assert resamples > 0
    total = table.shape[1]
    packed, occurrences = np.unique(np.packbits(table, axis=0), axis=1, return_counts=True)
    kinds = np.unpackbits(packed, axis=0, count=len(table))  # [seeds, kinds]
    parts = np.split(kinds, np.cumsum([len(group) for group in groups])[:-1])
    generator = np.random.default_rng(seed)
    means = [np.empty(resamples) for _ in groups]
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        digits = generator.multinomial(total, occurrences / total, size)  # [size, kinds]
        for part, target in zip(parts, means, strict=True):
            count = len(part)
            seeds = generator.multinomial(count, np.full(count, 1 / count), size)  # [size, seeds]
            target[start : start + size] = ((seeds @ part) * digits).sum(axis=1) / (count * total)
    return means


def _percentiles(figures: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    assert 0 < confidence < 1
    low, high = np.quantile(figures, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
