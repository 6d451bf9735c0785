"""Steps 9 to 11 of the preprocessor: ink → the digit's box → 20×20 → placed in 28×28."""

import numpy as np
from numpy.typing import NDArray

from tinydigits.errors import BlankPictureError
from tinydigits.pictures.arithmetic import Gray, Integers, avg

SIZE = 28  # of the result
BOX = 20  # the digit fits into a box of this size, as in MNIST
NEARLY_FULL = 240  # an ink level that need not be stretched to 255, so that MNIST stays as it is
SPECK_FRACTION = 32  # a separate part with less than 1/32 of the ink is a speck


def find_box(inked: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Step 9: the rows and columns of the digit's box in `inked` [H, W].

    Raises:
        BlankPictureError: only specks were found.
    """
    least = 1 + max(inked.shape) // 128
    rows = _extent(inked.sum(axis=1), least)
    columns = _extent(inked[rows].sum(axis=0), least)
    return _extent(inked[:, columns].sum(axis=1), least), columns


def _extent(counts: Integers, least: int) -> slice:
    """The box along one axis. A plain loop: for so few numbers, NumPy's calls would take several times as long."""
    runs: list[tuple[int, int, int]] = []  # start, end, sum of counts
    start = weight = 0
    for i, count in enumerate([*counts.tolist(), 0]):
        if count >= least:
            weight += count
            continue
        if weight:
            runs.append((start, i, weight))
        start, weight = i + 1, 0
    if not runs:
        raise BlankPictureError("no ink was found, only specks. Use a picture with one digit, written clearly.")
    total = sum(weight for *_, weight in runs)
    kept = [run for run in runs if SPECK_FRACTION * run[2] >= total] or runs
    return slice(kept[0][0], kept[-1][1])


def fit(ink: Gray) -> Gray:
    """Step 10: [h, w] → [h', w'], the longer side 20.

    Raises:
        BlankPictureError: only hairlines were found, which vanish in the smaller picture.
    """
    height, width = ink.shape
    longer = max(height, width)
    new_height = max(1, (2 * BOX * height + longer) // (2 * longer))
    new_width = max(1, (2 * BOX * width + longer) // (2 * longer))
    resize, weights = (_cover, height * width) if longer >= BOX else (_enlarge, 4 * new_height * new_width)
    digit = avg(resize(resize(ink.astype(np.int32), new_height).T, new_width).T, weights)
    largest = int(digit.max())
    if largest == 0:
        raise BlankPictureError("no ink was found, only hairlines. Use a picture with one digit, written clearly.")
    return (digit if largest >= NEARLY_FULL else avg(255 * digit, largest)).astype(np.uint8)


def _cover(values: Integers, length: int) -> Integers:
    """Sums over `length` equal parts of the first axis; the weights of a part sum to len(values)."""
    if len(values) == length:
        return values * length
    sums = np.zeros((len(values) + 1, values.shape[1]), dtype=np.int32)
    np.cumsum(values, axis=0, out=sums[1:])
    whole, part = np.divmod(np.arange(length + 1, dtype=np.int32) * len(values), length)
    inside = np.minimum(whole, len(values) - 1)
    below = np.asarray(length * sums[whole] + part[:, None] * values[inside], dtype=np.int32)
    return below[1:] - below[:-1]


def _enlarge(values: Integers, length: int) -> Integers:
    """Linear interpolation along the first axis, times 2·length."""
    position = (2 * np.arange(length, dtype=np.int32) + 1) * len(values) - length
    first = position // (2 * length)
    weight = (position - 2 * length * first)[:, None]
    last = len(values) - 1
    return values[np.clip(first, 0, last)] * (2 * length - weight) + values[np.clip(first + 1, 0, last)] * weight


def centre(digit: Gray) -> Gray:
    """Step 11: [h', w'] → [28, 28]."""
    values = digit.astype(np.int64)
    total = int(values.sum())
    result = np.zeros((SIZE, SIZE), dtype=np.uint8)
    corner = []
    for axis in (0, 1):
        moment = int(values.sum(axis=1 - axis) @ np.arange(digit.shape[axis]))
        start = -((2 * moment - (SIZE - 1) * total) // (2 * total))  # rounded up
        corner.append(min(max(start, 0), SIZE - digit.shape[axis]))
    top, left = corner
    result[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return result
