"""Digits in memory, and the fixed rules that split them."""

import functools
import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinydigits.errors import ConfigError, DataError
from tinydigits.records import Split

SPLITS: tuple[Split, ...] = ("val", "test")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled digits: `images` uint8 [N, 28, 28], light ink on black, and `labels` uint8 [N] in 0..9."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    name: str

    def __post_init__(self) -> None:
        assert self.images.dtype == np.uint8
        assert self.images.shape[1:] == (28, 28)
        assert self.labels.dtype == np.uint8
        assert self.labels.shape == self.images.shape[:1]

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the image bytes followed by the label bytes, as hexadecimal digits."""
        digest = hashlib.sha256(self.images.tobytes())
        digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def take(self, indices: NDArray[np.intp], name: str) -> "Dataset":
        """The examples at `indices`, in that order."""
        return Dataset(self.images[indices], self.labels[indices], name)


@dataclass(frozen=True, eq=False)
class DigitData:
    """One source of digits, split: `train` for learning, `validation` of these for choices, `test` for scoring.

    `train` includes the validation digits; `validation` lists their positions in it. `warning` says why `auto` chose
    this source instead of MNIST; None if it was named.
    """

    name: str
    train: Dataset
    test: Dataset
    validation: NDArray[np.intp]
    warning: str | None = None

    def split(self, split: Split) -> tuple[Dataset, Dataset]:
        """Digits to train on, and digits to evaluate on.

        `val`: the training digits without the validation digits, and these. `test`: all training digits, and the test
        digits.

        Raises:
            ConfigError: `split` is neither.
        """
        if split == "test":
            return self.train, self.test
        if split == "val":
            rest = np.setdiff1d(np.arange(len(self.train)), self.validation)
            validation = self.train.take(self.validation, f"{self.name}-validation")
            return self.train.take(rest, f"{self.name}-val-train"), validation
        raise ConfigError(f"split {split!r}: must be `val` (validation digits) or `test` (test digits).")


def stratified_indices(dataset: Dataset, count: int) -> NDArray[np.intp]:
    """Positions of `count` digits in which every class has the same fraction as in the whole, ascending.

    The rule is fixed and needs no random numbers, so the split is the same on every platform: within a class, digits
    are ranked by the SHA-256 of their image bytes, and the first are taken; class sizes are rounded by largest
    remainder (ties: lower digit first).

    Raises:
        DataError: a class is too small to give at least one digit and keep another.
    """
    sizes = np.bincount(dataset.labels, minlength=10)
    exact = sizes * (count / len(dataset))
    quota = np.floor(exact).astype(int)
    by_remainder = np.argsort(-(exact - quota), kind="stable")
    quota[by_remainder[: count - quota.sum()]] += 1
    chosen: list[np.intp] = []
    for digit in np.flatnonzero(sizes):
        if not 0 < quota[digit] < sizes[digit]:
            raise DataError(
                f"{dataset.name}: {sizes[digit]} examples of digit {digit} are too few to split into training, "
                f"validation and test digits. Provide at least 10 of each digit."
            )
        members = np.flatnonzero(dataset.labels == digit)
        rank = sorted(members, key=lambda i: hashlib.sha256(dataset.images[i].tobytes()).digest())
        chosen += rank[: quota[digit]]
    return np.sort(np.asarray(chosen, dtype=np.intp))


def split_by_rule(dataset: Dataset, warning: str | None = None) -> DigitData:
    """Split digits that come without a test set: 20 % test, 10 % validation, 70 % the rest of training."""
    test = stratified_indices(dataset, round(0.2 * len(dataset)))
    rest = np.setdiff1d(np.arange(len(dataset)), test)
    train = dataset.take(rest, f"{dataset.name}-train")
    validation = stratified_indices(train, round(0.1 * len(dataset)))
    return DigitData(dataset.name, train, dataset.take(test, f"{dataset.name}-test"), validation, warning)
