"""Two studies on the same digits: the difference, and what stands behind it."""

from collections.abc import Sequence
from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydigits.errors import RunError
from tinydigits.evaluation.statistics import compare_means, mcnemar_exact, paired_bootstrap, seeds_needed
from tinydigits.studies.prove import correct_answers, read_study


def compare(first: Path, second: Path) -> dict[str, Any]:
    """Is the first study better than the second? `difference` is first less second, of the final epochs' accuracies.

    Raises:
        RunError: one of them is no study, or they were judged by different digits.
    """
    studies = [read_study(path) for path in (first, second)]
    one, two = studies
    if one["judge_sha256"] != two["judge_sha256"]:
        sides = (
            f"{path} was judged by {s['data']} ({s['protocol']})"
            for path, s in zip((first, second), studies, strict=True)
        )
        raise RunError(
            f"{', '.join(sides)}: these are different digits, and accuracies on them cannot be compared. "
            "Prove both on the same."
        )
    accuracies = [[run["accuracy"] for run in study["runs"]] for study in studies]
    right = [correct_answers(path, study["seeds"]) for path, study in zip((first, second), studies, strict=True)]
    figures = compare_answers(accuracies[0], right[0], accuracies[1], right[1])
    low, high = figures["interval"]
    return {
        "first": _side(first, one),
        "second": _side(second, two),
        **figures,
        "sentence": _sentence(figures["difference"], low, high, figures["seeds_needed"]),
    }


def compare_answers(
    first: Sequence[float], first_right: NDArray[np.bool_], second: Sequence[float], second_right: NDArray[np.bool_]
) -> dict[str, Any]:
    """How far two sets of runs are apart on the same digits, and how sure that is: `first` less `second`.

    Args:
        first: the accuracies of the first runs.
        first_right: [first runs, digits], which of them read which digit.
        second: the accuracies of the second runs.
        second_right: [second runs, digits], the same digits in the same order.

    Returns:
        `difference`, its `interval`, `p_seeds` (None below two runs a side), `seed_0`, the exact McNemar test of the
        first run of each, and `seeds_needed`.
    """
    difference, low, high = paired_bootstrap(first_right, second_right)
    only_first, only_second, p = mcnemar_exact(first_right[0], second_right[0])
    enough = min(len(first), len(second)) > 1
    sds = (stdev(first), stdev(second)) if enough else (0.0, 0.0)
    return {
        "difference": difference,
        "interval": [low, high],
        "p_seeds": compare_means(first, second)[2] if enough else None,
        "seed_0": {"only_first": only_first, "only_second": only_second, "p": p},
        "seeds_needed": seeds_needed(*sds, abs(difference)) if difference and any(sds) else None,
    }


def _side(path: Path, study: dict[str, Any]) -> dict[str, Any]:
    return {
        "study_dir": str(path),
        "model": study["model"],
        "recipe": study["recipe"],
        "n": study["n"],
        **study["final"],
    }


def _sentence(difference: float, low: float, high: float, needed: int | None) -> str:
    seeds = f" Seeds alone can tell a difference of that size apart with {needed} a study." if needed else ""
    if low > 0 or high < 0:
        better = "first" if difference > 0 else "second"
        return f"The {better} is better by {100 * abs(difference):.3f} points; zero lies outside the interval.{seeds}"
    return f"Neither is shown to be better: zero lies inside the interval.{seeds}"
