import math
from collections.abc import Callable
from statistics import mean, stdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom, norm, t, ttest_ind

from tinydigits.evaluation.statistics import (
    clopper_pearson_interval,
    compare_means,
    mcnemar_exact,
    mean_interval,
    mean_lower_bound,
    paired_bootstrap,
    seeds_needed,
    two_way_bootstrap,
    wilson_interval,
)

ProportionInterval = Callable[..., tuple[float, float]]

# Student (1908), Biometrika 6, 1-25, section IX: hours of sleep gained by ten patients with either drug; as R's
# data set `sleep`, whose `t.test` gives the figures below.
DEXTRO = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
LAEVO = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
GAIN = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]

accuracies = st.lists(st.integers(9_800, 10_000).map(lambda right: right / 10_000), min_size=3, max_size=12)


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int]:
    total = draw(st.integers(1, 20_000))
    return draw(st.integers(0, total)), total


@st.composite
def tables(draw: st.DrawFn) -> NDArray[np.bool_]:
    seeds, digits, chance = draw(st.integers(1, 10)), draw(st.integers(1, 60)), draw(st.sampled_from([0, 0.5, 0.9, 1]))
    return np.random.default_rng(draw(st.integers(0, 2**32))).random((seeds, digits)) < chance


def _study(seeds: int, digits: int = 10_000, generator_seed: int = 0) -> NDArray[np.bool_]:
    """A table like that of a real study: most digits easy, a few that nearly every seed misses."""
    generator = np.random.default_rng(generator_seed)
    return generator.random((seeds, digits)) >= generator.beta(0.0032, 0.535, digits)


# R. G. Newcombe (1998), Statistics in Medicine 17, 857-872, table I: methods 3 (Wilson) and 5 (Clopper-Pearson).
@pytest.mark.parametrize(
    ("correct", "total", "wilson", "clopper_pearson"),
    [
        (81, 263, (0.2553, 0.3662), (0.2527, 0.3676)),
        (15, 148, (0.0624, 0.1605), (0.0578, 0.1617)),
        (0, 20, (0.0000, 0.1611), (0.0000, 0.1684)),
        (1, 29, (0.0061, 0.1718), (0.0009, 0.1776)),
    ],
)
def test_intervals_of_a_proportion_agree_with_published_examples(
    correct: int, total: int, wilson: tuple[float, float], clopper_pearson: tuple[float, float]
) -> None:
    assert wilson_interval(correct, total) == pytest.approx(wilson, abs=5e-5)
    assert clopper_pearson_interval(correct, total) == pytest.approx(clopper_pearson, abs=5e-5)


def test_wilson_interval_of_9940_right_digits_is_the_one_that_the_docs_quote() -> None:
    assert wilson_interval(9_940, 10_000) == pytest.approx((0.9923, 0.9953), abs=5e-5)


@given(counts())
def test_intervals_of_a_proportion_are_ordered_and_hold_what_was_seen(sample: tuple[int, int]) -> None:
    share = sample[0] / sample[1]
    for interval in (wilson_interval, clopper_pearson_interval):
        low, high = interval(*sample)
        assert -1e-12 <= low <= share + 1e-12
        assert share - 1e-12 <= high <= 1 + 1e-12
        assert low < high


@given(counts())
def test_ends_of_clopper_pearson_are_where_the_tails_hold_the_doubt(sample: tuple[int, int]) -> None:
    correct, total = sample
    low, high = clopper_pearson_interval(correct, total)
    assert low == 0 if correct == 0 else binom.sf(correct - 1, total, low) == pytest.approx(0.025, rel=1e-6)
    assert high == 1 if correct == total else binom.cdf(correct, total, high) == pytest.approx(0.025, rel=1e-6)


@pytest.mark.parametrize("interval", [wilson_interval, clopper_pearson_interval])
def test_wrong_answers_mirror_right_ones(interval: ProportionInterval) -> None:
    low, high = interval(37, 50)
    assert interval(13, 50) == pytest.approx((1 - high, 1 - low))
    assert interval(50, 50)[1] == pytest.approx(1)


@pytest.mark.parametrize("interval", [wilson_interval, clopper_pearson_interval])
def test_more_confidence_makes_a_wider_interval(interval: ProportionInterval) -> None:
    low, high = interval(90, 100, confidence=0.9)
    wider_low, wider_high = interval(90, 100, confidence=0.99)
    assert wider_low < low < 0.9 < high < wider_high


# Wilson promises 95 % on average over shares, Clopper-Pearson never less.
@pytest.mark.parametrize(
    ("interval", "least", "most"), [(wilson_interval, 0.94, 0.96), (clopper_pearson_interval, 0.95, 0.97)]
)
def test_coverage_at_ten_thousand_digits_is_as_promised_summed_and_simulated(
    interval: ProportionInterval, least: float, most: float
) -> None:
    total, trials, generator = 10_000, 40_000, np.random.default_rng(0)
    seen = np.arange(9_870, 9_990)  # outside, the shares below put less than 1e-6
    ends = np.array([interval(int(correct), total) for correct in seen])
    for share in (0.9930, 0.9937, 0.9940, 0.9945, 0.9950):
        holds = (ends[:, 0] <= share) & (share <= ends[:, 1])
        exact = float(binom.pmf(seen, total, share)[holds].sum())
        assert least <= exact <= most
        drawn = generator.binomial(total, share, trials) - seen[0]
        simulated = float(holds[drawn].mean())
        assert simulated == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / trials))


def test_bounds_of_a_mean_agree_with_students_own_example() -> None:
    assert mean_interval(GAIN) == pytest.approx((0.7001142, 2.4598858), abs=5e-8)
    # By the printed table, 1.833 is the t of 95 % at 9 degrees of freedom; mean 1.58, std 1.23.
    assert mean_lower_bound(GAIN) == pytest.approx(1.58 - 1.833 * 1.23 / math.sqrt(10), abs=5e-4)


@pytest.mark.parametrize("values", [[], [0.994], [0.994, 0.995]])
def test_fewer_than_three_values_bound_no_mean(values: list[float]) -> None:
    assert mean_lower_bound(values) is None
    assert mean_interval(values) is None


@pytest.mark.parametrize("value", [0.994, 0.9953, 1 / 49])
@pytest.mark.parametrize("n", [3, 5, 49])
def test_equal_values_are_their_own_bound_to_the_last_bit(value: float, n: int) -> None:
    assert mean_lower_bound([value] * n) == value
    assert mean_interval([value] * n) == (value, value)


@given(accuracies)
def test_bounds_of_a_mean_agree_with_scipy_and_lie_around_it(values: list[float]) -> None:
    interval = mean_interval(values, 0.9)
    assert interval is not None
    low, high = interval
    assert low <= mean(values) <= high
    assert low == pytest.approx(mean_lower_bound(values, 0.95), abs=1e-12)  # both leave 5 % below
    error = stdev(values) / math.sqrt(len(values))
    expected = t.ppf(0.95, len(values) - 1, loc=mean(values), scale=error) if error else values[0]
    assert high == pytest.approx(expected, abs=1e-12)


def test_welch_agrees_with_a_published_example() -> None:
    difference, interval, p = compare_means(DEXTRO, LAEVO)
    assert difference == pytest.approx(-1.58)
    assert interval == pytest.approx((-3.3654832, 0.2054832), abs=5e-8)
    assert p == pytest.approx(0.07939, abs=5e-6)


@given(accuracies, accuracies)
def test_welch_agrees_with_scipy_and_turns_round_with_its_samples(first: list[float], second: list[float]) -> None:
    difference, (low, high), p = compare_means(first, second)
    assert low <= difference <= high
    assert 0 <= p <= 1
    turned, interval, same_p = compare_means(second, first)
    assert (turned, *interval, same_p) == pytest.approx((-difference, -high, -low, p))
    if stdev(first) and stdev(second):
        test = ttest_ind(first, second, equal_var=False)
        assert p == pytest.approx(test.pvalue, abs=1e-9)
        assert (low, high) == pytest.approx(tuple(test.confidence_interval()), abs=1e-9)


@pytest.mark.parametrize(("second", "p"), [(0.994, 1), (0.993, 0)])
def test_welch_of_values_that_never_vary_is_certain(second: float, p: float) -> None:
    difference = 0.994 - second
    assert compare_means([0.994] * 3, [second] * 4) == (difference, (difference, difference), p)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        # A. Agresti (2013), Categorical Data Analysis, section 11.1: approval ratings, z₀² = 17.36, p = 0.00003; the
        # exact p is twice the binomial tail.
        (150, 86, 3.716e-5),
        # M. P. Fay, vignette of the R package exact2x2, "Exact McNemar's test": p = 0.06543.
        (9, 2, 0.06543),
        (1, 0, 1),
        (4, 4, 1),
        (0, 0, 1),
    ],
)
def test_mcnemar_agrees_with_published_examples(only_first: int, only_second: int, p: float) -> None:
    first = np.array([True] * only_first + [False] * only_second + [True, False] * 30)
    second = np.array([False] * only_first + [True] * only_second + [True, False] * 30)
    assert mcnemar_exact(first, second) == pytest.approx((only_first, only_second, p), rel=1e-4)
    assert mcnemar_exact(second, first) == pytest.approx((only_second, only_first, p), rel=1e-4)


# J. Cohen (1992), "A power primer", Psychological Bulletin 112, 155-159, table 2, difference of two means at power
# 0.80 (and 1988, table 2.4.1, for 0.4 deviations). His approximation rounds to one fewer here and there.
@pytest.mark.parametrize(
    ("alpha", "difference", "published"),
    [
        (0.01, 0.2, 586),
        (0.01, 0.5, 95),
        (0.01, 0.8, 38),
        (0.05, 0.2, 393),
        (0.05, 0.4, 100),
        (0.05, 0.5, 64),
        (0.05, 0.8, 26),
        (0.10, 0.2, 310),
        (0.10, 0.5, 50),
        (0.10, 0.8, 20),
    ],
)
def test_seeds_needed_agree_with_cohens_tables(alpha: float, difference: float, published: int) -> None:
    needed = seeds_needed(1, 1, difference, alpha=alpha)
    assert needed in (published, published + 1)
    assert needed == seeds_needed(0.05, 0.05, -0.05 * difference, alpha=alpha)  # neither unit nor sign matters


@pytest.mark.parametrize(("sd_first", "sd_second", "difference"), [(0.05, 0.05, 0.05), (0.1, 0.03, 0.1)])
def test_seeds_needed_give_the_power_when_simulated(sd_first: float, sd_second: float, difference: float) -> None:
    needed, trials, generator = seeds_needed(sd_first, sd_second, difference), 20_000, np.random.default_rng(0)
    assert needed is not None

    def power(n: int) -> float:
        first = generator.normal(difference, sd_first, (n, trials))
        second = generator.normal(0, sd_second, (n, trials))
        return float((ttest_ind(first, second, equal_var=False).pvalue < 0.05).mean())

    slack = 4 * math.sqrt(0.16 / trials)
    assert power(needed) > 0.8 - slack
    assert power(needed - 2) < 0.8


@pytest.mark.parametrize(
    ("sd_first", "sd_second", "difference", "needed"),
    [(0.05, 0.05, 0, None), (0, 0, 0, None), (0, 0, 0.01, 3), (1e-17, 0, 0.01, 3), (0.01, 0.01, 5, 3)],
)
def test_seeds_needed_at_the_edges(sd_first: float, sd_second: float, difference: float, needed: int | None) -> None:
    assert seeds_needed(sd_first, sd_second, difference) == needed


def test_a_difference_far_below_the_deviations_takes_as_many_seeds_as_the_normal_approximation_says() -> None:
    by_normal = 2 * ((norm.ppf(0.975) + norm.ppf(0.8)) / 1e-4) ** 2
    assert seeds_needed(1, 1, 1e-4) == pytest.approx(by_normal, abs=3)


def test_two_way_bootstrap_draws_seeds_and_digits_as_one_by_one_drawing_does() -> None:
    right = _study(4, 500)
    generator = np.random.default_rng(1)
    means = []
    for _ in range(8_000):
        seeds, digits = generator.integers(4, size=4), generator.integers(500, size=500)
        means.append(right[np.ix_(seeds, digits)].mean())
    expected = np.quantile(means, [0.05, 0.95])
    assert two_way_bootstrap(right, confidence=0.9, resamples=8_000) == pytest.approx(expected, abs=6e-4)


def test_paired_bootstrap_draws_the_same_digits_for_both_recipes_and_new_seeds_for_each() -> None:
    table = _study(7, 500)
    first, second = table[:3], table[3:]
    generator = np.random.default_rng(1)
    differences = []
    for _ in range(8_000):
        digits = generator.integers(500, size=500)
        means = [rows[np.ix_(generator.integers(len(rows), size=len(rows)), digits)].mean() for rows in (first, second)]
        differences.append(means[0] - means[1])
    low, high = np.quantile(differences, [0.05, 0.95])
    expected = (first.mean() - second.mean(), low, high)
    assert paired_bootstrap(first, second, confidence=0.9, resamples=8_000) == pytest.approx(expected, abs=6e-4)


@given(tables())
def test_two_way_bootstrap_stays_ordered_in_zero_to_one_and_repeats_itself(right: NDArray[np.bool_]) -> None:
    low, high = two_way_bootstrap(right, resamples=300)
    assert 0 <= low <= high <= 1
    assert (low, high) == two_way_bootstrap(right, resamples=300)
    if right.all() or not right.any():
        assert low == high == right.mean()


@given(tables())
def test_a_recipe_is_not_better_than_itself(right: NDArray[np.bool_]) -> None:
    difference, low, high = paired_bootstrap(right, right, resamples=300)
    assert difference == 0
    assert -1 <= low <= 0 <= high <= 1


def test_seeds_that_agree_in_full_leave_only_the_digits_to_chance() -> None:
    one = _study(1)
    low, high = two_way_bootstrap(one)
    assert two_way_bootstrap(np.repeat(one, 5, axis=0)) == pytest.approx((low, high), abs=3e-4)
    assert (low, high) == pytest.approx(wilson_interval(int(one.sum()), one.size), abs=3e-4)


def test_the_same_digits_make_a_difference_surer_than_other_digits_would() -> None:
    table = _study(10)
    first, second = table[:5], table[5:].copy()
    second[:, :20] = False  # two recipes alike but for twenty digits that the second always misses
    difference, low, high = paired_bootstrap(first, second)
    assert difference == pytest.approx(0.002, abs=6e-4)
    assert 0 < low < difference < high
    _, lower, higher = paired_bootstrap(first, second[:, ::-1])
    assert higher - lower > 1.2 * (high - low)
