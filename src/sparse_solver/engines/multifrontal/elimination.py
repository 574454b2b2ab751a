"""An ordering and what follows from it without any numbers: who waits for whom, and how L fills in."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import tree

__all__ = ["Elimination", "eliminate", "ints", "places"]


class Elimination(NamedTuple):
    """Unknowns in a postorder of the elimination tree.

    Attributes
    ----------
    order : the unknown eliminated k-th
    parent : of the k-th in the tree, -1 for roots
    counts : nonzeros of the k-th column of L, diagonal included
    """

    order: np.ndarray
    parent: np.ndarray
    counts: np.ndarray

    @property
    def flops(self) -> float:
        """Multiplications and additions of the Cholesky factorisation."""
        return float(np.square(self.counts.astype(np.float64)).sum())


def ints(*shape: int) -> np.ndarray:
    """Room for numbers."""
    return np.empty(shape, np.int64)


def places(order: np.ndarray) -> np.ndarray:
    """The inverse of a permutation."""
    out = ints(len(order))
    out[order] = np.arange(len(order))
    return out


def eliminate(indptr: np.ndarray, indices: np.ndarray, order: np.ndarray) -> Elimination:
    """What eliminating in this order amounts to; indptr, indices: both triangles, diagonal included."""
    n = len(order)
    parent, work, count, post = ints(n), ints(4, n), ints(n), ints(n)
    tree.elimination_tree(n, indptr, indices, order, places(order), parent, work[0])
    tree.postorder(n, parent, work[0], work[1], work[2], post)
    order, inverse = order[post], places(post)
    up = parent[post]
    parent = np.where(up >= 0, inverse[up], -1)
    tree.column_counts(n, indptr, indices, order, places(order), parent, work, count)
    return Elimination(order, parent, count)
