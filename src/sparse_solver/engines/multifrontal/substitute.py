"""Triangular substitution with one panel: L Y = X forwards, L^T Y = X backwards.

Right-hand sides are rows of k contiguous numbers: element (i, c) of X is X[i k + c], so that a block
of rows is, to BLAS, a matrix of k rows in columns. L (w x w) and the rows M below it (r x w) lie in
one array with leading dimension ldl. Nothing is conjugated.
"""

from __future__ import annotations

from numba import njit, types
from numba.extending import overload

from .blas import GEMM, TRSM, gemm, trsm
from .dense import INNER, columns, strip
from .memory import move

__all__ = ["backwards", "forwards", "times", "transposed_times"]

_LARGE = 16000  # numbers in a panel times right-hand sides from which calls of BLAS pay
SUMS = {**INNER, "fastmath": {"contract", "reassoc", "nsz"}}  # dot products may be vectorised


def is_real(one):  # type: ignore[no-untyped-def]
    """Whether a number is real, decided when compiling."""
    raise NotImplementedError


@overload(is_real)
def _is_real(one):  # type: ignore[no-untyped-def]
    answer = not isinstance(one, types.Complex)
    return lambda one: answer


@njit(**INNER)
def forwards(L, ldl, w, X, k, blas, one, step):  # type: ignore[no-untyped-def]
    """X = L^-1 X."""
    if k > 1 and (w * w * k > _LARGE or not is_real(one)):
        trsm(blas[TRSM], (82, 76, 84, 78, k, w, one, L, ldl, X, k))
        return
    for j in range(0, w, 4):
        width = min(4, w - j)
        if k > 1 and j > 0 and is_real(one):
            strip(move(X, j * k), k, X, k, move(L, j), 1, ldl, j, k, width, step, True)
        for c in range(j, j + width):
            y = move(X, c * k)
            for p in range(j, c):
                l, z = L[p * ldl + c], move(X, p * k)
                for i in range(k):
                    y[i] -= l * z[i]
            d = 1 / L[c * ldl + c].real
            for i in range(k):
                y[i] *= d
        if k == 1 and j + 4 < w:
            _subtract(move(L, j * ldl + j + 4), ldl, w - j - 4, 4, move(X, j), move(X, j + 4))


@njit(**INNER)
def _subtract(M, ldl, r, w, x, y):  # type: ignore[no-untyped-def]
    """y -= M x for M (r x w)."""
    j = 0
    while j + 3 < w:
        m0 = move(M, j * ldl)
        m1, m2, m3 = move(m0, ldl), move(m0, 2 * ldl), move(m0, 3 * ldl)
        x0, x1, x2, x3 = x[j], x[j + 1], x[j + 2], x[j + 3]
        for i in range(r):
            y[i] -= m0[i] * x0 + m1[i] * x1 + m2[i] * x2 + m3[i] * x3
        j += 4
    while j < w:
        m0, x0 = move(M, j * ldl), x[j]
        for i in range(r):
            y[i] -= m0[i] * x0
        j += 1


@njit(**INNER)
def times(M, ldl, r, w, X, Y, k, blas, one, step):  # type: ignore[no-untyped-def]
    """Y (r x k) = -M X."""
    if k == 1:
        for i in range(r):
            Y[i] = 0
        _subtract(M, ldl, r, w, X, Y)
    elif r * w * k > _LARGE or not is_real(one):
        gemm(blas[GEMM], (78, 84, k, r, w, -one, X, k, M, ldl, one - one, Y, k))
    elif is_real(one):
        columns(Y, k, X, k, M, 1, ldl, w, k, r, step, False)


@njit(**SUMS)
def _subtract_transposed(M, ldl, r, w, y, x):  # type: ignore[no-untyped-def]
    """x -= M^T y for M (r x w)."""
    j = 0
    while j + 3 < w:
        m0 = move(M, j * ldl)
        m1, m2, m3 = move(m0, ldl), move(m0, 2 * ldl), move(m0, 3 * ldl)
        s0, s1, s2, s3 = x[j], x[j + 1], x[j + 2], x[j + 3]
        for i in range(r):
            s0 -= m0[i] * y[i]
            s1 -= m1[i] * y[i]
            s2 -= m2[i] * y[i]
            s3 -= m3[i] * y[i]
        x[j], x[j + 1], x[j + 2], x[j + 3] = s0, s1, s2, s3
        j += 4
    while j < w:
        m0, s0 = move(M, j * ldl), x[j]
        for i in range(r):
            s0 -= m0[i] * y[i]
        x[j] = s0
        j += 1


@njit(**INNER)
def transposed_times(M, ldl, r, w, Y, X, k, blas, one, step):  # type: ignore[no-untyped-def]
    """X -= M^T Y."""
    if k == 1:
        _subtract_transposed(M, ldl, r, w, Y, X)
    elif r * w * k > _LARGE or not is_real(one):
        gemm(blas[GEMM], (78, 78, k, w, r, -one, Y, k, M, ldl, one, X, k))
    elif is_real(one):
        columns(X, k, Y, k, M, ldl, 1, r, k, w, step, True)


@njit(**INNER)
def backwards(L, ldl, w, X, k, blas, one, step):  # type: ignore[no-untyped-def]
    """X = L^-T X."""
    if k > 1 and (w * w * k > _LARGE or not is_real(one)):
        trsm(blas[TRSM], (82, 76, 78, 78, k, w, one, L, ldl, X, k))
        return
    for j in range((w - 1) // 4 * 4, -1, -4):
        width = min(4, w - j)
        rest = w - j - width
        below, y = move(L, j * ldl + j + width), move(X, (j + width) * k)
        if k == 1:
            _subtract_transposed(below, ldl, rest, width, y, move(X, j))
        elif rest > 0 and is_real(one):
            strip(move(X, j * k), k, y, k, below, ldl, 1, rest, k, width, step, True)
        for c in range(j + width - 1, j - 1, -1):
            y = move(X, c * k)
            for p in range(c + 1, j + width):
                l, z = L[c * ldl + p], move(X, p * k)
                for i in range(k):
                    y[i] -= l * z[i]
            d = 1 / L[c * ldl + c].real
            for i in range(k):
                y[i] *= d
