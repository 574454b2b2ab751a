"""The inverse at the positions of L, from the roots down: Takahashi's recursion, front by front.

With the inverse Z of A known on the rows below a front (they are a part of its parent's front),

    Y = L21 L11^-1,   Z21 = -Z22 Y,   Z11 = (L11 L11^H)^-1 - Y^H Z21.

Panels of Z are stored like those of L. Z22 takes the place in the arena that the update matrix had when
A was factored, and everything happens in the opposite order, so that the same plan holds.

References
----------
K. Takahashi, J. Fagan, M.-S. Chen, Formation of a sparse bus impedance matrix, PICA (1973).
A. M. Erisman, W. F. Tinney, On computing certain elements of the inverse of a sparse matrix,
Commun. ACM 18 (1975). Y. E. Campbell, T. A. Davis, Computing the sparse inverse subset, TR-95-021,
University of Florida (1995).
"""

from __future__ import annotations

from ..compiler import function
from .blocks import block_start, column, update_width
from .calls import COLUMNS, GEMM, HEMM, INVERSE_BLOCK, INVERTED, OVER, PRODUCT, call_kernel, gemm, hemm
from .fronts import update_place
from .memory import move
from .product import FULL, PLAIN, SYMMETRIC
from .scalars import is_real, one_of

__all__ = ["below_front", "gather", "inverse_front"]

_SMALL = 100  # rows of Z22 up to which the simplest kernel is used, for which both triangles are filled
_TILE = 8
_MIRRORED = 200  # the same for complex numbers, and BLAS's general product


@function
def _mirrored(U):
    """Rows of Z22 up to which both its triangles are filled."""
    return _SMALL if is_real(U[0]) else _MIRRORED


@function
def _mirror(U, r):
    """The upper triangle of U (r x r) from the lower, tile by tile: each takes a few lines of cache."""
    for j0 in range(0, r, _TILE):
        for i0 in range(j0, r, _TILE):
            j1 = min(j0 + _TILE, r)
            for i in range(i0, min(i0 + _TILE, r)):
                to, source = move(U, i * r), move(U, i)
                for j in range(j0, min(j1, i)):
                    to[j] = source[j * r].conjugate()


@function
def gather(F, c, block, A, arena, kept, lane_size, lane):
    """A block of columns of Z22 of front c, from the inverse on its parent's front with the panel A."""
    p = F.up[c]
    begin = F.start[c]
    r = F.start[c + 1] - begin
    w = F.column[p + 1] - F.column[p]
    rp = F.start[p + 1] - F.start[p]
    m, b = w + rp, F.block[p]
    ub, up = update_width(r), update_width(rp)
    V = move(arena, update_place(F, p, kept, lane_size, lane))
    U = move(arena, update_place(F, c, kept, lane_size, lane))
    j0 = block * ub
    j1 = min(j0 + ub, r)
    rel = move(F.relative, begin)
    for j in range(j0, j1):
        to, q = column(U, j, ub, r), rel[j]
        source = column(A, q, b, m) if q < w else move(column(V, q - w, up, rp), -w)
        if rel[r - 1] - rel[j] == r - 1 - j:
            source = move(source, rel[j] - j)
            for i in range(j, r):
                to[i] = source[i]
        else:
            for i in range(j, r):
                to[i] = source[rel[i]]
    if ub == r and r <= _mirrored(U):
        _mirror(U, r)


@function
def _plain(A, lda, y, ldy, m, n, k, add, to, ldo, room, machine):
    """(m x n) = [itself] - A y, for A (m x k)."""
    if is_real(A[0]):
        call_kernel(machine[PRODUCT], (to, ldo, A, lda, PLAIN, y, ldy, m, n, k, add, FULL, room))
        return
    one = one_of(A)
    beta = one if add else one - one
    gemm(machine[GEMM], (78, 78, m, n, k, -one, A, lda, y, ldy, beta, to, ldo))


@function
def _hermitian(D, ldd, y, ldy, m, n, k, add, to, ldo, room, machine):
    """The same for the first m rows of a Hermitian matrix (k x k) of whose lower triangle D has the
    first m columns.
    """
    if is_real(D[0]):
        call_kernel(machine[PRODUCT], (to, ldo, D, ldd, SYMMETRIC, y, ldy, m, n, k, add, FULL, room))
        return
    one = one_of(D)
    beta = one if add else one - one
    hemm(machine[HEMM], (76, 76, m, n, -one, D, ldd, y, ldy, beta, to, ldo))
    if k > m:
        B, y = move(D, m), move(y, m)
        gemm(machine[GEMM], (67, 78, m, n, k - m, -one, B, ldd, y, ldy, one, to, ldo))


@function
def product_rows(U, r, k, Y, ldy, w, out, ldo, room, machine):
    """Rows of block k of out = -Z22 Y, for Z22 (r x r) in packed blocks."""
    b = update_width(r)
    i0 = k * b
    width = min(b, r - i0)
    to, D = move(out, i0), move(U, block_start(k, b, r))
    if b == r and r <= _mirrored(U):
        if is_real(U[0]):
            call_kernel(machine[COLUMNS], (to, ldo, D, r, Y, ldy, 1, r, r, w, False, machine))
        else:
            _plain(U, r, Y, ldy, r, w, r, False, to, ldo, room, machine)
        return
    _hermitian(D, r - i0, move(Y, i0), ldy, width, w, r - i0, False, to, ldo, room, machine)
    for q in range(k):
        B = move(U, block_start(q, b, r) + i0 - q * b)
        _plain(B, r - q * b, move(Y, q * b), ldy, width, w, b, True, to, ldo, room, machine)


@function
def inverse_front(F, s, L, X, Y, arena, kept, lane_size, lane, room, machine):
    """X, the panel of Z, for a front of one block, Z22 being there. Y is room for r x w numbers."""
    w = F.column[s + 1] - F.column[s]
    r = F.start[s + 1] - F.start[s]
    m = w + r
    A, Z21 = move(L, F.panel[s]), move(X, w)
    call_kernel(machine[INVERTED], (A, m, w, X, m, machine))
    if r > 0:
        call_kernel(machine[OVER], (move(A, w), m, X, m, w, Y, r, r, room, machine))
        U = move(arena, update_place(F, s, kept, lane_size, lane))
        for k in range(-(-r // update_width(r))):
            product_rows(U, r, k, Y, r, w, Z21, m, room, machine)
    call_kernel(machine[INVERSE_BLOCK], (X, m, w, Y, r, r, Z21, room, machine))


@function
def below_front(F, s, j, i, L, X, Y, arena, kept, lane_size, lane, room, machine):
    """Block of rows i of Z below diagonal block j of a front above all subtrees, whose panel is X.

    Blocks of rows are the panel's own blocks after j, then those of Z22. Y has the rows below and the
    columns of the block.
    """
    w = F.column[s + 1] - F.column[s]
    r = F.start[s + 1] - F.start[s]
    m, b = w + r, F.block[s]
    c0 = j * b
    c1 = min(c0 + b, w)
    width = c1 - c0
    out = move(X, block_start(j, b, m) + width)  # row c1 of the front
    ldo, ldy = m - c0, m - c1
    inner = -(-w // b) - 1 - j  # the panel's blocks of rows below
    U = move(arena, update_place(F, s, kept, lane_size, lane))
    if i >= inner:
        # Rows of Z22: the panel's columns to their left, then Z22 itself.
        k = i - inner
        ub = update_width(r)
        i0 = w + k * ub
        height = min(ub, r - k * ub)
        to = move(out, w - c1)
        product_rows(U, r, k, move(Y, w - c1), ldy, width, to, ldo, room, machine)
        to = move(out, i0 - c1)
        last = -(-w // b)
    else:
        k = j + 1 + i
        i0 = k * b
        height = min(b, w - i0)
        to = move(out, i0 - c1)
        D, y = move(X, block_start(k, b, m)), move(Y, i0 - c1)
        _hermitian(D, m - i0, y, ldy, height, width, m - i0, False, to, ldo, room, machine)
        last = k
    for q in range(j + 1, last):
        q0 = q * b
        qw = min(b, w - q0)
        B = move(X, block_start(q, b, m) + i0 - q0)
        _plain(B, m - q0, move(Y, q0 - c1), ldy, height, width, qw, True, to, ldo, room, machine)
