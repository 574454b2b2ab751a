"""Dense kernels for small fronts, behind addresses like those of BLAS.

Compiled once each and never inlined: whatever calls them stays quick to compile. Matrices are stored
by columns; `machine` is the table of addresses that `machine.py` makes.
"""

from __future__ import annotations

from ..compiler import Numbers, entry, function
from .calls import COLUMNS, GEMM, POTRI, STEP, TRSM, call_kernel, gemm, potri, trsm
from .memory import move
from .scalars import is_real, one_of
from .strips import (
    ROOM,
    below,
    corner,
    corner_overhang,
    four_columns,
    overhang,
    pack,
    packed,
    strips,
    tall,
)
from .substitution import (
    backwards,
    down,
    forwards,
    front_down,
    front_up,
    subtract_transposed,
    times,
    transposed_times,
    up,
)  # fmt: skip
from .tile import tile_1, tile_4

__all__ = ["KERNELS"]

_PACKED = 64  # rows of a product from which packing pays
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
def update(
    C: Numbers,
    ldc: int,
    A: Numbers,
    lda: int,
    m: int,
    n: int,
    k: int,
    add: int,
    P: Numbers,
    machine,
):
    """Lower trapezoid of C (m x n) = [C if add] - A A1^H, A1 being the first n rows of A; entries above
    it are overwritten. P has room for what `pack` makes of A.
    """
    j = 0
    if is_real(C[0]) and m >= _PACKED:
        height = tall(C)
        j = -m % height
        j = height - j if j > 0 else 0  # those within the first strip are left to the loop below
        parts = -(-k // max(ROOM // (m + height), 1))
        deep = -(-k // parts)
        for l in range(0, k, deep):
            depth = min(deep, k - l)
            pack(P, move(A, l * lda), lda, m, depth)
            for c in range(j, n - 3, 4):
                packed(C, ldc, P, m, depth, c, add != 0 or l > 0)
        _narrow(C, ldc, A, lda, m, j + max(n - j, 0) // 4 * 4, n, k, add, machine)
        n = min(n, j)
    _narrow(C, ldc, A, lda, m, 0, n, k, add, machine)
    return 0


@function
def _narrow(C, ldc, A, lda, m, first, last, k, add, machine):
    """Columns first:last of `update`."""
    for j in range(first, last, 4):
        width, above = min(4, last - j), overhang(C, m - j)
        if width == 4 and above <= j:
            c, a = move(C, j * (ldc + 1) - above), move(A, j - above)
            strips(c, ldc, a, lda, above, k, m - j + above, add != 0)
        else:
            c, a = move(C, j * (ldc + 1)), move(A, j)
            call_kernel(machine[COLUMNS], (c, ldc, a, lda, a, 1, lda, k, m - j, width, add, machine))


@entry
def panel(A: Numbers, lda: int, m: int, w: int, machine):
    """Cholesky factorisation of the first w columns of an m-row panel, from the left, four columns
    at a time. Returns 0, or 1 + the column whose pivot is not positive; entries above the diagonal are
    overwritten.
    """
    for j in range(0, w, 4):
        width, rest = min(4, w - j), m - j - 4
        block, row = move(A, j * (lda + 1)), move(A, j)
        above = overhang(A, rest)
        if width == 4 and rest > 0 and above <= j + 4 and (j == 0 or corner_overhang(A) <= j):
            bad = four_columns(block, lda, row, j, rest, above)
            if bad:
                return j + bad
            continue
        if j > 0:
            call_kernel(
                machine[COLUMNS], (block, lda, row, lda, row, 1, lda, j, m - j, width, 1, machine)
            )
        bad = corner(block, lda, width)
        if bad:
            return j + bad
        below(move(block, width), lda, block, lda, m - j - width, width)
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
            subtract_transposed(move(Y, j * ldy), ldy, r, w - j, y, move(Z, j * (ldz + 1)))
        return 0
    for j in range(0, w, 64):
        width = min(64, w - j)
        y, z, to = move(Y, j * ldy), move(Z21, j * ldz), move(Z, j * (ldz + 1))
        gemm(machine[GEMM], (67, 78, w - j, width, r, -one, y, ldy, z, ldz, one, to, ldz))
    return 0


# In the order of their places in `machine`, after BLAS's.
KERNELS = (
    columns, update, panel, forwards, backwards, times, transposed_times, over, inverse_block,
    down, up, front_down, front_up,
)  # fmt: skip
