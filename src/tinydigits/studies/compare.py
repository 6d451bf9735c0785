"""Two studies on the same digits: the difference, and what stands behind it."""

from pathlib import Path
from typing import Any

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
    accuracies_one, accuracies_two = ([run["accuracy"] for run in study["runs"]] for study in studies)
    right_one, right_two = correct_answers(first, one["seeds"]), correct_answers(second, two["seeds"])
    difference, low, high = paired_bootstrap(right_one, right_two)
    only_first, only_second, p = mcnemar_exact(right_one[0], right_two[0])
    sds = (one["final"]["sd"], two["final"]["sd"])
    enough = None not in sds
    needed = seeds_needed(*sds, abs(difference)) if enough and difference and any(sds) else None
    return {
        "first": _side(first, one),
        "second": _side(second, two),
        "difference": difference,
        "interval": [low, high],
        "p_seeds": compare_means(accuracies_one, accuracies_two)[2] if enough else None,
        "seed_0": {"only_first": only_first, "only_second": only_second, "p": p},
        "seeds_needed": needed,
        "sentence": _sentence(difference, low, high, needed),
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
