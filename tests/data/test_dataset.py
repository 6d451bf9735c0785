import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray

from tinydigits.data.dataset import Dataset, DigitData, split_by_rule, stratified_indices
from tinydigits.errors import ConfigError, DataError

# SHA-256 of the validation positions of MNIST as little-endian int64: everybody has the same split, for ever.
MNIST_VALIDATION_DIGITS = "62724e1ee33f6e700dee64cc63f9ccb8d52d1a5c67d961f74b797fccaae9fac9"


def digits(sizes: list[int], seed: int = 0) -> Dataset:
    """Random pictures, `sizes[d]` of digit d, in random order."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(np.uint8)
    return Dataset(generator.integers(0, 256, (len(labels), 28, 28), np.uint8), labels, "random")


def picture_hashes(dataset: Dataset, indices: NDArray[np.intp]) -> set[bytes]:
    return {hashlib.sha256(dataset.images[i].tobytes()).digest() for i in indices}


@pytest.mark.parametrize(
    ("sizes", "count", "shares"),
    [
        ([20] * 10, 50, [5] * 10),
        ([10, 30, 60], 10, [1, 3, 6]),
        ([15, 25, 60], 10, [2, 2, 6]),  # 1.5, 2.5, 6: of equal remainders the lower digit is rounded up
        ([12, 12, 10], 10, [4, 3, 3]),  # 3.53, 3.53, 2.94: the largest remainder first, then the lower digit
    ],
)
def test_every_class_gives_its_share(sizes: list[int], count: int, shares: list[int]) -> None:
    dataset = digits(sizes)
    chosen = stratified_indices(dataset, count)
    assert np.bincount(dataset.labels[chosen]).tolist() == shares
    assert (np.diff(chosen) > 0).all()


def test_the_first_of_each_class_by_hash_are_chosen() -> None:
    dataset = digits([30, 30])
    chosen = stratified_indices(dataset, 20)
    for digit in (0, 1):
        members = np.flatnonzero(dataset.labels == digit)
        first = sorted(picture_hashes(dataset, members))[:10]
        assert picture_hashes(dataset, np.intersect1d(chosen, members)) == set(first)


def test_the_choice_depends_on_the_pictures_and_not_on_their_order() -> None:
    dataset = digits([40] * 10)
    shuffled = dataset.take(np.random.default_rng(1).permutation(len(dataset)), "shuffled")
    assert picture_hashes(dataset, stratified_indices(dataset, 100)) == picture_hashes(
        shuffled, stratified_indices(shuffled, 100)
    )


@pytest.mark.parametrize("sizes", [[100, 1], [1, 1]], ids=["none to take", "none to keep"])
def test_a_class_that_is_too_small_is_named(sizes: list[int]) -> None:
    with pytest.raises(DataError, match=r"random: 1 examples of digit [01] are too few .* 10 of each digit"):
        stratified_indices(digits(sizes), 1)


def test_data_without_a_test_set_is_split_70_10_20() -> None:
    dataset = digits([50] * 10)
    data = split_by_rule(dataset, warning="why")
    train, evaluation = data.split("val")
    assert (len(train), len(evaluation), len(data.test)) == (350, 50, 100)
    assert np.bincount(data.test.labels).tolist() == [10] * 10
    assert np.bincount(evaluation.labels).tolist() == [5] * 10
    assert (data.name, data.warning) == ("random", "why")
    parts = [part.images.reshape(-1, 784) for part in (train, evaluation, data.test)]
    assert len(np.unique(np.concatenate(parts), axis=0)) == 500


def test_ten_of_each_digit_are_enough_to_split() -> None:
    assert len(split_by_rule(digits([10] * 10)).validation) == 10


def test_final_trains_on_everything_and_judges_by_the_test_digits() -> None:
    data = split_by_rule(digits([50] * 10))
    train, evaluation = data.split("test")
    assert train is data.train
    assert evaluation is data.test


def test_an_unknown_protocol_is_refused() -> None:
    data = split_by_rule(digits([50] * 10))
    with pytest.raises(ConfigError, match=r"split 'best': must be `val` .* or `test`"):
        data.split("best")  # type: ignore[arg-type]


def test_the_hash_sees_every_pixel_and_label() -> None:
    dataset = digits([3, 3])
    images, labels = dataset.images.copy(), dataset.labels.copy()
    images[5, 27, 27] ^= 1
    labels[0] ^= 1
    hashes = {
        dataset.sha256,
        Dataset(images, dataset.labels, "pixel").sha256,
        Dataset(dataset.images, labels, "label").sha256,
    }
    assert len(hashes) == 3
    assert Dataset(dataset.images[::1], dataset.labels, "another name").sha256 == dataset.sha256
    expected = hashlib.sha256(dataset.images.tobytes() + dataset.labels.tobytes()).hexdigest()
    assert dataset.sha256 == expected


def test_the_held_out_digits_of_mnist_are_always_the_same(mnist: DigitData) -> None:
    assert hashlib.sha256(mnist.validation.astype("<i8").tobytes()).hexdigest() == MNIST_VALIDATION_DIGITS
    train, evaluation = mnist.split("val")
    assert (len(train), len(evaluation)) == (55_000, 5_000)
