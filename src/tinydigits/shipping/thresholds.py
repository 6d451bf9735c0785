"""The threshold below which a picture is no digit, within the numbers that the exported forms calculate with."""

import numpy as np

from tinydigits.shipping.graph import Graph
from tinydigits.shipping.int8 import Int8Graph

_LARGEST_FLOAT = float(np.finfo(np.float32).max)
_LARGEST_INTEGER = 2**31 - 1


def float_threshold(graph: Graph) -> float | None:
    """In float32: one beyond its range is clipped to the largest finite number, below which all logits lie too."""
    return None if graph.threshold is None else min(max(graph.threshold, -_LARGEST_FLOAT), _LARGEST_FLOAT)


def integer_threshold(graph: Int8Graph) -> int | None:
    """In int32, likewise."""
    if graph.integer_threshold is None:
        return None
    return min(max(graph.integer_threshold, -_LARGEST_INTEGER), _LARGEST_INTEGER)
