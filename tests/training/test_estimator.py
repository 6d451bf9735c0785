"""`DigitClassifier` against scikit-learn's own checks, and with its tools."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from tinydigits import DigitClassifier
from tinydigits.data.dataset import DigitData
from tinydigits.data.optdigits import load_optdigits
from tinydigits.errors import ArrayError, ConfigError, UnknownModelError
from tinydigits.training.estimator import _as_images, _value_range

EXCEPTIONS = {
    "check_methods_subset_invariance": "sums in float32 are added in another order for batches of another size: "
    "probabilities differ by some 1e-6 of themselves, and the check allows 1e-7",
}
LINEAR = Path(__file__).parents[1] / "support" / "linear.py"
SMALL = DigitClassifier(f"{LINEAR}:net", recipe="improved-plain-9k", epochs=8, batch_size=8)
OF_THE_ZOO = DigitClassifier("plain-9k", recipe="improved-plain-9k", epochs=8, batch_size=8)


def _exceptions(_: Any) -> dict[str, str]:
    return EXCEPTIONS


@parametrize_with_checks([SMALL], expected_failed_checks=_exceptions, xfail_strict=False)
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([OF_THE_ZOO], expected_failed_checks=_exceptions, xfail_strict=False)
def test_scikit_learns_checks_with_a_network_of_the_zoo(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def digits() -> tuple[Any, Any, Any, Any]:
    """800 of the 8×8 digits with values 0 to 16, and 200 others to score."""
    X, y = load_digits(return_X_y=True)
    split: tuple[Any, Any, Any, Any] = tuple(train_test_split(X, y, train_size=800, test_size=200, random_state=0))
    return split


@pytest.fixture(scope="module")
def fitted(digits: tuple[Any, Any, Any, Any]) -> DigitClassifier:
    return DigitClassifier(epochs=3, batch_size=32).fit(digits[0], digits[2])


def test_it_learns_8x8_digits(fitted: DigitClassifier, digits: tuple[Any, Any, Any, Any]) -> None:
    _, test, _, labels = digits
    assert fitted.score(test, labels) > 0.9
    probabilities = fitted.predict_proba(test)
    assert probabilities.shape == (200, 10)
    assert probabilities.sum(axis=1) == pytest.approx(1)
    assert fitted.classes_.tolist() == list(range(10))
    assert (fitted.predict(test) == probabilities.argmax(axis=1)).all()
    assert [row["epoch"] for row in fitted.history_] == [1, 2, 3]
    assert fitted.get_params()["epochs"] == 3
    assert (fitted.predict(test.reshape(-1, 8, 8)) == fitted.predict(test)).all()


def test_8x8_digits_are_redrawn_as_optdigits_are() -> None:
    rows = load_digits().data
    data = load_optdigits()
    images = _as_images(rows, (0.0, 16.0))
    shipped = {image.tobytes() for part in (data.train, data.test) for image in part.images}
    assert {image.tobytes() for image in images} == shipped


def test_a_pickled_one_answers_the_same(fitted: DigitClassifier, digits: tuple[Any, Any, Any, Any]) -> None:
    again = pickle.loads(pickle.dumps(fitted))
    assert (again.predict_proba(digits[1][:50]) == fitted.predict_proba(digits[1][:50])).all()


def test_28x28_bytes_shares_and_cubes_are_the_same_digits() -> None:
    data = load_optdigits().train.take(np.arange(300), "some")
    rows = data.images.reshape(300, 784)
    settings: Any = {"model": "plain-9k", "recipe": "improved-plain-9k", "batch_size": 32, "epochs": 2}
    answers = [
        DigitClassifier(**settings).fit(X, data.labels).predict_proba(X)
        for X in (rows, data.images, rows / 255, rows.astype(np.float32), rows.tolist())
    ]
    assert all((other == answers[0]).all() for other in answers[1:])
    assert (_as_images(rows, (0.0, 255.0)) == data.images).all()


@pytest.mark.parametrize(
    ("side", "before", "enlarged"), [(1, 0, 28), (5, 1, 25), (14, 0, 28), (16, 6, 16), (20, 4, 20)]
)
def test_other_squares_are_enlarged_and_centred(side: int, before: int, enlarged: int) -> None:
    image = _as_images(np.ones((1, side**2)), (0.0, 1.0))[0]
    inside = slice(before, before + enlarged)
    assert (image[inside, inside] == 255).all()
    assert image.sum() == 255 * enlarged**2


def test_rows_that_are_no_square_end_in_empty_pixels() -> None:
    image = _as_images(np.ones((1, 3)), (0.0, 1.0))[0]
    assert (image[:14] == 255).all()
    assert (image[14:, :14] == 255).all()
    assert (image[14:, 14:] == 0).all()


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 0.9, (0, 1)), (0, 15, (0, 16)), (3, 200, (0, 255)), (-2, 3, (-2, 3)), (-2, -2, (-2, -1))],
)
def test_the_range_of_pixels(low: float, high: float, expected: tuple[float, float]) -> None:
    assert _value_range(np.array([[low, high]])) == expected


def test_pipeline_cross_validation_and_grid_search(digits: tuple[Any, Any, Any, Any]) -> None:
    train, _, labels, _ = digits
    train, labels = train[:300], labels[:300]
    small = DigitClassifier("plain-9k", recipe="improved-plain-9k", batch_size=16)
    for scaler in (MinMaxScaler(), StandardScaler()):
        pipeline = make_pipeline(scaler, small.set_params(epochs=6)).fit(train, labels)
        assert pipeline.score(train, labels) > 0.5
    assert cross_val_score(small.set_params(epochs=1), train, labels, cv=2).shape == (2,)
    search = GridSearchCV(small, {"learning_rate": [1e-6, 0.005], "epochs": [5]}, cv=2).fit(train, labels)
    assert search.best_params_["learning_rate"] == 0.005
    assert search.predict(train[:3]).shape == (3,)


def test_the_callers_random_numbers_stay_as_they_were(digits: tuple[Any, Any, Any, Any]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    DigitClassifier("plain-9k", epochs=1).fit(digits[0][:64], digits[2][:64])
    assert torch.rand(1) == expected


def test_seeds(digits: tuple[Any, Any, Any, Any]) -> None:
    X, y = digits[0][:64], digits[2][:64]

    def loss(seed: Any) -> float:
        return float(DigitClassifier("plain-9k", epochs=1, random_state=seed).fit(X, y).history_[0]["train_loss"])

    assert loss(1) == loss(1) != loss(2)
    assert loss(np.random.RandomState(3)) == loss(np.random.RandomState(3))


def test_a_recipe_that_averages_weights_predicts_with_the_average(digits: tuple[Any, Any, Any, Any]) -> None:
    X, y = digits[0], digits[2]
    classifier = DigitClassifier("era-8k", batch_size=32, epochs=3).fit(X, y)  # its recipe, era, averages
    assert classifier.score(X, y) > 0.8
    other = DigitClassifier("era-8k", recipe="fast", batch_size=32, epochs=3).fit(X, y)
    assert (classifier.predict_proba(X[:5]) != other.predict_proba(X[:5])).any()


def test_a_network_of_ones_own(digits: tuple[Any, Any, Any, Any]) -> None:
    classifier = DigitClassifier(f"{LINEAR}:net", epochs=5, batch_size=32).fit(digits[0], digits[2])
    assert classifier.score(digits[1], digits[3]) > 0.8


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        ({"model": "plain-8k"}, UnknownModelError, "Did you mean plain-9k"),
        ({"recipe": "fsat"}, ConfigError, "Did you mean fast"),
        ({"epochs": 0}, ConfigError, "at least 1 epoch"),
        ({"device": "tpu"}, ConfigError, "'tpu'"),
    ],
)
def test_wrong_settings_are_sentences(
    settings: dict[str, Any], error: type[Exception], sentence: str, digits: tuple[Any, Any, Any, Any]
) -> None:
    with pytest.raises(error, match=sentence):
        DigitClassifier(**settings).fit(digits[0][:20], digits[2][:20])


@pytest.mark.parametrize(
    ("X", "y", "sentence"),
    [
        (np.zeros((4, 28, 27)), [0, 1, 0, 1], r"\[4, 28, 27\]: pictures are squares"),
        (np.zeros((4, 785)), [0, 1, 0, 1], "785 numbers a row"),
        (np.zeros((66, 64)), [*range(22)] * 3, "22 classes"),
    ],
)
def test_what_are_no_digits_is_a_sentence(X: Any, y: Any, sentence: str) -> None:
    with pytest.raises(ArrayError, match=sentence):
        DigitClassifier().fit(X, y)
    with pytest.raises(ValueError, match=sentence):  # what scikit-learn's users catch
        DigitClassifier().fit(X, y)


def test_it_takes_mnist(mnist: DigitData) -> None:
    part = slice(0, 2000)
    X, y = mnist.train.images[part], mnist.train.labels[part]
    classifier = DigitClassifier(epochs=3, batch_size=32).fit(X, y)
    assert classifier.score(mnist.test.images[part], mnist.test.labels[part]) > 0.93
