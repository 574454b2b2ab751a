"""Kernels of the selected inverse: the inverse of a triangle, a product with it, and its square.

What is kept is W = -L^-1, since the products that others are built on subtract.
"""

from __future__ import annotations

from ..compiler import Numbers, entry
from .calls import COLUMNS, GEMM, LAUUM, PRODUCT, TRTRI, call_kernel, gemm, lauum, trtri
from .memory import move
from .product import LOWER, PLAIN, TRANSPOSED, TRIANGLE
from .scalars import is_real, one_of
from .substitution import subtract_transposed

__all__ = ["inverse_block", "inverted", "over"]

_FRONT = 100  # rows of a front up to which our own kernels are used
_TINY = 24  # columns up to which a triangle is inverted by plain loops
_PIECE = 64  # columns of a product with a triangle: half of such a square is wasted on zeros


@entry
def inverted(L: Numbers, ldl: int, w: int, W: Numbers, ldw: int, machine):
    """W = -L^-1 (w x w), with zeros above the diagonal."""
    zero = one_of(L) - one_of(L)
    for j in range(w):
        to = move(W, j * ldw)
        for i in range(j):
            to[i] = zero
        if w > _TINY:
            l = move(L, j * ldl)
            for i in range(j, w):
                to[i] = -l[i]
            continue
        to[j] = -1 / L[j * ldl + j].real
        for i in range(j + 1, w):  # by columns of L, so that a column of W is one of numbers to come
            to[i] = zero
        for p in range(j, w):
            l = move(L, p * ldl)
            if p > j:
                to[p] = to[p] / l[p].real
            x = to[p]
            for i in range(p + 1, w):
                to[i] -= l[i] * x
    if w > _TINY:
        trtri(machine[TRTRI], (76, 78, w, W, ldw, 0))
    return 0


@entry
def over(
    A: Numbers,
    lda: int,
    W: Numbers,
    ldw: int,
    w: int,
    Y: Numbers,
    ldy: int,
    r: int,
    room: Numbers,
    machine,
):
    """Y = A L^-1 = -A W for A (r x w). `room` is for ROOM numbers (see `strips`), here and below."""
    if is_real(A[0]) and w + r > _FRONT:
        call_kernel(machine[PRODUCT], (Y, ldy, A, lda, PLAIN, W, ldw, r, w, w, False, TRIANGLE, room))
        return 0
    if not is_real(A[0]):
        one = one_of(A)
        for j in range(0, w, _PIECE):
            width, first = min(_PIECE, w - j), move(W, j * (ldw + 1))
            a, y = move(A, j * lda), move(Y, j * ldy)
            gemm(
                machine[GEMM],
                (78, 78, r, width, w - j, -one, a, lda, first, ldw, one - one, y, ldy),
            )
        return 0
    for j in range(0, w, 4):
        width, first = min(4, w - j), move(W, j * (ldw + 1))
        a, y = move(A, j * lda), move(Y, j * ldy)
        call_kernel(machine[COLUMNS], (y, ldy, a, lda, first, ldw, 1, w - j, r, width, 0, machine))
    return 0


@entry
def inverse_block(
    Z: Numbers, ldz: int, w: int, Y: Numbers, ldy: int, r: int, Z21: Numbers, room: Numbers, machine
):
    """Lower triangle of Z (w x w) = Z^H Z - Y^H Z21, for a lower triangle Z that `inverted` left there;
    what is above it may be overwritten.
    """
    one = one_of(Z)
    if w <= _TINY:
        for j in range(w):  # row i of column j needs rows i and below alone
            for i in range(j, w):
                x = one - one
                for p in range(i, w):
                    x += Z[i * ldz + p].conjugate() * Z[j * ldz + p]
                Z[j * ldz + i] = x
    else:
        lauum(machine[LAUUM], (76, w, Z, ldz, 0))
    if r == 0:
        return 0
    if is_real(Z[0]) and w + r <= _FRONT:
        for j in range(w):
            y = move(Z21, j * ldz)
            subtract_transposed(move(Y, j * ldy), ldy, r, w - j, y, move(Z, j * (ldz + 1)))
        return 0
    if is_real(Z[0]):
        call_kernel(
            machine[PRODUCT], (Z, ldz, Y, ldy, TRANSPOSED, Z21, ldz, w, w, r, True, LOWER, room)
        )
        return 0
    for j in range(0, w, _PIECE):
        width = min(_PIECE, w - j)
        y, z, to = move(Y, j * ldy), move(Z21, j * ldz), move(Z, j * (ldz + 1))
        gemm(machine[GEMM], (67, 78, w - j, width, r, -one, y, ldy, z, ldz, one, to, ldz))
    return 0
