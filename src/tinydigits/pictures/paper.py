"""Steps 2 to 5 of the preprocessor: how bright the paper is at each pixel."""

import numpy as np
from numpy.typing import NDArray

from tinydigits.pictures.arithmetic import Gray, Integers, avg, block_sums

MAX_CELLS = 24  # per side of the grid on which the light is estimated
RELAXATIONS = 32


def estimate_paper(gray: Gray) -> tuple[int | Integers, NDArray[np.bool_] | None]:
    """Steps 2 to 5: one level, or a level for each pixel [H, W]; and which pixels lie in paper cells [H, W].

    If the border showed the level (step 2), there are no cells: None.
    """
    if (level := _border_level(gray)) is not None:
        return level, None
    height, width = gray.shape
    side = -(-max(height, width) // MAX_CELLS)
    gh, gw = -(-height // side), -(-width // side)
    rows, columns = np.arange(gh) * height // gh, np.arange(gw) * width // gw
    row_counts, column_counts = np.diff(rows, append=height), np.diff(columns, append=width)
    cells = avg(256 * block_sums(gray, rows, columns), np.outer(row_counts, column_counts))
    step = max(np.abs(np.diff(cells, axis=axis)).max(initial=0) for axis in (0, 1))
    smooth = int(np.clip(step // 8, 2 * 256, 12 * 256))
    known = _paper_cells(cells, smooth)
    bare = known.repeat(row_counts, axis=0).repeat(column_counts, axis=1)
    level = _lower_median(cells[known])
    if 8 * np.count_nonzero(2 * np.abs(cells[known] - level) <= smooth) >= 7 * np.count_nonzero(known):
        return (level + 128) // 256, bare
    cells = _fill(cells, known)
    down = _interpolate(cells.astype(np.int32), height)
    across = _interpolate(down.T, width).T
    levels: Integers = np.clip((across + 128) >> 8, 0, 255)
    return levels, bare


def _border_level(gray: Gray) -> int | None:
    """Step 2: the level of an evenly lit paper, None if the border does not show one."""
    inner = gray[1:-1]
    parts = gray[:1], gray[1:][-1:], inner[:, :1], inner[:, 1:][:, -1:]
    border = np.bincount(np.concatenate([part.ravel() for part in parts]), minlength=256)
    level = int(border.argmax())
    low, high = max(0, level - 2), min(255, level + 2)
    if 8 * int(border[low : high + 1].sum()) < 7 * int(border.sum()):
        return None
    near = np.count_nonzero((gray >= low) & (gray <= high))
    return level if 4 * near >= gray.size else None


def _lower_median(values: Integers) -> int:
    return int(np.sort(values, axis=None)[(values.size - 1) // 2])


def _paper_cells(cells: Integers, smooth: int) -> NDArray[np.bool_]:
    """Step 3: which cells are joined to the border's median by small steps."""
    border = np.ones(cells.shape, dtype=bool)
    border[1:-1, 1:-1] = False
    known = border & (np.abs(cells - _lower_median(cells[border])) <= smooth)
    down = np.abs(np.diff(cells, axis=0)) <= smooth
    across = np.abs(np.diff(cells, axis=1)) <= smooth
    found = 0
    while (count := int(np.count_nonzero(known))) > found:
        found = count
        known[1:] |= known[:-1] & down
        known[:-1] |= known[1:] & down
        known[:, 1:] |= known[:, :-1] & across
        known[:, :-1] |= known[:, 1:] & across
    return known


def _neighbour_sums(values: Integers) -> Integers:
    """The sum of the 2 to 4 neighbours of each cell."""
    total = np.zeros_like(values)
    total[1:] += values[:-1]
    total[:-1] += values[1:]
    total[:, 1:] += values[:, :-1]
    total[:, :-1] += values[:, 1:]
    return total


def _fill(cells: Integers, known: NDArray[np.bool_]) -> Integers:
    """Step 5: the paper beneath the ink, from the paper around it."""
    cells, filled = np.where(known, cells, 0), known.copy()
    while not filled.all():
        count = _neighbour_sums(filled.astype(np.int64))
        new = (count > 0) & ~filled
        cells[new] = avg(_neighbour_sums(cells)[new], count[new])
        filled |= new
    count = np.maximum(1, _neighbour_sums(np.ones_like(cells)))
    for _ in range(0 if known.all() else RELAXATIONS):
        cells = np.where(known, cells, avg(_neighbour_sums(cells), count))
    return cells


def _interpolate(cells: Integers, length: int) -> Integers:
    """Step 5: cells [g, n] → [length, n], along the first axis."""
    number = len(cells)
    if number == 1:
        return np.repeat(cells, length, axis=0)
    position = (2 * np.arange(length, dtype=np.int32) + 1) * number - length
    first = np.clip(position // (2 * length), 0, number - 2)
    weight = (position - 2 * length * first)[:, None]
    return avg(cells[first] * (2 * length - weight) + cells[first + 1] * weight, 2 * length)
