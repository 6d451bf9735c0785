"""What a model predicts for digits: logits, probabilities, accuracy, confusion, mistakes.

Networks return logits. Their `log_softmax` is exactly the output that the documented networks are described
with, and ranks the digits in the same order.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tinydigits.data.dataset import Dataset
from tinydigits.data.normalize import Normalization
from tinydigits.evaluation.label_errors import LabelError
from tinydigits.evaluation.statistics import wilson_interval
from tinydigits.records import DigitResult, Mistake

Watch = Callable[[Sequence[Tensor]], Iterable[Tensor]]


def predict_logits(model: nn.Module, images: Tensor, batch_size: int = 1000, watch: Watch = iter) -> Tensor:
    """Logits [N, 10] for normalized images [N, 1, 28, 28] on the model's device, in evaluation mode.

    `watch` goes through the batches, and may show how far it has come.
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


def confusion_matrix(labels: NDArray[np.uint8], predictions: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each digit (row) was taken for each digit (column), int64 [10, 10].

    Labels are [N], predictions [N], or [S, N] of S seeds, which are counted together.
    """
    pairs = labels.astype(np.int64) * 10 + predictions
    return np.bincount(pairs.ravel(), minlength=100).reshape(10, 10)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A model's predictions for labelled digits: `labels` uint8 [N] and `probabilities` float32 [N, 10]."""

    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]

    def __post_init__(self) -> None:
        assert len(self.labels) > 0
        assert self.probabilities.shape == (len(self.labels), 10)

    @cached_property
    def predictions(self) -> NDArray[np.uint8]:
        """The most likely digit of each example, uint8 [N]."""
        return np.asarray(self.probabilities.argmax(axis=1), np.uint8)

    @cached_property
    def confidences(self) -> NDArray[np.float32]:
        """The probability of the predicted digit of each example, float32 [N]."""
        return np.asarray(self.probabilities.max(axis=1))

    @property
    def total(self) -> int:
        """How many digits there are."""
        return len(self.labels)

    @cached_property
    def correct(self) -> int:
        """How many were classified correctly."""
        return int(np.count_nonzero(self.predictions == self.labels))

    @property
    def accuracy(self) -> float:
        """The fraction that was classified correctly, in [0, 1]."""
        return self.correct / self.total

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the accuracy."""
        return wilson_interval(self.correct, self.total)

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """How often each digit (row) was taken for each digit (column), int64 [10, 10]."""
        return confusion_matrix(self.labels, self.predictions)

    @property
    def per_digit(self) -> tuple[DigitResult, ...]:
        """How each digit fared: the fraction of its examples classified correctly, and its precision."""
        confusion = self.confusion
        counts = np.stack([confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)], axis=1)
        return tuple(
            DigitResult(
                digit=digit,
                total=total,
                correct=correct,
                accuracy=correct / total if total else None,
                precision=correct / predicted if predicted else None,
            )
            for digit, (correct, total, predicted) in enumerate(counts.tolist())
        )

    def worst_mistakes(self, count: int) -> NDArray[np.intp]:
        """Indices of at most `count` wrong predictions, the most confident first (ties: lower index first)."""
        wrong = np.flatnonzero(self.predictions != self.labels)
        return wrong[np.argsort(-self.confidences[wrong], kind="stable")][:count]

    def mistakes(self, count: int, label_errors: Mapping[int, LabelError]) -> tuple[Mistake, ...]:
        """The worst mistakes, each with what reviewers say of its label."""
        return tuple(
            Mistake(
                index=index,
                label=int(self.labels[index]),
                predicted=int(self.predictions[index]),
                confidence=float(self.confidences[index]),
                label_error=label_errors[index].words if index in label_errors else None,
            )
            for index in self.worst_mistakes(count).tolist()
        )


def evaluate_model(
    model: nn.Module,
    dataset: Dataset,
    normalization: Normalization,
    device: torch.device | str = "cpu",
    watch: Watch = iter,
) -> Evaluation:
    """What `model`, moved to `device`, predicts for every digit of `dataset`; `watch` is as in `predict_logits`."""
    model.to(device)
    logits = predict_logits(model, normalization.array(dataset.images, device), watch=watch)
    return Evaluation(dataset.labels, logits.softmax(dim=1).cpu().numpy())
