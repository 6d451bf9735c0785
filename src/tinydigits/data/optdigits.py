"""optdigits: 1,797 handwritten digits that come with scikit-learn, redrawn as 28×28. Used if MNIST is unavailable.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998
(CC BY 4.0; scikit-learn carries its test part). A pixel there is the number, 0 to 16, of inked points in a 4×4 block.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from tinydigits.data.dataset import Dataset, DigitData, split_by_rule
from tinydigits.pictures.preprocess import preprocess_gray

FACTOR = 5  # of enlargement, before the digit is fitted into its box
MARGIN = 2  # empty pixels around a digit, of its 8×8


def load_optdigits(warning: str | None = None) -> DigitData:
    """All digits, split: 70 % train, 10 % validation, 20 % test. `warning`: why they are used instead of others."""
    return split_by_rule(_redrawn_digits(), warning)


@functools.cache
def _redrawn_digits() -> Dataset:
    from sklearn.datasets import load_digits  # slow to import, and only needed here

    digits = load_digits()
    images = np.stack([preprocess_gray(image) for image in enlarge(digits.images.astype(np.int32))])
    return Dataset(images, digits.target.astype(np.uint8), "optdigits")


def enlarge(images: NDArray[np.int32]) -> NDArray[np.uint8]:
    """8×8 digits, values 0..16 [N, 8, 8], → smooth strokes uint8 [N, 60, 60], light on black with a margin.

    Cubic interpolation at five times the resolution, then one and a half times the contrast, turns counts of ink into
    strokes with edges. Integers only: v = (255 sum + d/2) // d, where sum has the weights of `_cubic_weights` on both
    axes and d is the total weight times 16; then 128 + 3 (v - 128) // 2, clipped to 0..255.
    """
    margin = MARGIN + 2  # two more, as the interpolation reaches two pixels
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin)))
    weights, total = _cubic_weights(images.shape[1] + 2 * MARGIN)
    # float64 multiplies matrices faster, and integers under 2^53 exactly: these stay under 2^40
    sums: NDArray[np.float64] = weights @ padded.astype(np.float64) @ weights.T
    denominator = 16 * total**2
    values = (255 * sums.astype(np.int64) + denominator // 2) // denominator
    levels: NDArray[np.int64] = np.clip(128 + 3 * (values - 128) // 2, 0, 255)
    return levels.astype(np.uint8)


def _cubic_weights(count: int) -> tuple[NDArray[np.float64], int]:
    """Catmull-Rom weights, integers [FACTOR·count, count + 4], and the sum of each row.

    Row j computes the point at (j + 1/2) / FACTOR pixels from the four pixels around it; column 2 is the first pixel.
    """
    unit = 2 * FACTOR  # a pixel, so that the points have integer positions
    position = 2 * np.arange(FACTOR * count) + 1 - FACTOR
    first, t = np.divmod(position, unit)
    parts = (
        -(t**3) + 2 * t**2 * unit - t * unit**2,
        3 * t**3 - 5 * t**2 * unit + 2 * unit**3,
        -3 * t**3 + 4 * t**2 * unit + t * unit**2,
        t**3 - t**2 * unit,
    )
    weights = np.zeros((FACTOR * count, count + 4))
    for offset, part in enumerate(parts):
        weights[np.arange(len(position)), first + 1 + offset] = part
    return weights, 2 * unit**3
