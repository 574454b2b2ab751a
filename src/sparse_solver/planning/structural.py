"""Can any values on this structure make a regular matrix?"""

from __future__ import annotations

import numpy as np

from ..errors import SingularMatrixError
from ..matrix import Pattern

__all__ = ["check_structure"]


def check_structure(pattern: Pattern) -> None:
    """Raise SingularMatrixError if no values could make a matrix on `pattern` regular.

    Notes
    -----
    A full diagonal settles it. Otherwise rows and columns must allow a perfect matching
    (Duff, Erisman and Reid, Direct Methods for Sparse Matrices, 2nd ed., section 6.3).
    """
    if pattern.has_full_diagonal:
        return
    n = pattern.shape[0]
    for name, indices in (("row", pattern.rows), ("column", pattern.cols)):
        empty = np.flatnonzero(np.bincount(indices.numpy(), minlength=n) == 0)
        if len(empty):
            i = int(empty[0])
            raise SingularMatrixError(
                f"A (shape {pattern.shape}) is structurally singular: {name} {i} is empty", index=i
            )
    import scipy.sparse
    from scipy.sparse.csgraph import maximum_bipartite_matching

    indptr, cols = pattern.csr
    ones = np.ones(pattern.nnz, dtype=np.int8)
    graph = scipy.sparse.csr_array((ones, cols, indptr), shape=pattern.shape)
    match = maximum_bipartite_matching(graph, perm_type="column")
    unmatched = np.flatnonzero(match < 0)
    if len(unmatched):
        i = int(unmatched[0])
        raise SingularMatrixError(
            f"A (shape {pattern.shape}) is structurally singular: only {n - len(unmatched)} of its "
            f"{n} rows can be matched with a column of their own; row {i} is left over",
            index=i,
        )
