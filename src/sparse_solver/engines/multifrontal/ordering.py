"""Fill-reducing orderings."""

from __future__ import annotations

import numpy as np

from ...matrix import Pattern

__all__ = ["fill_reducing"]


def fill_reducing(pattern: Pattern) -> np.ndarray:
    """METIS's nested dissection: order[k] is the k-th unknown to eliminate."""
    import pymetis

    n, rows, cols = pattern.shape[0], pattern.rows.numpy(), pattern.cols.numpy()
    apart = rows != cols
    neighbours = cols[apart].astype(np.int32)
    if not len(neighbours):
        return np.arange(n)
    starts = np.zeros(n + 1, np.int32)
    np.cumsum(np.bincount(rows[apart], minlength=n), out=starts[1:])
    order, _ = pymetis.nested_dissection(pymetis.CSRAdjacency(starts, neighbours))
    return np.asarray(order, np.int64)
