"""Fill-reducing orderings."""

from __future__ import annotations

import numpy as np

__all__ = ["nested_dissection"]


def nested_dissection(indptr: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """METIS's nested dissection of a graph without loops: order[k] is the k-th to eliminate."""
    import pymetis

    graph = pymetis.CSRAdjacency(indptr, indices)
    order, _ = pymetis.nested_dissection(graph)
    return np.asarray(order, np.int64)
