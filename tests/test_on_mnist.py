"""A few tests on the real MNIST, with accuracy floors. The full figures stand in results/loop.json."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tinydigits.data.dataset import Dataset, DigitData
from tinydigits.data.normalize import Normalization
from tinydigits.evaluation.predictions import evaluate_model
from tinydigits.models.factory import load_model
from tinydigits.pictures.preprocess import preprocess
from tinydigits.training.config import RunConfig
from tinydigits.training.recipes import get_recipe
from tinydigits.training.run import train


def test_the_shipped_weights_reach_what_their_card_says(mnist: DigitData) -> None:
    model, card = load_model("tiny-10k")
    assert card.accuracy is not None
    assert card.data_sha256 == mnist.train.sha256
    result = evaluate_model(model, mnist.test, Normalization(card.mean, card.std))
    assert result.accuracy >= 0.994
    assert abs(result.correct - round(card.accuracy * 10_000)) <= 2  # another processor may tip a tie


@pytest.mark.parametrize(
    ("recipe", "floor", "ceiling"),
    [pytest.param("documented-plain-9k", 0.96, 0.98, marks=pytest.mark.slow), ("fast", 0.972, 0.99)],
)
def test_a_first_epoch_is_as_good_as_measured(
    mnist_dir: Path, tmp_path: Path, recipe: str, floor: float, ceiling: float
) -> None:
    config = RunConfig(
        "plain-9k", replace(get_recipe(recipe), epochs=1), data="mnist", data_dir=str(mnist_dir), seed=1, threads=1
    )
    result = train(config, tmp_path / "run")
    assert floor <= result.accuracy <= ceiling
    assert result.verdict is not None
    assert result.verdict.verdict in ("plausible", "failed")


def _enlarged(image: NDArray[np.uint8], how: Image.Resampling, invert: bool) -> Image.Image:
    """A digit ten times as large, on a white or a black ground."""
    picture = Image.fromarray(255 - image if invert else image)
    return picture.resize((280, 280), how)


def _enlarged_accuracy(digits: Dataset, how: Image.Resampling, invert: bool) -> float:
    model, card = load_model("tiny-10k")
    redrawn = np.stack([preprocess(_enlarged(image, how, invert)) for image in digits.images])
    result = evaluate_model(model, Dataset(redrawn, digits.labels, "redrawn"), Normalization(card.mean, card.std))
    return result.accuracy


@pytest.mark.parametrize("invert", [False, True], ids=["light on dark", "dark on light"])
@pytest.mark.parametrize("how", [Image.Resampling.NEAREST, Image.Resampling.BICUBIC], ids=["nearest", "bicubic"])
def test_enlarged_digits_are_read_as_well_as_the_originals(
    mnist: DigitData, how: Image.Resampling, invert: bool
) -> None:
    some = mnist.test.take(np.arange(0, 10_000, 20), "some")
    model, card = load_model("tiny-10k")
    originals = evaluate_model(model, some, Normalization(card.mean, card.std)).accuracy
    assert round(500 * abs(_enlarged_accuracy(some, how, invert) - originals)) <= 2  # of five hundred


@pytest.mark.slow
@pytest.mark.parametrize("invert", [False, True], ids=["light on dark", "dark on light"])
@pytest.mark.parametrize("how", [Image.Resampling.NEAREST, Image.Resampling.BICUBIC], ids=["nearest", "bicubic"])
def test_all_enlarged_digits_are_read_within_0_3_points(mnist: DigitData, how: Image.Resampling, invert: bool) -> None:
    model, card = load_model("tiny-10k")
    originals = evaluate_model(model, mnist.test, Normalization(card.mean, card.std)).accuracy
    accuracy = _enlarged_accuracy(mnist.test, how, invert)
    print(f"{how.name}, invert {invert}: {accuracy:.4f} against {originals:.4f}")  # noqa: T201 (for the nightly log)
    assert abs(accuracy - originals) <= 0.003
