"""Digits in memory, and the fixed rules that split them."""

import functools
import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tinydigits.errors import ConfigError, DataError

Protocol = Literal["tune", "final"]
PROTOCOLS: tuple[Protocol, ...] = ("tune", "final")


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
        digest = hashlib.sha256(np.ascontiguousarray(self.images).tobytes())
        digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def take(self, indices: NDArray[np.intp], name: str) -> "Dataset":
        """The examples at `indices`, in that order."""
        return Dataset(self.images[indices], self.labels[indices], name)


@dataclass(frozen=True, eq=False)
class DigitData:
    """One source of digits, split: `train` for learning, `held_out` of these for choices, `test` for scoring.

    `train` includes the held-out digits; `held_out` lists their positions in it.
    `notice` says why `auto` gave this source instead of MNIST; None when it was asked for.
    """

    name: str
    train: Dataset
    test: Dataset
    held_out: NDArray[np.intp]
    notice: str | None = None

    def split(self, protocol: Protocol) -> tuple[Dataset, Dataset]:
        """Digits to train on and digits to judge by.

        `tune`: the training digits without the held-out ones, judged by the held-out ones.
        `final`: all training digits, judged by the test digits.

        Raises:
            ConfigError: another protocol is named.
        """
        if protocol == "final":
            return self.train, self.test
        if protocol == "tune":
            rest = np.setdiff1d(np.arange(len(self.train)), self.held_out)
            return self.train.take(rest, f"{self.name}-tune-train"), self.train.take(
                self.held_out, f"{self.name}-held-out"
            )
        raise ConfigError(
            f"protocol {protocol!r}: there are two, `tune` (held-out training digits) and `final` (test digits)."
        )


def stratified_indices(dataset: Dataset, count: int) -> NDArray[np.intp]:
    """Positions of `count` digits that represent every class by its share, ascending.

    The rule is fixed and needs no random numbers, so that everybody has the same split on every
    platform: within a class, digits are ranked by the SHA-256 of their image bytes, and the first are
    taken; each class gives its share of `count`, rounded by largest remainder (ties: lower digit first).

    Raises:
        DataError: a class is too small to give at least one digit and to keep one.
    """
    sizes = np.bincount(dataset.labels, minlength=10)
    exact = sizes * (count / len(dataset))
    quota = np.floor(exact).astype(int)
    by_remainder = np.argsort(-(exact - quota), kind="stable")
    quota[by_remainder[: count - quota.sum()]] += 1
    for digit in np.flatnonzero(sizes):
        if not 0 < quota[digit] < sizes[digit]:
            raise DataError(
                f"{dataset.name}: {sizes[digit]} examples of digit {digit} are too few to be split into training, "
                f"held-out and test digits. Add examples: 10 of each digit are the least."
            )
    chosen = []
    for digit in np.flatnonzero(sizes):
        members = np.flatnonzero(dataset.labels == digit)
        rank = sorted(members, key=lambda i: hashlib.sha256(dataset.images[i].tobytes()).digest())
        chosen.append(np.asarray(rank[: quota[digit]], dtype=np.intp))
    return np.sort(np.concatenate(chosen))


def split_by_rule(dataset: Dataset, notice: str | None = None) -> DigitData:
    """Split digits that come without a test set: 20 % test, 10 % held out, 70 % the rest of training."""
    test = stratified_indices(dataset, round(0.2 * len(dataset)))
    rest = np.setdiff1d(np.arange(len(dataset)), test)
    train = dataset.take(rest, f"{dataset.name}-train")
    held_out = stratified_indices(train, round(0.1 * len(dataset)))
    return DigitData(dataset.name, train, dataset.take(test, f"{dataset.name}-test"), held_out, notice)
