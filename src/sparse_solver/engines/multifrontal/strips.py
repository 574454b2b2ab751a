"""Four columns of a front at a time, in whole vectors: the work on fronts that BLAS is too slow for.

A strip of rows ends with the last row of a front and takes whole vectors, so that nothing needs a
mask: where the rows are no multiple, it begins above the diagonal, where a front has room and nobody
reads. Three vectors by four columns keep as many sums in registers as AVX2 has room for, which hides
how long each multiplication takes; two vectors fill up what three don't divide. Complex numbers take
two sums for each, and one vector at a time.
"""

from __future__ import annotations

import math

from llvmlite import ir

from ..compiler import builtin, function
from ..compiler.types import constant
from .memory import move
from .scalars import is_real
from .tile import Tile
from .vectors import I64, Vectors

__all__ = [
    "ROOM", "below", "copy_vector", "corner", "corner_overhang", "four_columns", "lanes", "overhang",
    "pack", "packed", "strips", "tall",
]  # fmt: skip

ROOM = 24576  # numbers that a thread packs at a time: they stay in its cache


@builtin
def lanes(b, pointer):
    """Numbers in a vector."""
    vectors = Vectors(b, pointer.type.to)
    return constant(vectors.lanes // vectors.parts)


def _start(b, C, ldc, A, lda, B, k, height: int):
    """C, its columns' distance, and a tile with the sums of A B^H."""
    vectors = Vectors(b, C.type.to)
    kernel = Tile(b, vectors, 4, height)
    C, A, B = (vectors.real_pointer(p.llvm) for p in (C, A, B))
    parts = ir.Constant(I64, vectors.parts)
    ldc, lda = (b.mul(x.llvm, parts) for x in (ldc, lda))
    rows = [b.gep(B, [ir.Constant(I64, j * vectors.parts)]) for j in range(4)]
    kernel.product(A, lda, rows, lda, k.llvm, [None] * height)
    return C, ldc, kernel


def _subtract(height: int):
    def strip(b, C, ldc, A, lda, B, k, add):
        C, ldc, kernel = _start(b, C, ldc, A, lda, B, k, height)
        kernel.finish(C, ldc, add.llvm, [None] * height, None)

    strip.__doc__ = f"C = [C if add] - A B^H for {height} vectors of rows; B (4 x k) has A's columns."
    return builtin(strip)


def _solve(height: int):
    def strip(b, C, ldc, A, lda, B, k, L, scales):
        C, ldc, kernel = _start(b, C, ldc, A, lda, B, k, height)
        vectors, done = kernel.vectors, []
        for j in range(4):
            base, scale = b.gep(C, [b.mul(ldc, ir.Constant(I64, j))]), vectors.all(scales.item(j).llvm)
            column = []
            for v, offset in enumerate(kernel.offsets):
                x = b.fsub(vectors.load(base, offset), kernel.total(j, v))
                for p in range(j):
                    # - z conj(l) = - z re(l) + i z im(l); i (x + i y) = - y + i x
                    re, *im = L.item(j * (j - 1) // 2 + p).parts
                    x = vectors.fma(done[p][v], vectors.all(b.fneg(re)), x)
                    for i in im:
                        turned = b.fmul(vectors.swap(done[p][v]), vectors.signs(-1.0, 1.0))
                        x = vectors.fma(turned, vectors.all(i), x)
                x = b.fmul(x, scale)
                vectors.store(x, base, offset)
                column.append(x)
            done.append(column)

    strip.__doc__ = f"""C = (C - A B^H) T^-H for {height} vectors of rows, T lower triangular (4 x 4).

    L: what T has below its diagonal, by rows; scales: the diagonal's reciprocals.
    """
    return builtin(strip)


_subtract_1, _subtract_2, _subtract_3 = (_subtract(height) for height in (1, 2, 3))
_solve_1, _solve_2, _solve_3 = (_solve(height) for height in (1, 2, 3))


@function
def overhang(C, rows):
    """How many rows above the given ones strips take."""
    lane = lanes(C)
    vectors = -(-rows // lane)
    if is_real(C[0]):
        vectors = max(vectors, 2)  # two and three make up any number from two on
    return vectors * lane - rows


@function
def _pairs(vectors):
    """How many strips of two vectors leave a multiple of three."""
    return (3 - vectors % 3) % 3


@function
def strips(C, ldc, A, lda, first, k, rows, add):
    """C (rows x 4) = [C if add] - A B^H for B, the four rows of A from `first` on."""
    lane, B = lanes(C), move(A, first)
    if is_real(C[0]):
        middle = 2 * lane * _pairs(rows // lane)
        for i in range(0, middle, 2 * lane):
            _subtract_2(move(C, i), ldc, move(A, i), lda, B, k, add)
        for i in range(middle, rows, 3 * lane):
            _subtract_3(move(C, i), ldc, move(A, i), lda, B, k, add)
    else:
        for i in range(0, rows, lane):
            _subtract_1(move(C, i), ldc, move(A, i), lda, B, k, add)


@builtin
def copy_vector(b, to, given):
    """A vector of real numbers."""
    vectors, none = Vectors(b, to.type.to), ir.Constant(I64, 0)
    vectors.store(vectors.load(given.llvm, none), to.llvm, none)


@function
def tall(C):
    """Rows of a packed strip."""
    return 3 * lanes(C)


@function
def pack(P, A, lda, rows, k):
    """A (rows x k, real) in strips of three vectors, each a matrix of its own. The last ends with the
    last row; of a first that is not whole nothing is written.
    """
    height = tall(P)
    missing = -rows % height
    for s in range(1 if missing > 0 else 0, (rows + missing) // height):
        a, p = move(A, s * height - missing), move(P, s * height * k)
        for l in range(k):
            for v in range(0, height, lanes(P)):
                copy_vector(move(p, l * height + v), move(a, l * lda + v))


@function
def packed(C, ldc, P, rows, k, j, add):
    """Four columns from the j-th on of the lower triangle of C = [C if add] - A A^H, A packed in P.

    j + the rows missing in the first strip is a multiple of 4, and that strip is whole or above j.
    """
    height = tall(C)
    missing = -rows % height
    s = (j + missing) // height
    B = move(P, s * height * k + (j + missing) % height)
    c = move(C, j * ldc - missing)
    for t in range(s, (rows + missing) // height):
        _subtract_3(move(c, t * height), ldc, move(P, t * height * k), height, B, k, add)


@function
def corner_overhang(C):
    """How many rows above the four of a diagonal block a vector takes."""
    return max(lanes(C) - 4, 0)


@function
def four_columns(C, ldc, A, k, rest, above):
    """Factor four columns from the diagonal on, C = (C - A B^H), with B the first four rows of A.

    C and A are in the same panel and have `rest` rows below the diagonal block; `above` is
    their overhang. Returns 0, or 1 + the column whose pivot is not positive.
    """
    lane = lanes(C)
    if k > 0:
        for i in range(-corner_overhang(C), 4, lane):
            _subtract_1(move(C, i), ldc, move(A, i), ldc, A, k, True)
    C1, C2, C3 = move(C, ldc), move(C, 2 * ldc), move(C, 3 * ldc)
    d0 = C[0].real
    if not d0 > 0.0:
        return 1
    d0 = math.sqrt(d0)
    s0 = 1 / d0
    l10, l20, l30 = C[1] * s0, C[2] * s0, C[3] * s0
    d1 = C1[1].real - (l10 * l10.conjugate()).real
    if not d1 > 0.0:
        return 2
    d1 = math.sqrt(d1)
    s1 = 1 / d1
    l21 = (C1[2] - l20 * l10.conjugate()) * s1
    l31 = (C1[3] - l30 * l10.conjugate()) * s1
    d2 = C2[2].real - (l20 * l20.conjugate()).real - (l21 * l21.conjugate()).real
    if not d2 > 0.0:
        return 3
    d2 = math.sqrt(d2)
    s2 = 1 / d2
    l32 = (C2[3] - l30 * l20.conjugate() - l31 * l21.conjugate()) * s2
    d3 = C3[3].real - (l30 * l30.conjugate()).real - (l31 * l31.conjugate()).real
    d3 -= (l32 * l32.conjugate()).real
    if not d3 > 0.0:
        return 4
    d3 = math.sqrt(d3)
    L, scales = (l10, l20, l21, l30, l31, l32), (s0, s1, s2, 1 / d3)
    # The strips may begin within the diagonal block, which therefore is written after them.
    D, P, rows = move(C, 4 - above), move(A, 4 - above), rest + above
    if is_real(C[0]):
        middle = 2 * lane * _pairs(rows // lane)
        for i in range(0, middle, 2 * lane):
            _solve_2(move(D, i), ldc, move(P, i), ldc, A, k, L, scales)
        for i in range(middle, rows, 3 * lane):
            _solve_3(move(D, i), ldc, move(P, i), ldc, A, k, L, scales)
    else:
        for i in range(0, rows, lane):
            _solve_1(move(D, i), ldc, move(P, i), ldc, A, k, L, scales)
    C[0] = d0
    C[1] = l10
    C[2] = l20
    C[3] = l30
    C1[1] = d1
    C1[2] = l21
    C1[3] = l31
    C2[2] = d2
    C2[3] = l32
    C3[3] = d3
    return 0


@function
def corner(A, lda, width):
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
def below(A, lda, L, ldl, m, width):
    """A = A L^-H for the m rows of A (m x width), L (width x width)."""
    for c in range(width):
        a = move(A, c * lda)
        for p in range(c):
            b, x = move(A, p * lda), L[p * ldl + c].conjugate()
            for i in range(m):
                a[i] -= b[i] * x
        d = 1 / L[c * ldl + c].real
        for i in range(m):
            a[i] *= d
