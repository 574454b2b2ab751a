"""Triangular factors, from whichever engine hands them out, in one form.

An engine's factorisation reads

    (R A C)[p][:, q] = L U        (R, C diagonal and real; L with unit diagonal)

KLU's leaves entries above its diagonal blocks out of L U. Neither the determinant nor what
`planning.takahashi` computes depends on those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Triangles", "determinant", "inverse_of"]

_FEW = 1000  # elements of a permutation up to which a plain loop counts its cycles fastest


@dataclass(frozen=True, eq=False)
class Triangles:
    """L and U in double precision, entries ascending within columns of L and rows of U.

    Attributes
    ----------
    d : array, shape (n,)
        Pivots: the diagonal of U.
    lp, li, lx : arrays
        L below its diagonal, by columns: pointers, rows, values.
    up, uj, ux : arrays
        U above its diagonal, by rows: pointers, columns, values.
    row_place, col_place : int64 arrays, shape (n,)
        Row i of A is row ``row_place[i]`` of L, column j of A column ``col_place[j]`` of U.
    r, c : arrays, shape (n,)
        Diagonals of R and C.
    block : int64 array, shape (n,), or None
        The diagonal block of each pivot, where there are several.
    gaps : bool
        Whether entries that happen to be zero have no place.
    """

    d: np.ndarray
    lp: np.ndarray
    li: np.ndarray
    lx: np.ndarray
    up: np.ndarray
    uj: np.ndarray
    ux: np.ndarray
    row_place: np.ndarray
    col_place: np.ndarray
    r: np.ndarray
    c: np.ndarray
    block: np.ndarray | None = None
    gaps: bool = False

    @classmethod
    def from_csc(cls, L: Any, U: Any, **rest: Any) -> Triangles:
        """From SciPy's L (its diagonal, of ones, stored or not) and U, in any sparse form."""
        import scipy.sparse

        wide = np.complex128 if L.dtype.kind == "c" else np.float64
        d = U.diagonal().astype(wide)
        low = scipy.sparse.tril(L, -1, format="csc").astype(wide)
        high = scipy.sparse.triu(U, 1, format="csr").astype(wide)
        low.sort_indices()
        high.sort_indices()
        return cls(d, *_plain(low), *_plain(high), **rest)

    @classmethod
    def from_cholesky(
        cls, lp: np.ndarray, li: np.ndarray, lx: np.ndarray, place: np.ndarray
    ) -> Triangles:
        """From L of P A P^T = L L^H by columns, the diagonal first in each, rows ascending.

        Unknown i of A is row ``place[i]`` of L.
        """
        wide = np.complex128 if lx.dtype.kind == "c" else np.float64
        n = len(lp) - 1
        below = np.ones(len(li), bool)
        below[lp[:-1]] = False
        root = lx[lp[:-1]].real.astype(np.float64)
        columns = np.repeat(np.arange(n), np.diff(lp) - 1)
        unit = lx[below].astype(wide) / root[columns]
        pointers, rows = (lp - np.arange(n + 1)).astype(np.int64), li[below].astype(np.int64)
        d, ones = root**2, np.ones(n)
        upper = pointers, rows, d[columns] * unit.conj()  # row k of U = D L^H is column k of L
        place = np.asarray(place, np.int64)
        return cls(d.astype(wide), pointers, rows, unit, *upper, place, place, ones, ones)


def _plain(A: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # One combination of index types, so that compiled loops are compiled once.
    return A.indptr.astype(np.int64), A.indices.astype(np.int64), A.data


def inverse_of(permutation: np.ndarray) -> np.ndarray:
    """p^-1 as int64."""
    inverse = np.empty(len(permutation), np.int64)
    inverse[permutation] = np.arange(len(permutation))
    return inverse


def determinant(
    pivots: np.ndarray, row_place: np.ndarray, col_place: np.ndarray, *scales: np.ndarray
) -> tuple[complex, float]:
    """(sign, log|det A|) from U's diagonal, both permutations and the (positive) scales.

    det A = det U sign(p) sign(q) / (det R det C), as a sum of logarithms: nothing overflows.
    """
    wide = np.complex128 if pivots.dtype.kind == "c" else np.float64
    pivots = pivots.astype(wide)
    size = np.abs(pivots)
    if not size.all():
        return 0.0, -np.inf
    logabs = np.log(size).sum()
    for s in scales:
        logabs -= np.log(s, dtype=np.float64).sum()
    # Parity of the product of both permutations: n less its number of cycles.
    odd = (len(pivots) - _cycles(np.asarray(row_place)[inverse_of(col_place)])) % 2
    if pivots.dtype.kind != "c":
        odd = (odd + int((pivots < 0).sum())) % 2
        return -1.0 if odd else 1.0, float(logabs)
    unit = np.prod(pivots / size)
    return complex((-unit if odd else unit) / abs(unit)), float(logabs)


def _cycles(permutation: np.ndarray) -> int:
    n = len(permutation)
    if n > _FEW:
        import scipy.sparse
        from scipy.sparse.csgraph import connected_components

        ones = np.ones(n, np.int8)
        graph = scipy.sparse.csr_array((ones, permutation, np.arange(n + 1)), shape=(n, n))
        return int(connected_components(graph, directed=False, return_labels=False))
    count, waiting = 0, permutation.tolist()
    for start in range(n):
        count += waiting[start] >= 0
        while waiting[start] >= 0:
            waiting[start], start = -1, waiting[start]
    return count
