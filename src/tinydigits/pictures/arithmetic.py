"""Integer arithmetic that several steps of the preprocessor use."""

import numpy as np
from numpy.typing import NDArray

Gray = NDArray[np.uint8]
Integers = NDArray[np.signedinteger]


def avg(total: Integers, count: int | Integers) -> Integers:
    """`total` / `count`, rounded to the nearest integer; halves of an even count are rounded up."""
    return (total + count // 2) // count


def block_sums(gray: Gray, rows: Integers, columns: Integers) -> Integers:
    """Sums over blocks that begin at `rows` and `columns`: [len(rows), len(columns)]."""
    strips = np.add.reduceat(gray, rows, axis=0, dtype=np.int32)
    return np.asarray(np.add.reduceat(strips, columns, axis=1, dtype=np.int64))
