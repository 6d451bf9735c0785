"""optdigits: all digits, redrawn as MNIST's would be, split by the fixed rule."""

import numpy as np

from tinydigits.data.optdigits import load_optdigits


def test_all_digits_are_there_and_split_by_the_rule() -> None:
    data = load_optdigits()
    assert data.name == "optdigits"
    assert data.warning is None
    assert len(data.train) + len(data.test) == 1797
    assert len(data.test) == 359
    assert len(data.validation) == 180
    assert np.bincount(np.append(data.train.labels, data.test.labels)).tolist() == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180,
    ]  # fmt: skip


def test_every_digit_is_redrawn_like_mnist() -> None:
    images = load_optdigits().train.images
    boxes = [np.ptp(np.argwhere(image), axis=0).max() + 1 for image in images]
    assert set(boxes) <= {19, 20}
    assert images.max(axis=(1, 2)).min() >= 240
    mass = images.sum(axis=(1, 2), dtype=int)
    for axis in (1, 2):
        centre = images.sum(axis=3 - axis, dtype=int) @ np.arange(28) / mass
        assert (centre >= 13.5).all()
        assert (centre < 14.5).all()
    assert 0.1 < images.mean() / 255 < 0.2  # MNIST: 0.13


def test_the_digits_are_told_apart_by_their_nearest_neighbour() -> None:
    data = load_optdigits()
    train = data.train.images.reshape(len(data.train), -1).astype(np.float32)
    test = data.test.images.reshape(len(data.test), -1).astype(np.float32)
    distance = (train**2).sum(axis=1) - 2 * test @ train.T  # less |test|², which is the same for all
    assert (data.train.labels[distance.argmin(axis=1)] == data.test.labels).mean() > 0.97


def test_the_notice_is_carried_and_arrays_are_not_shared() -> None:
    first, second = load_optdigits("no MNIST here"), load_optdigits()
    assert first.warning == "no MNIST here"
    assert first.train.sha256 == second.train.sha256
    first.train.images[:] = 0
    assert load_optdigits().train.sha256 == second.train.sha256


def test_the_redrawn_bytes_are_the_same_everywhere() -> None:
    assert load_optdigits().train.sha256.startswith("840ac533b0d3")
