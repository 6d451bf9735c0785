"""`compare`: the difference of two studies on the same digits, and how sure it is."""

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import stdev

import numpy as np
from msgspec.structs import asdict
from numpy.typing import NDArray

from tinydigits.errors import DataError
from tinydigits.evaluation.statistics import compare_means, mcnemar_exact, paired_bootstrap, seeds_needed
from tinydigits.records import Comparison, Difference, PairedTest, StudyResult, StudySide, derive_record
from tinydigits.studies.study import correct_in_run, read_study, run_directory


def compare(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> Comparison:
    """Is the first study better than the second? `difference`: first less second, of the accuracy after the last epoch.

    Both are directories that `prove` has made.

    Raises:
        RunError: one of them is no study.
        DataError: they were evaluated on different digits.
    """
    studies = [(path, read_study(path)) for path in (Path(first), Path(second))]
    reject_different_digits(studies)
    correct = [np.stack([correct_in_run(run_directory(path, seed)) for seed in study.seeds]) for path, study in studies]
    accuracies = [[run.accuracy for run in study.runs] for _, study in studies]
    found = compare_predictions(accuracies[0], correct[0], accuracies[1], correct[1])
    one, two = (derive_record(StudySide, study, study_dir=str(path), **asdict(study.final)) for path, study in studies)
    return Comparison(first=one, second=two, sentence=_sentence(found), **asdict(found))


def reject_different_digits(sides: Sequence[tuple[str | Path, StudyResult]]) -> None:
    """Check that all were evaluated on the same digits; each comes with what the user calls it.

    Raises:
        DataError: they were not.
    """
    if len({study.evaluation_sha256 for _, study in sides}) > 1:
        found = ", ".join(f"{name} was evaluated on {study.data} ({study.split})" for name, study in sides)
        raise DataError(
            f"{found}: these are different digits, and accuracies on them cannot be compared. Name runs or studies "
            "that were evaluated on the same."
        )


def compare_predictions(
    first: Sequence[float], first_correct: NDArray[np.bool_], second: Sequence[float], second_correct: NDArray[np.bool_]
) -> Difference:
    """How far two sets of runs are apart on the same digits, and how sure that is: `first` less `second`.

    `first` and `second` are the accuracies of their runs; `…_correct` [runs, digits]: which run classifies which digit
    correctly, with the same digits in the same order.
    """
    difference, low, high = paired_bootstrap(first_correct, second_correct)
    only_first, only_second, p = mcnemar_exact(first_correct[0], second_correct[0])
    enough = min(len(first), len(second)) > 1
    sds = (stdev(first), stdev(second)) if enough else (0.0, 0.0)
    return Difference(
        difference=difference,
        interval=(low, high),
        p_seeds=compare_means(first, second)[2] if enough else None,
        seed_0=PairedTest(only_first=only_first, only_second=only_second, p=p),
        seeds_needed=seeds_needed(*sds, abs(difference)) if difference and any(sds) else None,
    )


def _sentence(found: Difference) -> str:
    low, high = found.interval
    seeds = ""
    if found.seeds_needed:
        seeds = f" It takes {found.seeds_needed} seeds a study to show such a difference over seeds alone."
    if low > 0 or high < 0:
        better = "first" if found.difference > 0 else "second"
        points = 100 * abs(found.difference)
        return f"The {better} is better by {points:.3f} points; zero lies outside the interval.{seeds}"
    return f"Neither is shown to be better: zero lies inside the interval.{seeds}"
