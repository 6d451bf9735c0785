"""What a model answers on digits: logits, probabilities, accuracy, confusion, mistakes.

Networks return logits. Their `log_softmax` is exactly the output that the documented networks are described
with, and ranks the digits in the same order.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tinydigits.data.dataset import Dataset
from tinydigits.data.normalise import normalise
from tinydigits.evaluation.disputed import Dispute
from tinydigits.evaluation.statistics import wilson_interval

Watch = Callable[[Sequence[Tensor]], Iterable[Tensor]]


def predict_logits(model: nn.Module, images: Tensor, batch_size: int = 1000, watch: Watch = iter) -> Tensor:
    """Logits [N, 10] for normalised images [N, 1, 28, 28] on the model's device.

    The model answers in evaluation mode; afterwards every module is in the mode in which it was. `watch` goes through
    the batches, and may show how far it has come.
    """
    with evaluating(model), torch.inference_mode():
        return torch.cat([model(batch) for batch in watch(torch.split(images, batch_size))])


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within, the model is in evaluation mode; afterwards every module is in the mode in which it was."""
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in in_training:  # one by one: a user may have frozen some of them on purpose
            module.training = True


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A model's answers to labelled digits: `labels` uint8 [N] and `probabilities` float32 [N, 10]."""

    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]

    def __post_init__(self) -> None:
        assert len(self.labels) > 0
        assert self.probabilities.shape == (len(self.labels), 10)

    @cached_property
    def predictions(self) -> NDArray[np.uint8]:
        """The most likely digit of each example, uint8 [N]."""
        predicted: NDArray[np.intp] = self.probabilities.argmax(axis=1)
        return predicted.astype(np.uint8)

    @cached_property
    def confidences(self) -> NDArray[np.float32]:
        """The probability of the predicted digit of each example, float32 [N]."""
        highest: NDArray[np.float32] = self.probabilities.max(axis=1)
        return highest

    @property
    def total(self) -> int:
        """How many digits were judged."""
        return len(self.labels)

    @cached_property
    def correct(self) -> int:
        """How many were recognised."""
        return int(np.count_nonzero(self.predictions == self.labels))

    @property
    def accuracy(self) -> float:
        """The share that was recognised, in [0, 1]."""
        return self.correct / self.total

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the accuracy."""
        return wilson_interval(self.correct, self.total)

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """How often each digit (row) was taken for each digit (column), int64 [10, 10]."""
        pairs = self.labels.astype(np.int64) * 10 + self.predictions
        return np.bincount(pairs, minlength=100).reshape(10, 10)

    @property
    def per_digit(self) -> list[dict[str, Any]]:
        """For each digit `{digit, total, correct, accuracy, precision}`.

        `accuracy` is the share of its examples that were recognised, `precision` the share of right answers
        among those with this digit; None where there were no such examples or answers.
        """
        confusion = self.confusion
        rows = []
        for digit in range(10):
            correct = int(confusion[digit, digit])
            total, answers = int(confusion[digit].sum()), int(confusion[:, digit].sum())
            rows.append(
                {
                    "digit": digit,
                    "total": total,
                    "correct": correct,
                    "accuracy": correct / total if total else None,
                    "precision": correct / answers if answers else None,
                }
            )
        return rows

    def worst_mistakes(self, count: int) -> NDArray[np.intp]:
        """Indices of at most `count` wrong answers, the most confident first (ties: lower index first)."""
        wrong = np.flatnonzero(self.predictions != self.labels)
        return wrong[np.argsort(-self.confidences[wrong], kind="stable")][:count]

    def mistake_rows(self, count: int, disputed: Mapping[int, Dispute]) -> list[dict[str, Any]]:
        """The worst mistakes: `{index, label, predicted, confidence, disputed}`, the last words or None."""
        return [
            {
                "index": index,
                "label": int(self.labels[index]),
                "predicted": int(self.predictions[index]),
                "confidence": float(self.confidences[index]),
                "disputed": disputed[index].words if index in disputed else None,
            }
            for index in self.worst_mistakes(count).tolist()
        ]

    def as_dict(self) -> dict[str, Any]:
        """The figures as plain data: `accuracy, correct, total, interval, confusion, per_digit`."""
        return {
            "accuracy": self.accuracy,
            "correct": self.correct,
            "total": self.total,
            "interval": list(self.interval),
            "confusion": self.confusion.tolist(),
            "per_digit": self.per_digit,
        }


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    mean: float,
    deviation: float,
    device: torch.device | str = "cpu",
    watch: Watch = iter,
) -> Evaluation:
    """Ask `model`, moved to `device`, for every digit of `dataset`, normalised by `mean` and `deviation`.

    `watch` goes through the batches, as in `predict_logits`.
    """
    model.to(device)
    logits = predict_logits(model, normalise(dataset.images, mean, deviation, device), watch=watch)
    return Evaluation(dataset.labels, logits.softmax(dim=1).cpu().numpy())
