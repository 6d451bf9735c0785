"""What all seeds of a run or a study answered: who misread which digit, and how sure they were."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tinydigits.errors import RunError
from tinydigits.evaluation.calibration import expected_calibration_error, softmax
from tinydigits.studies.evidence import Evidence
from tinydigits.training.rundir import RunDirectory, load_predictions

BINS = 10
"""How many equally wide bins of confidence a reliability diagram has."""


@dataclass(frozen=True)
class Misreading:
    """A digit that at least one seed misread: `predicted` by most of these, `confidence` the mean of all of these."""

    index: int
    label: int
    predicted: int
    seeds: int
    confidence: float
    disputed: str | None


@dataclass(frozen=True)
class PerDigit:
    """How a digit fared: examples, mistakes of all seeds, accuracy over all seeds, and of the best and worst seed."""

    digit: int
    total: int
    wrong: int
    accuracy: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Bin:
    """Answers whose confidence lies in one bin: how many, their mean confidence, and the share that was right."""

    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, eq=False)
class Answers:
    """`labels` uint8 [N]; for each seed `predictions` uint8 [S, N] and their `confidences` float32 [S, N].

    `calibrated` are the confidences after the temperature, None without one; `ece` is the calibration error before and
    after it, the mean over the seeds.
    """

    labels: NDArray[np.uint8]
    predictions: NDArray[np.uint8]
    confidences: NDArray[np.float32]
    calibrated: NDArray[np.float32] | None
    ece: tuple[float, float | None]

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """Which seed read which digit: [S, N]."""
        read: NDArray[np.bool_] = self.predictions == self.labels
        return read

    @property
    def confusion(self) -> NDArray[np.int64]:
        """How often each digit (row) was taken for each digit (column) by all seeds together, int64 [10, 10]."""
        pairs = self.labels.astype(np.int64) * 10 + self.predictions
        return np.bincount(pairs.ravel(), minlength=100).reshape(10, 10)

    @property
    def per_digit(self) -> list[PerDigit]:
        """A line a digit that occurs."""
        rows = []
        for digit in np.unique(self.labels).tolist():
            right = self.right[:, self.labels == digit]  # [S, examples]
            shares = right.mean(axis=1)
            rows.append(
                PerDigit(
                    digit=digit,
                    total=right.shape[1],
                    wrong=int(right.size - right.sum()),
                    accuracy=float(right.mean()),
                    lowest=float(shares.min()),
                    highest=float(shares.max()),
                )
            )
        return rows

    def misreadings(self, disputed: Mapping[int, str]) -> list[Misreading]:
        """All digits that some seed misread: those of most seeds first, then the more confident mistakes."""
        rows = []
        wrong = ~self.right
        for index in np.flatnonzero(wrong.any(axis=0)).tolist():
            seeds = wrong[:, index]
            rows.append(
                Misreading(
                    index=index,
                    label=int(self.labels[index]),
                    predicted=int(np.bincount(self.predictions[seeds, index]).argmax()),
                    seeds=int(seeds.sum()),
                    confidence=float(self.confidences[seeds, index].mean()),
                    disputed=disputed.get(index),
                )
            )
        return sorted(rows, key=lambda row: (-row.seeds, -row.confidence, row.index))

    def reliability(self, *, calibrated: bool) -> list[Bin]:
        """The bins that hold any answer, of all seeds together, in the order of their confidence."""
        confidences = self.calibrated if calibrated else self.confidences
        assert confidences is not None
        which = np.clip(np.ceil(confidences * BINS).astype(np.intp) - 1, 0, BINS - 1)
        found = ((which == b, b) for b in range(BINS))
        return [
            Bin(int(there.sum()), float(confidences[there].mean()), float(self.right[there].mean()))
            for there, _ in found
            if there.any()
        ]


def read_answers(evidence: Evidence) -> Answers:
    """The answers of all its runs, in their order.

    Raises:
        RunError: predictions are missing, damaged, or not of the same digits.
    """
    if evidence.directory is None:
        raise RunError(f"{evidence.name} is a summary without its run directories, where the predictions are.")
    temperature = evidence.calibration.temperature if evidence.calibration else None
    labels: NDArray[np.uint8] | None = None
    predictions, confidences, calibrated, errors = [], [], [], []
    for where, logits, its_labels in _each(evidence):
        if labels is not None and not np.array_equal(labels, its_labels):
            raise RunError(f"{where} holds predictions of other digits than the runs before it.")
        labels = its_labels
        probabilities = softmax(logits)
        predictions.append(probabilities.argmax(axis=1).astype(np.uint8))
        confidences.append(probabilities.max(axis=1).astype(np.float32))
        errors.append([expected_calibration_error(probabilities, labels)])
        if temperature is not None:
            probabilities = softmax(logits, temperature)
            calibrated.append(probabilities.max(axis=1).astype(np.float32))
            errors[-1].append(expected_calibration_error(probabilities, labels))
    assert labels is not None
    before, *after = np.mean(errors, axis=0).tolist()
    return Answers(
        labels=labels,
        predictions=np.stack(predictions),
        confidences=np.stack(confidences),
        calibrated=np.stack(calibrated) if calibrated else None,
        ece=(before, after[0] if after else None),
    )


def _each(evidence: Evidence) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.uint8]]]:
    for directory in evidence.run_directories():
        run = RunDirectory(directory)
        logits, labels = load_predictions(run)
        whole = logits.ndim == 2 and logits.shape == (len(labels), 10) and labels.dtype == np.uint8 and len(labels)
        if not whole or labels.max() > 9 or not np.isfinite(logits).all():
            raise RunError(f"{run.predictions} does not hold ten finite logits and a label for each digit.")
        yield str(directory), logits, labels
