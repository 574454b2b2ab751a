"""Kernels of substitution, behind addresses like those of `kernels`.

One column is a stream of the factor through the processor (`streams`). Of several, rows of X are
contiguous: element (i, c) of X is X[i k + c], so that a block of rows is, to BLAS, a matrix of k
rows. k is then a number of whole vectors. Nothing is conjugated.
"""

from __future__ import annotations

from ..compiler import Int32s, Numbers, entry, function
from .calls import DOWN, FRONT_DOWN, FRONT_UP, GEMM, TRSM, UP, call_kernel, gemm, trsm
from .memory import int32_at, move
from .scalars import one_of
from .streams import dots_1, dots_2, dots_4, subtract_1, subtract_2, subtract_4
from .wide import subtract_below, triangle_down, triangle_up

__all__ = [
    "backwards", "down", "forwards", "front_down", "front_up", "subtract", "subtract_transposed",
    "times", "transposed_times", "up",
]  # fmt: skip

_LARGE = 200000  # numbers in a triangle times right-hand sides from which calls of BLAS pay


@function
def subtract(M, ldl, r, w, x, y):
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
def subtract_transposed(M, ldl, r, w, y, x):
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
        subtract(move(D, width), ldl, m - j - width, width, y, move(y, width))
        j += width
    return 0


@entry
def up(L: Numbers, ldl: int, m: int, w: int, x: Numbers, machine):
    """One column: the first w of m numbers x, less L21^T times those below, by L^-T."""
    j = (w - 1) // 4 * 4
    while j >= 0:
        D, y, width = move(L, j * (ldl + 1)), move(x, j), min(4, w - j)
        subtract_transposed(move(D, width), ldl, m - j - width, width, move(y, width), y)
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


@entry
def front_down(
    L: Numbers, ldl: int, w: int, r: int, x: Numbers, X: Numbers, reach: Int32s, k: int, machine
):
    """x = L11^-1 x (w rows), and row reach[p] of X less row p of L21 x, for r of them."""
    for j in range(0, w, 4):
        triangle_down(L, ldl, j, w - j, x, k)
    for p in range(0, r, 4):
        subtract_below(move(L, w + p), ldl, w, x, X, move(reach, p), r - p, k)
    return 0


@entry
def front_up(
    L: Numbers, ldl: int, w: int, r: int, x: Numbers, X: Numbers, rows: Int32s, k: int, machine
):
    """x = L11^-T (x - L21^T y) for the r rows y of X that `rows` names."""
    for j in range((w - 1) // 4 * 4, -1, -4):
        triangle_up(L, ldl, w, r, j, w - j, x, X, rows, k)
    return 0


@entry
def forwards(L: Numbers, ldl: int, w: int, X: Numbers, k: int, machine):
    """X = L^-1 X for L (w x w)."""
    if k == 1:
        return call_kernel(machine[DOWN], (L, ldl, w, w, X, machine))
    if w * w * k > _LARGE:
        trsm(machine[TRSM], (82, 76, 84, 78, k, w, one_of(L), L, ldl, X, k))
        return 0
    return call_kernel(machine[FRONT_DOWN], (L, ldl, w, 0, X, X, int32_at(0), k, machine))


@entry
def backwards(L: Numbers, ldl: int, w: int, X: Numbers, k: int, machine):
    """X = L^-T X for L (w x w)."""
    if k == 1:
        return call_kernel(machine[UP], (L, ldl, w, w, X, machine))
    if w * w * k > _LARGE:
        trsm(machine[TRSM], (82, 76, 78, 78, k, w, one_of(L), L, ldl, X, k))
        return 0
    return call_kernel(machine[FRONT_UP], (L, ldl, w, 0, X, X, int32_at(0), k, machine))


@entry
def times(M: Numbers, ldl: int, r: int, w: int, X: Numbers, Y: Numbers, add: int, k: int, machine):
    """Y (r x k) = [Y if add] - M X for M (r x w); one column is always added."""
    if k == 1:
        subtract(M, ldl, r, w, X, Y)
    else:
        one = one_of(M)
        beta = one if add != 0 else one - one
        gemm(machine[GEMM], (78, 84, k, r, w, -one, X, k, M, ldl, beta, Y, k))
    return 0


@entry
def transposed_times(M: Numbers, ldl: int, r: int, w: int, Y: Numbers, X: Numbers, k: int, machine):
    """X -= M^T Y for M (r x w)."""
    if k == 1:
        subtract_transposed(M, ldl, r, w, Y, X)
    else:
        one = one_of(M)
        gemm(machine[GEMM], (78, 78, k, w, r, -one, Y, k, M, ldl, one, X, k))
    return 0
