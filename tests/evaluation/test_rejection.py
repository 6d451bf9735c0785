"""Pictures that are no digits: the same every time, of the kinds they are said to be, and counted right."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from numpy.typing import NDArray

from tinydigits.data.dataset import Dataset
from tinydigits.data.optdigits import load_optdigits
from tinydigits.evaluation.rejection import FONTS, NonDigits, nondigit_pictures, rejection_report

DRAWN = ["blank", "blank_paper", "noise_white", "noise_sparse", "noise_smooth", "scribbles"]


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_optdigits().test


@pytest.fixture(scope="module")
def pictures(digits: Dataset) -> dict[str, NonDigits]:
    return nondigit_pictures(digits, count=40)


def test_the_same_seed_draws_the_same_pictures_and_another_seed_others(
    digits: Dataset, pictures: dict[str, NonDigits]
) -> None:
    again, other = (nondigit_pictures(digits, seed, count=40) for seed in (0, 1))
    for kind, made in pictures.items():
        np.testing.assert_array_equal(again[kind].images, made.images)
        assert again[kind].rejected == made.rejected
    assert not np.array_equal(other["scribbles"].images, pictures["scribbles"].images)
    np.testing.assert_array_equal(other["letters"].images, pictures["letters"].images)


def test_every_picture_is_counted(digits: Dataset, pictures: dict[str, NonDigits]) -> None:
    totals = {kind: made.total for kind, made in pictures.items()}
    like = int(np.isin(digits.labels, (0, 1, 6, 8, 9)).sum())
    assert totals == {
        **dict.fromkeys(DRAWN, 40),
        "letters": 18 * len(FONTS),
        "letters_like_digits": 8 * len(FONTS),
        "upside_down": len(digits) - like,
        "upside_down_like_digits": like,
    }
    for made in pictures.values():
        assert made.images.dtype == np.uint8
        assert made.images.shape == (made.total - made.rejected, 28, 28)


@pytest.mark.parametrize("kind", ["blank", "blank_paper"])
def test_blank_paper_is_refused_before_any_model_sees_it(pictures: dict[str, NonDigits], kind: str) -> None:
    assert pictures[kind].rejected == 40


@pytest.mark.parametrize("kind", ["scribbles", "letters", "letters_like_digits", "upside_down"])
def test_what_holds_ink_is_prepared_and_no_two_are_the_same(pictures: dict[str, NonDigits], kind: str) -> None:
    images = pictures[kind].images
    assert pictures[kind].rejected == 0
    assert len(np.unique(images, axis=0)) == len(images)
    ink = (images > 127).mean(axis=(1, 2))
    assert 0.02 < ink.min() < ink.max() < 0.5


def test_upside_down_digits_turn_back_into_digits(digits: Dataset, pictures: dict[str, NonDigits]) -> None:
    turned = pictures["upside_down"].images[:, ::-1, ::-1].astype(np.float64)
    upright = digits.images[~np.isin(digits.labels, (0, 1, 6, 8, 9))].astype(np.float64)
    one_down_and_right = np.roll(turned, (1, 1), axis=(1, 2))  # the centre of mass lies on the other side of 14
    agreement = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(one_down_and_right, upright, strict=True)]
    assert np.median(agreement) > 0.9


def test_all_fonts_are_there_and_draw_differently(pictures: dict[str, NonDigits]) -> None:
    directory = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    assert all((directory / f"{font}.ttf").is_file() for font in FONTS)
    ends = pictures["letters"].images[::18]  # the A of each font
    assert len(np.unique(ends, axis=0)) == len(FONTS)


def test_the_report_counts_refused_and_low_scored_pictures() -> None:
    def brightness(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        return np.asarray(images.mean(axis=(1, 2)))

    levels = np.array([10, 20, 30], dtype=np.uint8)
    four = NonDigits(np.broadcast_to(levels[:, None, None], (3, 28, 28)), rejected=1)
    none_left = NonDigits(np.empty((0, 28, 28), np.uint8), rejected=5)
    nothing = NonDigits(np.empty((0, 28, 28), np.uint8), rejected=0)
    kinds = {"four": four, "none_left": none_left, "nothing": nothing}
    assert rejection_report(brightness, 20, kinds) == {"four": 0.5, "none_left": 1.0}  # 20 is not below 20
    assert rejection_report(brightness, 31, {"four": four}) == {"four": 1.0}
