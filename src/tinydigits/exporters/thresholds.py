"""The threshold below which a picture is no digit, within the range of numbers that exports compute with."""

import numpy as np

from tinydigits.inference.graph import Graph
from tinydigits.inference.int8 import Int8Graph


def clipped_threshold(graph: Graph | Int8Graph) -> float | None:
    """In units of the logits that the export computes: float32, or int32 for an int8 graph; None if there is none."""
    if isinstance(graph, Graph):
        value, largest = graph.threshold, float(np.finfo(np.float32).max)
    else:
        value, largest = graph.integer_threshold, 2**31 - 1
    return None if value is None else min(max(value, -largest), largest)
