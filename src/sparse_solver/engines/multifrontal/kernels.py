"""Dense kernels for small fronts, behind addresses like those of BLAS.

Compiled once each and never inlined: whatever calls them stays quick to compile. Matrices are stored
by columns; `machine` is the table of addresses that `machine.py` makes.

Right-hand sides are rows of k contiguous numbers: element (i, c) of X is X[i k + c], so that a block
of rows is, to BLAS, a matrix of k rows. Nothing is conjugated in the triangular solves.
"""

from __future__ import annotations

import math

from ..compiler import Numbers, entry, function
from .calls import COLUMNS, DOWN, GEMM, POTRI, STEP, TRSM, UP, call_kernel, gemm, potri, trsm
from .memory import move
from .scalars import is_real, one_of
from .streams import dots_1, dots_2, dots_4, subtract_1, subtract_2, subtract_4
from .tile import tile_1, tile_4

__all__ = ["KERNELS"]

_LARGE = 16000  # numbers in a panel times right-hand sides from which calls of BLAS pay
_FRONT = 100  # rows of a front up to which the inverse uses plain loops
_TINY = 24  # columns up to which a triangle is inverted by plain loops


@entry
def columns(
    C: Numbers,
    ldc: int,
    A: Numbers,
    lda: int,
    B: Numbers,
    sj: int,
    sk: int,
    k: int,
    m: int,
    n: int,
    add: int,
    machine,
):
    """C (m x n) = [C if add] - A B^H; element (j, l) of B at B[j sj + l sk]."""
    step = machine[STEP]
    j = 0
    while j + 3 < n:
        for i in range(0, m, step):
            c, b = move(C, j * ldc + i), move(B, j * sj)
            tile_4(c, ldc, move(A, i), lda, b, sj, sk, k, m - i, add != 0)
        j += 4
    while j < n:
        for i in range(0, m, step):
            c, b = move(C, j * ldc + i), move(B, j * sj)
            tile_1(c, ldc, move(A, i), lda, b, sj, sk, k, m - i, add != 0)
        j += 1
    return 0


@entry
def update(C: Numbers, ldc: int, A: Numbers, lda: int, n: int, k: int, add: int, machine):
    """Lower triangle of C (n x n) = [C if add] - A A^H; a few entries above are overwritten."""
    for j in range(0, n, 4):
        c, a, width = move(C, j * (ldc + 1)), move(A, j), min(4, n - j)
        call_kernel(machine[COLUMNS], (c, ldc, a, lda, a, 1, lda, k, n - j, width, add, machine))
    return 0


@function
def _corner(A, lda, width):
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


@function
def _below(A, lda, L, ldl, m, width):
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


@entry
def panel(A: Numbers, lda: int, m: int, w: int, machine):
    """Cholesky factorisation of the first w columns of an m-row panel, from the left, four columns
    at a time. Returns 0, or 1 + the column whose pivot is not positive.
    """
    for j in range(0, w, 4):
        width = min(4, w - j)
        block = move(A, j * (lda + 1))
        if j > 0:
            row = move(A, j)
            call_kernel(
                machine[COLUMNS], (block, lda, row, lda, row, 1, lda, j, m - j, width, 1, machine)
            )
        bad = _corner(block, lda, width)
        if bad:
            return j + bad
        _below(move(block, width), lda, block, lda, m - j - width, width)
    return 0


@function
def _subtract(M, ldl, r, w, x, y):
    """y -= M x for M (r x w)."""
    j = 0
    while j + 3 < w:
        subtract_4(y, move(M, j * ldl), ldl, r, move(x, j))
        j += 4
    if j + 1 < w:
        subtract_2(y, move(M, j * ldl), ldl, r, move(x, j))
        j += 2
    if j < w:
        subtract_1(y, move(M, j * ldl), ldl, r, move(x, j))


@function
def _subtract_transposed(M, ldl, r, w, y, x):
    """x -= M^T y for M (r x w)."""
    j = 0
    while j + 3 < w:
        dots_4(y, move(M, j * ldl), ldl, r, move(x, j))
        j += 4
    if j + 1 < w:
        dots_2(y, move(M, j * ldl), ldl, r, move(x, j))
        j += 2
    if j < w:
        dots_1(y, move(M, j * ldl), ldl, r, move(x, j))


@entry
def down(L: Numbers, ldl: int, m: int, w: int, x: Numbers, machine):
    """One column: the first w of m numbers x by L^-1, and those below less L21 times them."""
    j = 0
    while j < w:
        D, y, width = move(L, j * (ldl + 1)), move(x, j), min(4, w - j)
        y[0] *= 1 / D[0].real
        if width > 1:
            y[1] = (y[1] - D[1] * y[0]) * (1 / D[ldl + 1].real)
        if width > 2:
            C = move(D, 2 * ldl)
            y[2] = (y[2] - D[2] * y[0] - D[ldl + 2] * y[1]) * (1 / C[2].real)
        if width > 3:
            C = move(D, 2 * ldl)
            z = y[3] - D[3] * y[0] - D[ldl + 3] * y[1]
            y[3] = (z - C[3] * y[2]) * (1 / C[ldl + 3].real)
        _subtract(move(D, width), ldl, m - j - width, width, y, move(y, width))
        j += width
    return 0


@entry
def up(L: Numbers, ldl: int, m: int, w: int, x: Numbers, machine):
    """One column: the first w of m numbers x, less L21^T times those below, by L^-T."""
    j = (w - 1) // 4 * 4
    while j >= 0:
        D, y, width = move(L, j * (ldl + 1)), move(x, j), min(4, w - j)
        _subtract_transposed(move(D, width), ldl, m - j - width, width, move(y, width), y)
        if width > 3:
            y[3] *= 1 / D[3 * ldl + 3].real
            y[2] -= D[2 * ldl + 3] * y[3]
            y[1] -= D[ldl + 3] * y[3]
            y[0] -= D[3] * y[3]
        if width > 2:
            y[2] *= 1 / D[2 * ldl + 2].real
            y[1] -= D[ldl + 2] * y[2]
            y[0] -= D[2] * y[2]
        if width > 1:
            y[1] *= 1 / D[ldl + 1].real
            y[0] -= D[1] * y[1]
        y[0] *= 1 / D[0].real
        j -= 4
    return 0


@function
def _leading(L, ldl, j, width, X, k):
    """Solve with the width x width block of L at j, forwards."""
    for c in range(j, j + width):
        y = move(X, c * k)
        for p in range(j, c):
            l, z = L[p * ldl + c], move(X, p * k)
            for i in range(k):
                y[i] -= l * z[i]
        d = 1 / L[c * ldl + c].real
        for i in range(k):
            y[i] *= d


@entry
def forwards(L: Numbers, ldl: int, w: int, X: Numbers, k: int, machine):
    """X = L^-1 X for L (w x w)."""
    if k == 1:
        return call_kernel(machine[DOWN], (L, ldl, w, w, X, machine))
    if w * w * k > _LARGE or not is_real(L[0]):
        one = one_of(L)
        trsm(machine[TRSM], (82, 76, 84, 78, k, w, one, L, ldl, X, k))
        return 0
    for j in range(0, w, 4):
        width = min(4, w - j)
        if j > 0:
            l, x = move(L, j), move(X, j * k)
            call_kernel(machine[COLUMNS], (x, k, X, k, l, 1, ldl, j, k, width, 1, machine))
        _leading(L, ldl, j, width, X, k)
    return 0


@entry
def times(M: Numbers, ldl: int, r: int, w: int, X: Numbers, Y: Numbers, k: int, machine):
    """Y (r x k) = -M X for M (r x w)."""
    if k == 1:
        for i in range(r):
            Y[i] = 0
        _subtract(M, ldl, r, w, X, Y)
    elif r * w * k > _LARGE or not is_real(M[0]):
        one = one_of(M)
        gemm(machine[GEMM], (78, 84, k, r, w, -one, X, k, M, ldl, one - one, Y, k))
    else:
        call_kernel(machine[COLUMNS], (Y, k, X, k, M, 1, ldl, w, k, r, 0, machine))
    return 0


@entry
def transposed_times(M: Numbers, ldl: int, r: int, w: int, Y: Numbers, X: Numbers, k: int, machine):
    """X -= M^T Y for M (r x w)."""
    if k == 1:
        _subtract_transposed(M, ldl, r, w, Y, X)
    elif r * w * k > _LARGE or not is_real(M[0]):
        one = one_of(M)
        gemm(machine[GEMM], (78, 78, k, w, r, -one, Y, k, M, ldl, one, X, k))
    else:
        call_kernel(machine[COLUMNS], (X, k, Y, k, M, ldl, 1, r, k, w, 1, machine))
    return 0


@function
def _trailing(L, ldl, j, width, X, k):
    """Solve with the transposed width x width block of L at j, backwards."""
    for c in range(j + width - 1, j - 1, -1):
        y = move(X, c * k)
        for p in range(c + 1, j + width):
            l, z = L[c * ldl + p], move(X, p * k)
            for i in range(k):
                y[i] -= l * z[i]
        d = 1 / L[c * ldl + c].real
        for i in range(k):
            y[i] *= d


@entry
def backwards(L: Numbers, ldl: int, w: int, X: Numbers, k: int, machine):
    """X = L^-T X for L (w x w)."""
    if k == 1:
        return call_kernel(machine[UP], (L, ldl, w, w, X, machine))
    if w * w * k > _LARGE or not is_real(L[0]):
        one = one_of(L)
        trsm(machine[TRSM], (82, 76, 78, 78, k, w, one, L, ldl, X, k))
        return 0
    for j in range((w - 1) // 4 * 4, -1, -4):
        width = min(4, w - j)
        rest = w - j - width
        if rest > 0:
            l, x, y = move(L, j * ldl + j + width), move(X, j * k), move(X, (j + width) * k)
            call_kernel(machine[COLUMNS], (x, k, y, k, l, ldl, 1, rest, k, width, 1, machine))
        _trailing(L, ldl, j, width, X, k)
    return 0


@entry
def over(L: Numbers, ldl: int, w: int, Y: Numbers, ldy: int, r: int, machine):
    """Y = Y L^-1 for Y (r x w)."""
    if w + r > _FRONT or not is_real(L[0]):
        one = one_of(L)
        trsm(machine[TRSM], (82, 76, 78, 78, r, w, one, L, ldl, Y, ldy))
        return 0
    for j in range((w - 1) // 4 * 4, -1, -4):
        width = min(4, w - j)
        rest = w - j - width
        if rest > 0:
            l, x, y = move(L, j * ldl + j + width), move(Y, j * ldy), move(Y, (j + width) * ldy)
            call_kernel(machine[COLUMNS], (x, ldy, y, ldy, l, ldl, 1, rest, r, width, 1, machine))
        for c in range(j + width - 1, j - 1, -1):
            y = move(Y, c * ldy)
            for p in range(c + 1, j + width):
                a, z = L[c * ldl + p], move(Y, p * ldy)
                for i in range(r):
                    y[i] -= a * z[i]
            d = 1 / L[c * ldl + c].real
            for i in range(r):
                y[i] *= d
    return 0


@entry
def inverse_block(
    L: Numbers,
    ldl: int,
    w: int,
    Y: Numbers,
    ldy: int,
    r: int,
    Z21: Numbers,
    Z: Numbers,
    ldz: int,
    machine,
):
    """Lower triangle of Z (w x w) = (L L^H)^-1 - Y^H Z21; what is above it may be overwritten."""
    one = one_of(L)
    if w <= _TINY:
        for j in range(w):  # W = L^-1, column by column
            Z[j * ldz + j] = 1 / L[j * ldl + j].real
            for i in range(j + 1, w):
                x = one - one
                for p in range(j, i):
                    x -= L[p * ldl + i] * Z[j * ldz + p]
                Z[j * ldz + i] = x / L[i * ldl + i].real
        for j in range(w):  # W^H W; row i of column j needs rows i and below alone
            for i in range(j, w):
                x = one - one
                for p in range(i, w):
                    x += Z[i * ldz + p].conjugate() * Z[j * ldz + p]
                Z[j * ldz + i] = x
    else:
        for j in range(w):
            for i in range(j, w):
                Z[j * ldz + i] = L[j * ldl + i]
        potri(machine[POTRI], (76, w, Z, ldz, 0))
    if r == 0:
        return 0
    if is_real(L[0]) and w + r <= _FRONT:
        for j in range(w):
            y = move(Z21, j * ldz)
            _subtract_transposed(move(Y, j * ldy), ldy, r, w - j, y, move(Z, j * (ldz + 1)))
        return 0
    for j in range(0, w, 64):
        width = min(64, w - j)
        y, z, to = move(Y, j * ldy), move(Z21, j * ldz), move(Z, j * (ldz + 1))
        gemm(machine[GEMM], (67, 78, w - j, width, r, -one, y, ldy, z, ldz, one, to, ldz))
    return 0


# In the order of their places in `machine`, after BLAS's.
KERNELS = (
    columns, update, panel, forwards, backwards, times, transposed_times, over, inverse_block,
    down, up,
)  # fmt: skip
