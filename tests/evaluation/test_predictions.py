import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tinydigits.data.dataset import Dataset, DigitData
from tinydigits.data.normalize import Normalization
from tinydigits.evaluation.label_errors import MNIST_TEST_LABEL_ERRORS, label_errors
from tinydigits.evaluation.predictions import Evaluation, evaluate_model, predict_logits
from tinydigits.records import DigitResult, Mistake, Split


class FirstRow(nn.Module):
    """Logits are the first ten pixels of the first row, so that a test decides every answer."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, 0, 0, :10]


def answers(labels: list[int], predictions: list[int], confidences: list[float]) -> Evaluation:
    """An evaluation with these predictions, each with its confidence, the rest spread evenly."""
    probabilities = np.empty((len(labels), 10), np.float32)
    for row, predicted, confidence in zip(probabilities, predictions, confidences, strict=True):
        row[:] = (1 - confidence) / 9
        row[predicted] = confidence
    return Evaluation(np.array(labels, np.uint8), probabilities)


@pytest.fixture
def six() -> Evaluation:
    return answers([0, 1, 1, 2, 2, 9], [0, 1, 7, 7, 2, 7], [0.9, 0.8, 0.5, 0.99, 0.6, 0.5])


def digits(count: int) -> Dataset:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    return Dataset(images, generator.integers(0, 10, count, dtype=np.uint8), "random")


@pytest.mark.parametrize("batch_size", [1, 3, 7, 1000])
def test_logits_do_not_depend_on_the_batch_size(batch_size: int) -> None:
    images = torch.arange(7 * 784, dtype=torch.float32).reshape(7, 1, 28, 28)
    logits = predict_logits(FirstRow(), images, batch_size)
    assert torch.equal(logits, images[:, 0, 0, :10])


def test_predicting_is_in_evaluation_mode_and_restores_the_mode_of_every_module() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784), nn.Dropout(0.5), nn.Linear(784, 10))
    model.train()
    model[1].eval()  # frozen on purpose
    assert torch.equal(predict_logits(model, torch.ones(4, 1, 28, 28)), predict_logits(model, torch.ones(4, 1, 28, 28)))
    assert [module.training for module in model] == [True, False, True, True]
    assert model.training


def test_the_mode_is_restored_when_the_network_fails() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 10))
    with pytest.raises(RuntimeError):
        predict_logits(model, torch.ones(1, 1, 28, 28))
    assert all(module.training for module in model.modules())


def test_predicting_keeps_no_gradients() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    assert not predict_logits(model, torch.ones(2, 1, 28, 28)).requires_grad


def test_evaluate_gives_the_softmax_of_normalised_pixels() -> None:
    dataset = digits(30)
    evaluation = evaluate_model(FirstRow(), dataset, Normalization(mean=0.2, std=0.5))
    exponentials = np.exp((dataset.images[:, 0, :10] / 255 - 0.2) / 0.5)
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(evaluation.probabilities, expected, rtol=1e-5)
    assert evaluation.probabilities.dtype == np.float32
    np.testing.assert_array_equal(evaluation.labels, dataset.labels)


def test_predictions_are_those_of_log_softmax_the_documented_output() -> None:
    dataset = digits(50)
    images = torch.from_numpy(dataset.images).unsqueeze(1) / 255
    documented = predict_logits(FirstRow(), images).log_softmax(dim=1)
    evaluation = evaluate_model(FirstRow(), dataset, Normalization(mean=0.0, std=1.0))
    np.testing.assert_array_equal(evaluation.predictions, documented.argmax(dim=1).numpy())
    np.testing.assert_allclose(np.log(evaluation.probabilities), documented.numpy(), rtol=1e-4)


def test_accuracy_and_confusion_count_every_answer(six: Evaluation) -> None:
    assert (six.correct, six.total, six.accuracy) == (3, 6, 0.5)
    expected = np.zeros((10, 10), int)
    for label, predicted in [(0, 0), (1, 1), (1, 7), (2, 7), (2, 2), (9, 7)]:
        expected[label, predicted] += 1
    np.testing.assert_array_equal(six.confusion, expected)


def test_per_digit_tells_accuracy_from_precision_and_knows_what_never_came(six: Evaluation) -> None:
    rows = six.per_digit
    assert rows[1] == DigitResult(digit=1, total=2, correct=1, accuracy=0.5, precision=1.0)
    assert rows[7] == DigitResult(digit=7, total=0, correct=0, accuracy=None, precision=0.0)
    assert rows[9] == DigitResult(digit=9, total=1, correct=0, accuracy=0.0, precision=None)
    assert [row.digit for row in rows] == list(range(10))


@pytest.mark.parametrize(("count", "expected"), [(0, []), (1, [3]), (2, [3, 2]), (9, [3, 2, 5])])
def test_worst_mistakes_come_most_confident_first_and_ties_in_order(
    six: Evaluation, count: int, expected: list[int]
) -> None:
    assert six.worst_mistakes(count).tolist() == expected


def test_mistakes_name_the_label_error() -> None:
    labels: NDArray[np.uint8] = np.zeros(1000, np.uint8)
    labels[947] = 8
    probabilities = np.full((1000, 10), 0.05, np.float32)
    probabilities[:, 0] = 0.55
    probabilities[947] = np.eye(10, dtype=np.float32)[9]
    mistakes = Evaluation(labels, probabilities).mistakes(5, MNIST_TEST_LABEL_ERRORS)
    assert mistakes == (Mistake(index=947, label=8, predicted=9, confidence=1.0, label_error="reviewers say 9"),)


def test_fifteen_labels_are_in_doubt() -> None:
    reviews = [label_error.review for label_error in MNIST_TEST_LABEL_ERRORS.values()]
    assert (len(reviews), reviews.count("not a digit"), reviews.count("no majority")) == (15, 3, 2)
    for label_error in MNIST_TEST_LABEL_ERRORS.values():
        assert (label_error.reviewers_say is not None) == (label_error.review == "relabelled")
        assert label_error.reviewers_say != label_error.label


def test_disputed_labels_are_the_labels_of_mnist(mnist: DigitData) -> None:
    for index, label_error in MNIST_TEST_LABEL_ERRORS.items():
        assert mnist.test.labels[index] == label_error.label


@pytest.mark.parametrize(
    ("name", "split", "count"),
    [("mnist", "test", 15), ("mnist", "val", 0), ("optdigits", "test", 0), ("folder:digits", "test", 0)],
)
def test_labels_are_disputed_only_among_the_test_digits_of_mnist(name: str, split: Split, count: int) -> None:
    data = DigitData(name, digits(20), digits(10), np.arange(5))
    assert len(label_errors(data, split)) == count


def test_an_evaluation_cannot_be_changed(six: Evaluation) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        six.labels = np.zeros(6, np.uint8)  # type: ignore[misc]
