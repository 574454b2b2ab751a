"""The fixed list of operations that factors every matrix on one pattern, pivots decided beforehand.

With rows and columns in the order chosen here, A = L U without pivoting, L and U^T filling the same
positions (those of A + A^T, filled). For A = A^T, U = D L^T is not stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse
from scipy.sparse.linalg import splu

from ...matrix import Pattern

__all__ = ["Elimination", "eliminate", "weak_diagonal"]

_WEAK = 10.0  # times the geometric mean of two pivots that an entry between them may be


@dataclass(frozen=True, eq=False)
class Elimination:
    """Where everything is, in 32-bit integers.

    Attributes
    ----------
    symmetric : bool
        L D L^T rather than L U.
    row_order, col_order : arrays, shape (n,)
        Row and column of A that come j-th.
    rows, cols : arrays, shape (nnz,)
        Of A's nonzeros, row by row.
    begin : array, shape (n + 1,)
        Where rows begin among these.
    diagonal : array, shape (n,)
        The nonzero at (i, i), or -1.
    upper, mirror : arrays
        Pairs of nonzeros that are equal if A is symmetric; empty where it is not on their pattern.
    pointer, index : arrays, shape (n + 1,), (nnz_factor,)
        Columns of L below the diagonal.
    row_pointer, row_col, row_place : arrays
        The same entries by rows: which column, and where in `index`. In each row, columns that have
        the same rows from there on are neighbours.
    together : array, shape (nnz_factor,)
        How many such neighbours begin here, as they are used at once: 1, 2 or 4.
    low_pointer, low_value, low_at : arrays
        By column j, nonzeros of A on and below the diagonal and where in the column they go.
    high_pointer, high_value, high_at : arrays
        By row j, nonzeros right of the diagonal, unless `symmetric`.
    """

    n: int
    nnz: int
    symmetric: bool
    row_order: np.ndarray
    col_order: np.ndarray
    rows: np.ndarray
    cols: np.ndarray
    begin: np.ndarray
    diagonal: np.ndarray
    upper: np.ndarray
    mirror: np.ndarray
    pointer: np.ndarray
    index: np.ndarray
    row_pointer: np.ndarray
    row_col: np.ndarray
    row_place: np.ndarray
    together: np.ndarray
    low_pointer: np.ndarray
    low_value: np.ndarray
    low_at: np.ndarray
    high_pointer: np.ndarray
    high_value: np.ndarray
    high_at: np.ndarray
    flops: float = field(default=0.0)

    @property
    def nnz_factor(self) -> int:
        """Entries of L below the diagonal."""
        return len(self.index)

    @property
    def height(self) -> int:
        """Rows of one block: A's values, L, U unless symmetric, pivots and their reciprocals."""
        return self.nnz + self.nnz_factor * (1 if self.symmetric else 2) + 2 * self.n

    @cached_property
    def mate(self) -> np.ndarray:
        """The nonzero at (j, i) for each (i, j), where `upper` and `mirror` have them."""
        mate = np.arange(self.nnz, dtype=np.int32)
        mate[self.upper], mate[self.mirror] = self.mirror, self.upper
        return mate

    @property
    def _halves(self) -> tuple[np.ndarray, ...]:
        low = self.low_pointer, self.low_value, self.low_at
        return (*low, self.high_pointer, self.high_value, self.high_at)

    def factor_arguments(self) -> tuple[Any, ...]:
        """What the kernel that factors reads."""
        A = self.rows, self.cols, self.begin, self.diagonal, self.upper, self.mirror
        L = self.pointer, self.index, self.row_pointer, self.row_col, self.row_place, self.together
        return (self.n, self.nnz, self.symmetric, *A, *L, *self._halves)

    def solve_arguments(self) -> tuple[Any, ...]:
        """What the kernels that solve read."""
        A = self.row_order, self.col_order, self.rows, self.cols, self.begin, self.diagonal
        return (self.n, self.nnz, *A, self.pointer, self.index)

    def inverse_arguments(self) -> tuple[Any, ...]:
        """What the kernel that computes entries of the inverse reads."""
        A = self.rows, self.cols, self.mate
        return (self.n, self.nnz, self.symmetric, *A, self.pointer, self.index, *self._halves)


def weak_diagonal(pattern: Pattern, values: np.ndarray) -> bool:
    """Whether some pivot on the diagonal is small beside its row and column, in any units."""
    if not pattern.has_full_diagonal:
        return True
    size = np.abs(values).astype(np.float64)
    diagonal = size[pattern.diagonal]
    if not diagonal.all():
        return True
    root = np.sqrt(diagonal)
    scale = root[pattern.rows.numpy()] * root[pattern.cols.numpy()]
    return bool((size > _WEAK * scale).any())


def _match(pattern: Pattern, values: np.ndarray) -> np.ndarray | None:
    """For each column the row that brings the largest product of entries to the diagonal (Duff and
    Koster 1999), or None where there is none.
    """
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    size = np.abs(values).astype(np.float64)
    n, rows, cols = pattern.shape[0], pattern.rows.numpy(), pattern.cols.numpy()
    top = np.zeros(n)
    np.maximum.at(top, cols, size)
    there = size > 0
    # Weights must not be zero, which a sparse graph takes for absent.
    weights = np.log(top[cols[there]]) - np.log(size[there]) + 1.0
    graph = scipy.sparse.csr_array((weights, (rows[there], cols[there])), shape=(n, n))
    try:
        matched_rows, matched_cols = min_weight_full_bipartite_matching(graph)
    except ValueError:
        return None
    order = np.empty(n, np.int64)
    order[matched_cols] = matched_rows
    return order


def eliminate(
    pattern: Pattern, symmetric: bool, values: np.ndarray | None = None
) -> Elimination | None:
    """Order and plan; None if no row can be matched with each column.

    Parameters
    ----------
    pattern : Pattern, square
    symmetric : bool
        A = A^T for the matrices to come.
    values : array, shape (nnz,), optional
        Given where the diagonal is weak: rows are matched to columns by these.
    """
    n = pattern.shape[0]
    rows, cols = pattern.rows.numpy(), pattern.cols.numpy()
    partner = np.arange(n)  # the row whose pivot is in column j
    if values is not None:
        matched = _match(pattern, values)
        if matched is None:
            return None
        partner = matched
    place_of_row = np.empty(n, np.int64)
    place_of_row[partner] = np.arange(n)
    i, j = place_of_row[rows], cols  # the pivots are on the diagonal now
    order = _fill_reducing(i, j, n)
    place = np.empty(n, np.int64)
    place[order] = np.arange(n)
    i, j = place[i], place[j]
    pointer, index = _filled(i, j, n)

    at_row = np.repeat(np.arange(n), np.diff(pointer))  # the column of each entry of L
    by_row, together = _by_row(pointer, index, at_row)
    row_pointer = _pointer(index, n)
    entry = np.arange(len(rows))
    low = i >= j
    by_low = np.lexsort((i[low], j[low]))
    high = np.zeros_like(low) if symmetric else i < j
    by_high = np.lexsort((j[high], i[high]))
    counts = np.diff(pointer).astype(np.float64)
    work = float((counts * (counts + 1)).sum()) * (1 if symmetric else 2) + counts.sum()
    upper, mirror = pattern.triangles if pattern.is_symmetric else (np.empty(0), np.empty(0))
    return Elimination(
        n=n,
        nnz=pattern.nnz,
        symmetric=symmetric,
        row_order=_narrow(partner[order]),
        col_order=_narrow(order),
        rows=_narrow(rows),
        cols=_narrow(cols),
        begin=_narrow(pattern.indptr),
        diagonal=_narrow(pattern.diagonal),
        upper=_narrow(upper),
        mirror=_narrow(mirror),
        pointer=_narrow(pointer),
        index=_narrow(index),
        row_pointer=_narrow(row_pointer),
        row_col=_narrow(at_row[by_row]),
        row_place=_narrow(by_row),
        together=_narrow(together),
        low_pointer=_narrow(_pointer(j[low], n)),
        low_value=_narrow(entry[low][by_low]),
        low_at=_narrow(i[low][by_low]),
        high_pointer=_narrow(_pointer(i[high], n)),
        high_value=_narrow(entry[high][by_high]),
        high_at=_narrow(j[high][by_high]),
        flops=work,
    )


def _by_row(
    pointer: np.ndarray, index: np.ndarray, at_row: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(entries of L by rows, how many from each on are used together).

    What a column adds below a row is known by a sum of random numbers, one for each of its rows there.
    """
    n, count = len(pointer) - 1, len(index)
    names = np.random.default_rng(0).integers(1 << 63, size=n, dtype=np.uint64)
    sums = np.zeros(count + 1, np.uint64)
    np.cumsum(names[index], out=sums[1:])
    below = sums[pointer[at_row + 1]] - sums[1:]  # modulo 2^64
    length = pointer[at_row + 1] - np.arange(count)
    order = np.lexsort((at_row, below, length, index))
    keys = np.stack([index[order], length[order], below[order].view(np.int64)])
    fresh = np.ones(count, bool)
    fresh[1:] = (keys[:, 1:] != keys[:, :-1]).any(0)
    starts = np.flatnonzero(fresh)
    size = np.diff(np.append(starts, count))
    turn = np.arange(count) - np.repeat(starts, size)
    left = np.repeat(size, size) - turn
    # Fours, each of two twos, then a two, then a one.
    return order, np.where(turn % 2 | (left == 1), 1, np.where((turn % 4 == 0) & (left >= 4), 4, 2))


def _narrow(a: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(a, dtype=np.int32)


def _pointer(index: np.ndarray, n: int) -> np.ndarray:
    pointer = np.zeros(n + 1, np.int64)
    np.cumsum(np.bincount(index, minlength=n), out=pointer[1:])
    return pointer


def _fill_reducing(i: np.ndarray, j: np.ndarray, n: int) -> np.ndarray:
    """Minimum degree on the structure of A + A^T, in a postorder: SuperLU's, from a matrix that is
    dominant so that no pivot moves.
    """
    off = i != j
    ones = np.ones(2 * int(off.sum()) + n)
    ij = np.concatenate([i[off], j[off], np.arange(n)]), np.concatenate([j[off], i[off], np.arange(n)])
    A = scipy.sparse.csc_array((ones, ij), shape=(n, n))
    A.sum_duplicates()
    A.data[:] = -1.0
    A.setdiag(np.diff(A.indptr) + 1.0)
    lu = splu(
        A,
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    order = np.empty(n, np.int64)
    order[lu.perm_c] = np.arange(n)
    return order


def _filled(i: np.ndarray, j: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns of L: those of A's lower triangle, united with what each column's children in the
    elimination tree leave over (Davis, Direct Methods for Sparse Linear Systems, section 4.1).
    """
    low, high = np.maximum(i, j), np.minimum(i, j)
    off = low != high
    keys = np.unique(high[off] * n + low[off])
    own_pointer = _pointer(keys // n, n)
    own = keys % n
    columns: list[np.ndarray] = []
    children: list[list[np.ndarray]] = [[] for _ in range(n)]
    for c in range(n):
        parts = [own[own_pointer[c] : own_pointer[c + 1]], *children[c]]
        column = parts[0] if len(parts) == 1 else np.unique(np.concatenate(parts))
        columns.append(column)
        children[c] = []
        if len(column) > 1:
            children[column[0]].append(column[1:])
    pointer = np.zeros(n + 1, np.int64)
    np.cumsum([len(column) for column in columns], out=pointer[1:])
    return pointer, np.concatenate(columns) if n else np.empty(0, np.int64)
