"""Entries of the inverse, and their derivative, from triangular factors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse

from ..engines import Declined, Triangles
from ..matrix import Pattern
from . import takahashi

__all__ = ["Places", "complete", "entries", "tangent"]

_NO_BLOCKS = np.empty(0, np.int64)


class Places:
    """Where A's nonzeros lie in L and U, and with what scale."""

    def __init__(self, T: Triangles, pattern: Pattern) -> None:
        rows, cols = pattern.rows.numpy(), pattern.cols.numpy()
        block = _NO_BLOCKS if T.block is None else T.block
        self.size = len(T.li) + len(T.uj) + len(T.d) + 1
        self.where = takahashi.locate(
            rows, cols, T.row_place, T.col_place, block, T.lp, T.li, T.up, T.uj, len(T.d)
        )
        if len(self.where) and self.where.min() < 0:
            raise Declined("the factors lack places that exact zeros would have filled")
        self.scale = T.r[rows] * T.c[cols]

    def read(self, z: np.ndarray) -> np.ndarray:
        """Entries of A^-1 at (j, i), from those of (L U)^-1: A^-1 = C Q (L U)^-1 P R."""
        return z[self.where] * self.scale

    def write(self, M: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """P R M C Q in the places of L and U; what lies outside the diagonal blocks is left out."""
        z = np.zeros(self.size, dtype)
        z[self.where] = M * self.scale
        z[-1] = 0
        return z


def complete(T: Triangles, pattern: Pattern) -> Triangles:
    """T with a place for every entry that elimination can fill, also for those that are zero.

    Only for pivots from the diagonal of a symmetric structure; others are returned as they are.
    """
    if not T.gaps or not pattern.is_symmetric or not np.array_equal(T.row_place, T.col_place):
        return T
    n = len(T.d)
    rows, cols = T.row_place[pattern.rows.numpy()], T.col_place[pattern.cols.numpy()]
    ones = np.ones(pattern.nnz, np.int8)
    permuted = scipy.sparse.csr_array((ones, (rows, cols)), shape=(n, n))
    lp, li = takahashi.elimination(permuted.indptr.astype(np.int64), permuted.indices.astype(np.int64))
    if len(li) == len(T.li) == len(T.uj):
        return replace(T, gaps=False)
    zeros = scipy.sparse.csc_array((np.zeros(len(li), T.d.dtype), li, lp), shape=(n, n))
    L = scipy.sparse.csc_array((T.lx, T.li, T.lp), shape=(n, n))
    U = scipy.sparse.csr_array((T.ux, T.uj, T.up), shape=(n, n))
    parts = [*_filled(zeros, L), *_filled(zeros, U.T)]
    names = ("lp", "li", "lx", "up", "uj", "ux")
    return replace(T, gaps=False, **dict(zip(names, parts, strict=True)))


def _filled(zeros: Any, A: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A (n, n) by columns, on the structure of `zeros`, which holds A's."""
    columns = np.repeat(np.arange(A.shape[0]), np.diff(zeros.indptr))
    places = columns * A.shape[0] + zeros.indices
    own = np.repeat(np.arange(A.shape[0]), np.diff(A.indptr)) * A.shape[0] + A.indices
    data = zeros.data.copy()
    data[np.searchsorted(places, own)] = A.data
    return zeros.indptr.astype(np.int64), zeros.indices.astype(np.int64), data


def entries(T: Triangles, pattern: Pattern) -> np.ndarray:
    """(A^-1)_ji at the nonzeros (i, j)."""
    T = complete(T, pattern)
    places = Places(T, pattern)
    return places.read(_inverse(T, places))


def _inverse(T: Triangles, places: Places) -> np.ndarray:
    z = np.zeros(places.size, T.d.dtype)
    with np.errstate(all="ignore"):
        takahashi.inverse(T.d, T.lp, T.li, T.lx, T.up, T.uj, T.ux, z)
    return z


def tangent(T: Triangles, pattern: Pattern, M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those entries and their change, -(A^-1 M A^-1)_ji, when A changes by M (nnz,)."""
    T = complete(T, pattern)
    places = Places(T, pattern)
    z = _inverse(T, places)
    change = places.write(M, T.d.dtype)
    y = np.zeros_like(z)
    factors = T.d, T.lp, T.li, T.lx, T.up, T.uj, T.ux
    with np.errstate(all="ignore"):
        takahashi.lu_tangent(*factors, change)
        takahashi.inverse_tangent(*factors, change, z, y)
    return places.read(z), places.read(y)
