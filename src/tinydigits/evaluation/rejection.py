"""Pictures that are no digits, to measure how many of them a model recognises as such.

All are drawn at the size of a small scan and go through `preprocess`, as a user's pictures do.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from string import ascii_uppercase
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from tinydigits.data.dataset import Dataset
from tinydigits.errors import BlankPictureError
from tinydigits.pictures.arithmetic import Gray
from tinydigits.pictures.preprocess import preprocess

CANVAS = 112  # side of drawn pictures, in pixels
INK = 20  # grey level of ink on paper of level 255
LETTERS_LIKE_DIGITS = "BDGIOQSZ"  # 8 0 6 1 0 0 5 2
UPSIDE_DOWN_LIKE_DIGITS = (0, 1, 6, 8, 9)  # 6 and 9 become each other, the others stay what they are
FONTS = (  # they ship with matplotlib, so that every machine draws the same
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    *("cmr10", "cmb10", "cmss10", "cmtt10", "cmti10"),
)


class NonDigits(NamedTuple):
    """Pictures of one kind: `images` uint8 [K, 28, 28], and how many `preprocess` has `rejected` as blank."""

    images: NDArray[np.uint8]
    rejected: int

    @property
    def total(self) -> int:
        """How many pictures were drawn."""
        return len(self.images) + self.rejected


def nondigit_pictures(digits: Dataset, seed: int = 0, count: int = 500) -> dict[str, NonDigits]:
    """Non-digits by kind; the same arguments give the same pictures (with the same Pillow and matplotlib).

    `blank` (one grey level) and `blank_paper` (faint noise, uneven light); `noise_white`, `noise_sparse` (single dots)
    and `noise_smooth` (blobs); `scribbles` (one to three smooth random strokes): `count` pictures each. `letters`:
    A-Z in 20 fonts, without the digits in disguise B, D, G, I, O, Q, S, Z, which are `letters_like_digits`.
    `upside_down`: every 2, 3, 4, 5 and 7 of `digits` turned by 180°; every 0, 1, 6, 8 and 9, still digits when turned,
    is in `upside_down_like_digits`. Not all of a kind can be rejected rightly: some scribbles read as a digit, and
    some 5 look the same either way up.
    """
    kinds = ("blank", "blank_paper", "noise_white", "noise_sparse", "noise_smooth", "scribbles")
    draws = (_blank, _blank_paper, _noise_white, _noise_sparse, _noise_smooth, _scribble)
    pictures = {}
    for index, (kind, draw) in enumerate(zip(kinds, draws, strict=True)):
        generator = np.random.default_rng([seed, index])
        pictures[kind] = _prepare(draw(generator) for _ in range(count))
    pictures["letters"] = _prepare(_letters(set(ascii_uppercase) - set(LETTERS_LIKE_DIGITS)))
    pictures["letters_like_digits"] = _prepare(_letters(LETTERS_LIKE_DIGITS))
    alike = np.isin(digits.labels, UPSIDE_DOWN_LIKE_DIGITS)
    pictures["upside_down"] = _prepare(digits.images[~alike, ::-1, ::-1])
    pictures["upside_down_like_digits"] = _prepare(digits.images[alike, ::-1, ::-1])
    return pictures


def rejection_report(
    score: Callable[[NDArray[np.uint8]], NDArray[np.floating]], threshold: float, pictures: Mapping[str, NonDigits]
) -> dict[str, float]:
    """The fraction of each kind that is rejected, in [0, 1]: rejected as blank, or scored below `threshold`.

    `score` takes images uint8 [K, 28, 28] and gives scores [K], high for digits. Kinds without pictures are left out.
    """
    report = {}
    for kind, made in pictures.items():
        if made.total:
            kept = np.count_nonzero(score(made.images) >= threshold) if len(made.images) else 0
            report[kind] = 1 - int(kept) / made.total
    return report


def _prepare(pictures: Iterable[Gray]) -> NonDigits:
    images: list[Gray] = []
    rejected = 0
    for picture in pictures:
        try:
            images.append(preprocess(picture))
        except BlankPictureError:
            rejected += 1
    return NonDigits(np.array(images, dtype=np.uint8).reshape(-1, 28, 28), rejected)


def _blank(generator: np.random.Generator) -> Gray:
    return np.full((CANVAS, CANVAS), generator.integers(256), dtype=np.uint8)


def _blank_paper(generator: np.random.Generator) -> Gray:
    """Noise of 1 to 4 levels on a plane of light that falls by up to 60 levels."""
    slope = generator.uniform(-30, 30, size=2) / CANVAS
    light = generator.uniform(140, 220) + np.add.outer(slope[0] * np.arange(CANVAS), slope[1] * np.arange(CANVAS))
    return _levels(light + generator.normal(0, generator.uniform(1, 4), size=(CANVAS, CANVAS)))


def _noise_white(generator: np.random.Generator) -> Gray:
    return generator.integers(256, size=(28, 28), dtype=np.uint8)


def _noise_sparse(generator: np.random.Generator) -> Gray:
    """Dots on 2 to 30 % of a bare 28×28."""
    ink = generator.random((28, 28)) < generator.uniform(0.02, 0.3)
    return np.where(ink, INK, 255).astype(np.uint8)


def _noise_smooth(generator: np.random.Generator) -> Gray:
    """Blurred noise, cut off so that blobs lie on bare paper."""
    noise = Image.fromarray(generator.integers(256, size=(CANVAS, CANVAS), dtype=np.uint8))
    blurred = np.asarray(noise.filter(ImageFilter.GaussianBlur(generator.uniform(5, 12))), dtype=np.float64)
    std = (blurred - np.median(blurred)) / blurred.std()
    return _levels(255 - 400 * np.clip(std - 0.5, 0, None))


def _scribble(generator: np.random.Generator) -> Gray:
    from scipy.interpolate import CubicSpline

    image = Image.new("L", (CANVAS, CANVAS), 255)
    draw = ImageDraw.Draw(image)
    width = int(generator.integers(4, 10))
    for _ in range(generator.integers(1, 4)):
        corners = generator.uniform(20, CANVAS - 20, size=(generator.integers(6, 11), 2))
        path = CubicSpline(np.arange(len(corners)), corners)(np.linspace(0, len(corners) - 1, 500))  # [500, 2]
        for x, y in path:
            draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=INK)
    return np.array(image)


def _letters(letters: Iterable[str]) -> Iterable[Gray]:
    import matplotlib

    directory = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for font in FONTS:
        face = ImageFont.truetype(str(directory / f"{font}.ttf"), size=72)
        for letter in sorted(letters):
            image = Image.new("L", (CANVAS, CANVAS), 255)
            ImageDraw.Draw(image).text((CANVAS / 2, CANVAS / 2), letter, fill=INK, font=face, anchor="mm")
            yield np.array(image)


def _levels(values: NDArray[np.floating]) -> Gray:
    return np.asarray(np.clip(np.rint(values), 0, 255), dtype=np.uint8)
