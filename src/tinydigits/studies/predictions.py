"""What all seeds of a run or a study predict: which digits they misclassify, and how confident they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinydigits.errors import RunError
from tinydigits.evaluation.calibration import expected_calibration_error, softmax
from tinydigits.evaluation.predictions import confusion_matrix
from tinydigits.records import Mistake
from tinydigits.studies.results import Source
from tinydigits.training.rundir import load_predictions

BINS = 10
"""How many equally wide bins of confidence a reliability diagram has."""


class MisclassifiedDigit(Mistake, frozen=True):
    """A digit that `seeds` seeds misclassify: `predicted` by most of these, `confidence` their mean."""

    seeds: int


@dataclass(frozen=True)
class PerDigit:
    """How one digit fared: its examples, the errors of all seeds, and the accuracy: mean and worst seed."""

    digit: int
    total: int
    errors: int
    accuracy: float
    lowest: float


@dataclass(frozen=True)
class Bin:
    """Predictions whose confidence lies in one bin: how many, their mean confidence, and their accuracy."""

    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, eq=False)
class SeedPredictions:
    """`labels` uint8 [N]; for each seed `predictions` uint8 [S, N] and their `confidences` float32 [S, N].

    `calibrated` are the confidences after dividing by the temperature, None without one. `ece` is the calibration error
    before and after, the mean over the seeds.
    """

    labels: NDArray[np.uint8]
    predictions: NDArray[np.uint8]
    confidences: NDArray[np.float32]
    calibrated: NDArray[np.float32] | None
    ece: tuple[float, float | None]

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Which seed classifies which digit correctly: [S, N]."""
        correct: NDArray[np.bool_] = self.predictions == self.labels
        return correct

    @property
    def confusion(self) -> NDArray[np.int64]:
        """How often each digit (row) was taken for each digit (column) by all seeds together, int64 [10, 10]."""
        return confusion_matrix(self.labels, self.predictions)

    @property
    def per_digit(self) -> list[PerDigit]:
        """One row for each digit that occurs."""
        rows = []
        for digit in np.unique(self.labels).tolist():
            correct = self.correct[:, self.labels == digit]  # [S, examples]
            errors, lowest = int((~correct).sum()), float(correct.mean(axis=1).min())
            rows.append(PerDigit(digit, correct.shape[1], errors, float(correct.mean()), lowest))
        return rows

    def misclassified(self, label_errors: Mapping[int, str]) -> list[MisclassifiedDigit]:
        """All digits that some seed misclassifies: those of most seeds first, then the most confident.

        `label_errors` says, by the digit's index, what reviewers say of its label.
        """
        rows = []
        wrong = ~self.correct
        for index in np.flatnonzero(wrong.any(axis=0)).tolist():
            seeds = wrong[:, index]
            digit = MisclassifiedDigit(
                index=index,
                label=int(self.labels[index]),
                predicted=int(np.bincount(self.predictions[seeds, index]).argmax()),
                confidence=float(self.confidences[seeds, index].mean()),
                label_error=label_errors.get(index),
                seeds=int(seeds.sum()),
            )
            rows.append(digit)
        return sorted(rows, key=lambda row: (-row.seeds, -row.confidence, row.index))

    def reliability(self, *, calibrated: bool) -> list[Bin]:
        """The bins that are not empty, of all seeds together, in the order of their confidence."""
        confidences = self.calibrated if calibrated else self.confidences
        assert confidences is not None
        which = np.clip(np.ceil(confidences * BINS).astype(np.intp) - 1, 0, BINS - 1)
        members = (which == b for b in range(BINS))
        return [
            Bin(int(inside.sum()), float(confidences[inside].mean()), float(self.correct[inside].mean()))
            for inside in members
            if inside.any()
        ]


def read_predictions(source: Source) -> SeedPredictions:
    """The predictions of all its runs, in their order.

    Raises:
        RunError: predictions are missing, damaged, or not of the same digits.
    """
    if source.directory is None:
        raise RunError(f"{source.name} is a summary without its run directories, which hold the predictions.")
    calibration = source.result.calibration
    temperatures = [1.0, calibration.temperature] if calibration else [1.0]
    predictions, confidences, errors = [], [], []
    labels: NDArray[np.uint8] | None = None
    for directory in source.run_directories():
        logits, its_labels = _checked_predictions(directory)
        if labels is not None and not np.array_equal(labels, its_labels):
            raise RunError(f"{directory} holds predictions for other digits than the runs before it.")
        labels, probabilities = its_labels, [softmax(logits, temperature) for temperature in temperatures]
        predictions.append(probabilities[0].argmax(axis=1).astype(np.uint8))
        confidences.append([each.max(axis=1).astype(np.float32) for each in probabilities])
        errors.append([expected_calibration_error(each, its_labels) for each in probabilities])
    assert labels is not None
    before, *calibrated = map(np.stack, zip(*confidences, strict=True))
    ece, *calibrated_ece = np.mean(errors, axis=0).tolist()
    return SeedPredictions(
        labels=labels,
        predictions=np.stack(predictions),
        confidences=before,
        calibrated=calibrated[0] if calibration else None,
        ece=(ece, calibrated_ece[0] if calibration else None),
    )


def _checked_predictions(run: Path) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    logits, labels = load_predictions(run)
    whole = logits.ndim == 2 and logits.shape == (len(labels), 10) and labels.dtype == np.uint8 and len(labels)
    if not whole or labels.max() > 9 or not np.isfinite(logits).all():
        raise RunError(f"{run}/predictions.safetensors does not hold ten finite logits and a label for each digit.")
    return logits, labels
