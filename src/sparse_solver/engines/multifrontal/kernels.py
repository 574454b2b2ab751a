"""Dense kernels for small fronts, behind addresses like those of BLAS.

Compiled once each and never inlined: whatever calls them stays quick to compile. Matrices are stored
by columns; `machine` is the table of addresses that `machine.py` makes.
"""

from __future__ import annotations

from ..compiler import Numbers, entry, function
from .calls import COLUMNS, STEP, call_kernel
from .inversion import inverse_block, inverted, over
from .memory import move
from .product import product
from .scalars import is_real
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
    times,
    transposed_times,
    up,
)  # fmt: skip
from .tile import tile_1, tile_4

__all__ = ["KERNELS"]

_PACKED = 64  # rows of a product from which packing pays


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


# In the order of their places in `machine`, after BLAS's.
KERNELS = (
    columns, update, panel, forwards, backwards, times, transposed_times, over, inverse_block,
    inverted, down, up, front_down, front_up, product,
)  # fmt: skip
