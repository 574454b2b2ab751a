"""Products of the selected inverse, of real numbers: BLAS's way, without what is not needed here.

C = [C] - A B, strip by strip of C's rows. A strip of A is brought in order, where it stays in the
first-level cache while it meets all columns of B, four at a time; these are read where they lie. A may
be symmetric with its lower triangle alone stored, or transposed. BLAS copies B too, passes over C
once more, and copies a symmetric matrix more slowly.
"""

from __future__ import annotations

from llvmlite import ir

from ..compiler import Numbers, builtin, entry, function
from .memory import move
from .strips import copy_vector, lanes
from .tile import Tile
from .vectors import I64, Vectors

__all__ = ["FULL", "LOWER", "PLAIN", "SYMMETRIC", "TRANSPOSED", "TRIANGLE", "product"]

FULL, TRIANGLE, LOWER = range(3)  # nothing known; B is a lower triangle; of C the lower part is wanted
PLAIN, SYMMETRIC, TRANSPOSED = 1 << 40, 0, -(1 << 40)
_DEEP = 192  # columns of A at a time: a strip of them leaves room for four columns of B in the cache


def _make(height: int):
    def tile(b, C, ldc, P, B, ldb, k, n, add):
        vectors = Vectors(b, C.type.to)
        kernel = Tile(b, vectors, 4, height)
        C, P, B = (vectors.real_pointer(p.llvm) for p in (C, P, B))
        last, columns = b.sub(n.llvm, ir.Constant(I64, 1)), []
        for j in range(4):
            q = ir.Constant(I64, j)
            q = b.select(b.icmp_signed("<", q, last), q, last)
            columns.append(b.gep(B, [b.mul(q, ldb.llvm)]))
        rows, none = ir.Constant(I64, height * vectors.lanes), [None] * height
        kernel.product(P, rows, columns, ir.Constant(I64, 1), k.llvm, none)
        kernel.finish(C, ldc.llvm, add.llvm, none, None)

    tile.__doc__ = f"""C = [C if add] - P B for P, a strip of {height} vectors of rows.

    B has n columns, at most four; C has four, the others as if B's last came again.
    """
    return builtin(tile)


_tile_2, _tile_3 = _make(2), _make(3)


@builtin
def _transpose(b, to, ldt, given, ldg):
    """A square of as many columns as a vector has numbers, transposed."""
    vectors = Vectors(b, to.type.to)
    side = vectors.lanes
    at, source = (vectors.real_pointer(p.llvm) for p in (to, given))
    zero = ir.Constant(I64, 0)
    columns = [
        vectors.load(b.gep(source, [b.mul(ldg.llvm, ir.Constant(I64, j))]), zero) for j in range(side)
    ]
    bit = 1
    while bit < side:  # exchange this bit of a number's row and column
        for j in range(side):
            if not j & bit:
                low, high = columns[j], columns[j + bit]
                columns[j] = vectors.pick(low, high, lambda i, s=bit: i if not i & s else side + i - s)
                columns[j + bit] = vectors.pick(
                    low, high, lambda i, s=bit: i + s if not i & s else side + i
                )
        bit *= 2
    for j, column in enumerate(columns):
        vectors.store(column, b.gep(at, [b.mul(ldt.llvm, ir.Constant(I64, j))]), zero)


@function
def _order(P, height, A, lda, turn, i, rows, first, last):
    """Columns first:last of the strip of A from row i on, one after the other."""
    step, l = lanes(P), first
    if rows == height:
        l = min(max(i + turn + 1, first), last)
        for c in range(first, l):
            for q in range(0, height, step):
                copy_vector(move(P, (c - first) * height + q), move(A, c * lda + i + q))
    while l < last:
        p, a, turned = move(P, (l - first) * height), move(A, l * lda + i), move(A, i * lda + l)
        if rows == height and l >= i + turn + height and l + step <= last:
            for q in range(0, height, step):
                _transpose(move(p, q), height, move(turned, q * lda), lda)
            l += step
        else:
            for q in range(rows):
                p[q] = a[q] if l <= i + turn + q else turned[q * lda]
            l += 1


@entry
def product(
    C: Numbers,
    ldc: int,
    A: Numbers,
    lda: int,
    turn: int,
    B: Numbers,
    ldb: int,
    m: int,
    n: int,
    k: int,
    add: int,
    shape: int,
    room: Numbers,
):
    """C (m x n) = [C if add] - A B, real; B is (k x n).

    Element (i, l) of A is at A[l lda + i] where l <= i + turn, and at A[i lda + l] elsewhere. For a
    `shape` of TRIANGLE, B is zero above its diagonal; for LOWER what is above C's may be overwritten.
    """
    step = lanes(C)
    narrow = (3 - -(-m // step) % 3) % 3  # strips of two vectors leave a multiple of three
    for first in range(0, k, _DEEP):
        last = min(first + _DEEP, k)
        i, strip = 0, 0
        while i < m:
            height = (2 if strip < narrow else 3) * step
            rows = min(height, m - i)
            _order(room, height, A, lda, turn, i, rows, first, last)
            for j in range(0, min(n, i + rows) if shape == LOWER else n, 4):
                start = max(first, j) if shape == TRIANGLE else first
                depth, columns = last - start, min(4, n - j)
                if depth <= 0:
                    break
                P, b = move(room, (start - first) * height), move(B, j * ldb + start)
                c = move(C, j * ldc + i)
                onto = add != 0 or (j < first if shape == TRIANGLE else first > 0)
                whole = rows == height and columns == 4
                to = c if whole else move(room, height * _DEEP)
                ldt = ldc if whole else height
                if height == 3 * step:
                    _tile_3(to, ldt, P, b, ldb, depth, columns, onto and whole)
                else:
                    _tile_2(to, ldt, P, b, ldb, depth, columns, onto and whole)
                if not whole:
                    for q in range(columns):
                        found, given = move(c, q * ldc), move(to, q * height)
                        for p in range(rows):
                            found[p] = found[p] + given[p] if onto else given[p]
            i += height
            strip += 1
    return 0
