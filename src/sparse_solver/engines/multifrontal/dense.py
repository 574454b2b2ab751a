"""Dense kernels on fronts: partial Cholesky and the updates that follow, small ones by our own tiles."""

from __future__ import annotations

import math

from numba import njit

from .memory import move
from .tile import tile_1, tile_4

OPTIONS = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract"}}
INNER = {**OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

__all__ = ["INNER", "OPTIONS", "columns", "panel", "update"]


@njit(**INNER)
def strip(C, ldc, A, lda, B, sj, sk, k, m, width, step, add):  # type: ignore[no-untyped-def]
    """C (m x width) = [C] - A B^H for width <= 4, tile by tile of `step` rows."""
    if width == 4:
        for i in range(0, m, step):
            tile_4(move(C, i), ldc, move(A, i), lda, B, sj, sk, k, m - i, add)
    else:
        for j in range(width):
            for i in range(0, m, step):
                tile_1(move(C, j * ldc + i), ldc, move(A, i), lda, move(B, j * sj), sj, sk, k, m - i, add)


@njit(**INNER)
def columns(C, ldc, A, lda, B, sj, sk, k, m, n, step, add):  # type: ignore[no-untyped-def]
    """C (m x n) = [C] - A B^H."""
    for j in range(0, n, 4):
        strip(move(C, j * ldc), ldc, A, lda, move(B, j * sj), sj, sk, k, m, min(4, n - j), step, add)


@njit(**INNER)
def update(C, ldc, A, lda, n, k, step, add):  # type: ignore[no-untyped-def]
    """Lower triangle of C (n x n) = [C] - A A^H; a few entries above it are overwritten."""
    for j in range(0, n, 4):
        strip(move(C, j * ldc + j), ldc, move(A, j), lda, move(A, j), 1, lda, k, n - j, min(4, n - j), step, add)


@njit(**INNER)
def _corner(A, lda, width):  # type: ignore[no-untyped-def]
    """Cholesky of a width x width block; 0, or 1 + the column whose pivot is not positive."""
    for c in range(width):
        d = A[c * lda + c].real
        for p in range(c):
            l = A[p * lda + c]
            d -= (l * l.conjugate()).real
        if not d > 0.0:
            return c + 1
        d = math.sqrt(d)
        A[c * lda + c] = d
        for i in range(c + 1, width):
            x = A[c * lda + i]
            for p in range(c):
                x -= A[p * lda + i] * A[p * lda + c].conjugate()
            A[c * lda + i] = x / d
    return 0


@njit(**INNER)
def _below(A, lda, L, ldl, m, width):  # type: ignore[no-untyped-def]
    """A = A L^-H for the m rows of A (m x width), L (width x width), width <= 4."""
    if width == 4:
        a0 = A
        a1, a2, a3 = move(a0, lda), move(a0, 2 * lda), move(a0, 3 * lda)
        d0, d1 = 1 / L[0].real, 1 / L[ldl + 1].real
        d2, d3 = 1 / L[2 * ldl + 2].real, 1 / L[3 * ldl + 3].real
        l10, l20, l30 = L[1].conjugate(), L[2].conjugate(), L[3].conjugate()
        l21, l31 = L[ldl + 2].conjugate(), L[ldl + 3].conjugate()
        l32 = L[2 * ldl + 3].conjugate()
        for i in range(m):
            x0 = a0[i] * d0
            x1 = (a1[i] - x0 * l10) * d1
            x2 = (a2[i] - x0 * l20 - x1 * l21) * d2
            x3 = (a3[i] - x0 * l30 - x1 * l31 - x2 * l32) * d3
            a0[i] = x0
            a1[i] = x1
            a2[i] = x2
            a3[i] = x3
        return
    for c in range(width):
        a = move(A, c * lda)
        for p in range(c):
            b, x = move(A, p * lda), L[p * ldl + c].conjugate()
            for i in range(m):
                a[i] -= b[i] * x
        d = 1 / L[c * ldl + c].real
        for i in range(m):
            a[i] *= d


@njit(**INNER)
def panel(A, lda, m, w, step):  # type: ignore[no-untyped-def]
    """Cholesky factorisation of the first w columns of an m-row panel, from the left, four columns
    at a time. Returns 0, or 1 + the column whose pivot is not positive.
    """
    for j in range(0, w, 4):
        width = min(4, w - j)
        block = move(A, j * lda + j)
        if j > 0:
            row = move(A, j)
            strip(block, lda, row, lda, row, 1, lda, j, m - j, width, step, True)
        bad = _corner(block, lda, width)
        if bad:
            return j + bad
        _below(move(block, width), lda, block, lda, m - j - width, width)
    return 0
