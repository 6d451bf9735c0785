import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tinydigits.data.augment import Augmentation, augment


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _blob(row: float, column: float) -> Tensor:
    """A soft dot at (row, column) of a 28×28 picture, [1, 1, 28, 28]."""
    rows, columns = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    return torch.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 4)[None, None]


def _centre(image: Tensor) -> tuple[float, float]:
    mass = image[0].numpy().astype(np.float64)
    rows, columns = np.mgrid[0:28, 0:28]
    return float((mass * rows).sum() / mass.sum()), float((mass * columns).sum() / mass.sum())


def test_nothing_asked_changes_nothing() -> None:
    images = torch.rand(5, 1, 28, 28)
    assert not Augmentation().active
    torch.testing.assert_close(augment(images, Augmentation(), _generator()), images, atol=1e-5, rtol=0)


def test_the_same_generator_state_gives_the_same_pictures() -> None:
    images, wide = torch.rand(8, 1, 28, 28), Augmentation(20, 3, 0.2, 10, 0.5)
    first, second = augment(images, wide, _generator(1)), augment(images, wide, _generator(1))
    assert torch.equal(first, second)
    assert not torch.equal(first, augment(images, wide, _generator(2)))


def test_every_example_gets_a_map_of_its_own() -> None:
    images = _blob(9, 18).repeat(16, 1, 1, 1)
    moved = augment(images, Augmentation(rotation_degrees=20), _generator())
    assert len({_centre(image) for image in moved}) == 16


@pytest.mark.parametrize("channels", [1, 3])
def test_shape_and_background_stay(channels: int) -> None:
    images = torch.full((4, channels, 28, 28), -0.4242)
    changed = augment(images, Augmentation(30, 4, 0.3, 20, 1.0), _generator())
    torch.testing.assert_close(changed, images)


def test_shifts_stay_in_their_range_and_use_it() -> None:
    images = _blob(13.5, 13.5).repeat(400, 1, 1, 1)
    centres = np.array([_centre(image) for image in augment(images, Augmentation(shift_pixels=3), _generator())])
    offsets = centres - 13.5
    assert np.abs(offsets).max() <= 3.05
    assert (offsets.max(axis=0) > 2.5).all()
    assert (offsets.min(axis=0) < -2.5).all()


def test_rotations_stay_in_their_range_and_use_it() -> None:
    images = _blob(13.5, 21.5).repeat(400, 1, 1, 1)
    turned = augment(images, Augmentation(rotation_degrees=15), _generator())
    angles = [math.degrees(math.atan2(row - 13.5, column - 13.5)) for row, column in map(_centre, turned)]
    assert max(map(abs, angles)) < 15.5
    assert max(angles) > 12
    assert min(angles) < -12


def test_scale_changes_the_distance_from_the_centre() -> None:
    images = _blob(13.5, 19.5).repeat(400, 1, 1, 1)
    scaled = augment(images, Augmentation(scale=0.2), _generator())
    distances = [column - 13.5 for _, column in map(_centre, scaled)]
    assert max(distances) == pytest.approx(7.2, abs=0.15)
    assert min(distances) == pytest.approx(4.8, abs=0.15)


def test_shear_moves_columns_by_their_height_only() -> None:
    images = _blob(7.5, 13.5).repeat(200, 1, 1, 1)
    sheared = [_centre(image) for image in augment(images, Augmentation(shear_degrees=20), _generator())]
    assert max(abs(row - 7.5) for row, _ in sheared) < 0.1
    assert max(column for _, column in sheared) == pytest.approx(13.5 + 6 * math.tan(math.radians(20)), abs=0.2)


def test_the_centre_crop_takes_its_share_and_enlarges() -> None:
    images = _blob(13.5, 17.5).repeat(2000, 1, 1, 1)
    cropped = augment(images, Augmentation(crop_probability=0.1, crop_size=22), _generator())
    distances = np.array([column - 13.5 for _, column in map(_centre, cropped)])
    enlarged = distances > 4.5
    assert enlarged.mean() == pytest.approx(0.1, abs=0.03)
    assert distances[enlarged].mean() == pytest.approx(4 * 28 / 22, abs=0.05)
    assert distances[~enlarged].mean() == pytest.approx(4, abs=0.05)
