"""The compiled loops: a left-looking L D L^T without pivoting, and everything around it.

All take addresses, so that a call costs a microsecond, and read the structure from a table of them
(see `layout`). Nothing is kept from call to call: any number of threads may share a table.

References
----------
T. A. Davis, Direct Methods for Sparse Linear Systems (SIAM 2006), sections 3.2 and 4.8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cfunc, njit, types

from .layout import (
    BLOCK,
    COLS,
    COMPONENTWISE,
    DIAGONAL,
    DOMINANCE,
    INDEX,
    INDPTR,
    KEPT,
    LIMITS,
    LOW_AT,
    LOW_POINTER,
    LOW_VALUE,
    MATE,
    NNZ,
    NNZ_L,
    NORMWISE,
    ORDER,
    POINTER,
    RANDOM,
    REFUSED,
    ROW_COL,
    ROW_PLACE,
    ROW_POINTER,
    SOLVED,
    SUSPICION,
    SYMMETRY,
    N,
)
from .memory import float64_at, int32_at, like_at, move

__all__ = ["cache_path", "compile_for"]

_OPTIONS: dict[str, Any] = {"cache": True, "error_model": "numpy", "fastmath": {"contract"}}
_INNER = {**_OPTIONS, "nogil": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


@njit(**_INNER)
def _sizes(T, v, sums):
    """(norm, margin) of A and the sums of |a_ij| by rows, as in `planning.passes`; the norm is NaN
    where a sum is not finite.
    """
    indptr, diagonal = int32_at(T[INDPTR]), int32_at(T[DIAGONAL])
    norm, margin, finite = 0.0, np.inf, True
    for i in range(T[N]):
        s = 0.0
        for e in range(indptr[i], indptr[i + 1]):
            s += abs(v[e])
        d = abs(v[diagonal[i]])
        sums[i] = s
        finite = finite and s < np.inf
        norm, margin = max(norm, s), min(margin, d + d - s)
    return norm if finite else np.nan, margin


@njit(**_INNER)
def _is_symmetric(T, v, tolerance):
    """Whether mirrored entries differ by `tolerance` at most, relative as in `planning.symmetry`."""
    indptr, cols = int32_at(T[INDPTR]), int32_at(T[COLS])
    diagonal, mate = int32_at(T[DIAGONAL]), int32_at(T[MATE])
    for i in range(T[N]):
        for e in range(diagonal[i] + 1, indptr[i + 1]):
            a, b = v[e], v[mate[e]]
            if a != b:
                scale = np.sqrt(abs(v[diagonal[i]])) * np.sqrt(abs(v[diagonal[cols[e]]]))
                if not abs(a - b) <= tolerance * max(scale, abs(a)):
                    return False
    return True


@njit(**_INNER)
def _factor(T, v, L, D, R, W):
    """L, D and 1 / D of A's lower triangle; the first pivot that is not positive, or -1."""
    pointer, index = int32_at(T[POINTER]), int32_at(T[INDEX])
    row_pointer, row_col = int32_at(T[ROW_POINTER]), int32_at(T[ROW_COL])
    row_place = int32_at(T[ROW_PLACE])
    low_pointer, low_value = int32_at(T[LOW_POINTER]), int32_at(T[LOW_VALUE])
    low_at = int32_at(T[LOW_AT])
    n = T[N]
    for j in range(n):
        W[j] = 0
    for j in range(n):
        for e in range(low_pointer[j], low_pointer[j + 1]):
            W[low_at[e]] = v[low_value[e]]
        d = W[j]
        W[j] = 0
        for r in range(row_pointer[j], row_pointer[j + 1]):
            k, p = row_col[r], row_place[r]
            m = L[p] * D[k]
            d -= m * L[p]
            for q in range(p + 1, pointer[k + 1]):
                W[index[q]] -= L[q] * m
        if not d > 0 or d == np.inf:
            return j
        D[j] = d
        inverse = 1 / d
        R[j] = inverse
        for q in range(pointer[j], pointer[j + 1]):
            i = index[q]
            L[q] = W[i] * inverse
            W[i] = 0
    return -1


@njit(**_INNER)
def _substitute(T, L, R, W):
    """W becomes (L D L^T)^-1 W."""
    pointer, index, n = int32_at(T[POINTER]), int32_at(T[INDEX]), T[N]
    for k in range(n):
        w = W[k]
        for q in range(pointer[k], pointer[k + 1]):
            W[index[q]] -= L[q] * w
    for k in range(n - 1, -1, -1):
        w = W[k] * R[k]
        for q in range(pointer[k], pointer[k + 1]):
            w -= L[q] * W[index[q]]
        W[k] = w


@njit(**_INNER)
def _solve(T, L, R, b, x, W):
    """x = A^-1 b; b and W may be the same, b and x not."""
    order, n = int32_at(T[ORDER]), T[N]
    for k in range(n):
        W[k] = b[order[k]]
    _substitute(T, L, R, W)
    for k in range(n):
        x[order[k]] = W[k]


@njit(**_INNER)
def _solve_block(T, L, R, b, x, W, stride):
    """As `_solve` for BLOCK columns of b and x, whose rows are `stride` numbers apart."""
    pointer, index = int32_at(T[POINTER]), int32_at(T[INDEX])
    order, n = int32_at(T[ORDER]), T[N]
    for k in range(n):
        to, row = move(W, k * BLOCK), move(b, order[k] * stride)
        for c in range(BLOCK):
            to[c] = row[c]
    for k in range(n):
        w = move(W, k * BLOCK)
        for q in range(pointer[k], pointer[k + 1]):
            to, entry = move(W, index[q] * BLOCK), L[q]
            for c in range(BLOCK):
                to[c] -= entry * w[c]
    for k in range(n - 1, -1, -1):
        w, inverse = move(W, k * BLOCK), R[k]
        for c in range(BLOCK):
            w[c] *= inverse
        for q in range(pointer[k], pointer[k + 1]):
            row, entry = move(W, index[q] * BLOCK), L[q]
            for c in range(BLOCK):
                w[c] -= entry * row[c]
    for k in range(n):
        row, to = move(W, k * BLOCK), move(x, order[k] * stride)
        for c in range(BLOCK):
            to[c] = row[c]


@njit(**_INNER)
def _suspect(T, v, L, R, sums, W, columns, z, limit):
    """Whether one solve raises the suspicion that A is singular, as in `planning.conditioning`; `sums`,
    those of |a_ij| by rows, are used up.
    """
    indptr, cols, n = int32_at(T[INDPTR]), int32_at(T[COLS]), T[N]
    for i in range(n):
        columns[i] = 0
    for i in range(n):
        for e in range(indptr[i], indptr[i + 1]):
            columns[cols[e]] += abs(v[e]) / sums[i]
        sums[i] *= z[i]
    _solve(T, L, R, sums, sums, W)
    size = 0.0
    for i in range(n):
        y = columns[i] * sums[i]
        size += y * y
    return not np.sqrt(size) < limit


@njit(**_INNER)
def _is_accurate(T, v, transposed, x, b, limits):
    """Whether bounds of both backward errors from the diagonal alone accept x, as in
    `planning.equations`.
    """
    indptr, cols = int32_at(T[INDPTR]), int32_at(T[COLS])
    diagonal, mate = int32_at(T[DIAGONAL]), int32_at(T[MATE])
    top, reach, least, finite = 0.0, 0.0, np.inf, True
    for i in range(T[N]):
        s = b[i]
        for e in range(indptr[i], indptr[i + 1]):
            s -= (v[mate[e]] if transposed else v[e]) * x[cols[e]]
        size, reached = abs(s), abs(x[i] * v[diagonal[i]])
        finite = finite and size < np.inf
        top, reach, least = max(top, size), max(reach, reached), min(least, reached)
    return finite and top <= limits[NORMWISE] * reach and top <= limits[COMPONENTWISE] * least


def factor(T, v, S):
    """Factor v (nnz,) into S; the column whose pivot is not positive, or -1."""
    for e in range(T[NNZ]):
        S[e] = v[e]
    L = move(S, T[NNZ])
    D = move(L, T[NNZ_L])
    R = move(D, T[N])
    return _factor(T, v, L, D, R, move(R, T[N]))


def solve(T, S, b, x, stride, W):
    """x = A^-1 b for `stride` columns; W has room for BLOCK n numbers."""
    L = move(S, T[NNZ])
    R = move(L, T[NNZ_L] + T[N])
    n, order = T[N], int32_at(T[ORDER])
    done = 0
    while stride - done >= BLOCK:
        _solve_block(T, L, R, move(b, done), move(x, done), W, stride)
        done += BLOCK
    for c in range(done, stride):
        for k in range(n):
            W[k] = b[order[k] * stride + c]
        _substitute(T, L, R, W)
        for k in range(n):
            x[order[k] * stride + c] = W[k]
    return 0


def forward(T, v, kept, S, b, x):
    """Factor v into S unless the factorisation at the address `kept`, if there is one, is of these
    values; x = A^-1 b; and judge both.

    Returns a sum of KEPT, if `kept` was used, and SOLVED, if x is surely accurate; or REFUSED where v
    is not finite, symmetric, definite and surely regular.
    """
    n, nnz, limits = T[N], T[NNZ], float64_at(T[LIMITS])
    F, known = S, False
    if kept != 0:
        F = like_at(kept, S)
        e = 0
        while e < nnz and v[e] == F[e]:
            e += 1
        known = e == nnz
        if not known:
            F = S
    L = move(F, nnz)
    D = move(L, T[NNZ_L])
    R = move(D, n)
    room = move(S, nnz + T[NNZ_L] + 2 * n)
    W = move(room, n)
    if not known:
        for e in range(nnz):
            S[e] = v[e]
        norm, margin = _sizes(T, v, room)
        if not norm < np.inf or not _is_symmetric(T, v, limits[SYMMETRY]):
            return REFUSED
        if _factor(T, v, L, D, R, W) >= 0:
            return REFUSED
        if not margin > limits[DOMINANCE] * norm:
            z = like_at(T[RANDOM], S)
            if _suspect(T, v, L, R, room, W, move(W, n), z, limits[SUSPICION]):
                return REFUSED
    _solve(T, L, R, b, x, W)
    return (KEPT if known else 0) + (SOLVED if _is_accurate(T, v, False, x, b, limits) else 0)


def backward(T, S, g, x, y, out):
    """y = A^-T g and out = -y_i x_j at the nonzeros; whether y is surely accurate."""
    n, nnz, limits = T[N], T[NNZ], float64_at(T[LIMITS])
    L = move(S, nnz)
    _solve(T, L, move(L, T[NNZ_L] + n), g, y, out)
    if not _is_accurate(T, S, True, y, g, limits):
        return 0
    indptr, cols = int32_at(T[INDPTR]), int32_at(T[COLS])
    for i in range(n):
        minus = -y[i]
        for e in range(indptr[i], indptr[i + 1]):
            out[e] = minus * x[cols[e]]
    return 1


def cache_path() -> str:
    """Where numba keeps what it compiles of this file."""
    return _factor.stats.cache_path


def compile_for(kind: types.Type) -> list[Any]:
    """factor, solve, forward and backward for this real type, as compiled functions with an address."""
    p, i = types.CPointer(kind), types.int64
    T = types.CPointer(i)
    signatures = (
        (factor, i(T, p, p)),
        (solve, i(T, p, p, p, i, p)),
        (forward, i(T, p, i, p, p, p)),
        (backward, i(T, p, p, p, p, p)),
    )
    return [cfunc(signature, **_OPTIONS)(function) for function, signature in signatures]
