"""A few columns times a vector, and their inner products with one: the work of a solve with a single
right-hand side.

It does two flops for each number of the factor, so that memory decides and, on small fronts, what it
costs to enter and leave a loop. In LLVM's language for the latter: whole vectors, two at a time, then
one, then one under a mask. A compiler's loop would first compare pointers and end with single numbers.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from ..compiler import builtin
from .vectors import I64, Vectors

__all__ = ["dots_1", "dots_2", "dots_4", "subtract_1", "subtract_2", "subtract_4"]


def _along(builder, vectors: Vectors, count, body: Callable) -> None:
    """body(which of two, offset, left) for all vectors of `count` real numbers, in order; `left` is the
    number of lanes that count in the last one, and None for whole vectors.
    """
    b, lanes = builder, vectors.lanes
    one, two = ir.Constant(I64, lanes), ir.Constant(I64, 2 * lanes)
    pairs = b.udiv(count, two)
    with b.count(pairs) as pair:
        first = b.mul(pair, two)
        body(0, first, None)
        body(1, b.add(first, one), None)
    done = b.mul(pairs, two)
    left = b.sub(count, done)
    with b.if_then(b.icmp_signed(">=", left, one)):
        body(0, done, None)
    done = b.mul(b.udiv(count, one), one)
    left = b.sub(count, done)
    with b.if_then(b.icmp_signed(">", left, ir.Constant(I64, 0))):
        body(1, done, left)


def _real(builder, vectors: Vectors, pointers, counts):
    """Pointers to, and counts of, real numbers."""
    parts = ir.Constant(I64, vectors.parts)
    return [*map(vectors.real_pointer, pointers), *(builder.mul(c, parts) for c in counts)]


def _subtract(builder, vectors: Vectors, columns: int, y, M, x, ldl, rows) -> None:
    b = builder
    factors = []
    for j in range(columns):
        re, *im = (
            b.load(b.gep(x, [ir.Constant(I64, vectors.parts * j + p)])) for p in range(vectors.parts)
        )
        # - x m = - re(x) m + im(x) (im(m), - re(m))
        turn = [b.fmul(vectors.all(i), vectors.signs(1.0, -1.0)) for i in im]
        factors.append((b.fsub(vectors.signs(-0.0, -0.0), vectors.all(re)), *turn))
    bases = [b.gep(M, [b.mul(ldl, ir.Constant(I64, j))]) for j in range(columns)]

    def body(_, offset, left):
        mask = None if left is None else vectors.mask(left)
        total = vectors.load(y, offset, mask)
        for base, (re, *turn) in zip(bases, factors, strict=True):
            m = vectors.load(base, offset, mask)
            total = vectors.fma(m, re, total)
            for t in turn:
                total = vectors.fma(vectors.swap(m), t, total)
        if left is None:
            vectors.store(total, y, offset)
        else:
            vectors.store_first(total, y, offset, left)

    _along(b, vectors, rows, body)


def _dots(builder, vectors: Vectors, columns: int, y, M, x, ldl, rows) -> None:
    b, parts = builder, vectors.parts
    sums = [[[b.slot(vectors.kind) for _ in range(2)] for _ in range(parts)] for _ in range(columns)]
    for slot in (s for column in sums for pair in column for s in pair):
        b.store(vectors.zero, slot)
    bases = [b.gep(M, [b.mul(ldl, ir.Constant(I64, j))]) for j in range(columns)]

    def body(which, offset, left):
        mask = None if left is None else vectors.mask(left)
        v = vectors.load(y, offset, mask)
        forms = [v, vectors.swap(v)][:parts]
        for base, column in zip(bases, sums, strict=True):
            m = vectors.load(base, offset, mask)
            for form, pair in zip(forms, column, strict=True):
                b.store(vectors.fma(m, form, b.load(pair[which])), pair[which])

    _along(b, vectors, rows, body)
    for j, column in enumerate(sums):
        # re(m v) = re re - im im, and im(m v) = re im + im re
        for part, (pair, sign) in enumerate(zip(column, (-1.0, 1.0), strict=False)):
            total = b.fadd(b.load(pair[0]), b.load(pair[1]))
            if vectors.complex:
                total = b.fmul(total, vectors.signs(1.0, sign))
            place = b.gep(x, [ir.Constant(I64, parts * j + part)])
            b.store(b.fsub(b.load(place), vectors.total(total)), place)


def _make(emit: Callable, columns: int, text: str):
    def stream(b, y, M, ldl, rows, x):
        vectors = Vectors(b, y.type.to)
        pointers, counts = [p.llvm for p in (y, M, x)], [c.llvm for c in (ldl, rows)]
        emit(b, vectors, columns, *_real(b, vectors, pointers, counts))

    stream.__doc__ = f"{text} for {columns} columns of M, ldl apart; no array overlaps another."
    return builtin(stream)


subtract_4, subtract_2, subtract_1 = (_make(_subtract, c, "y -= M x") for c in (4, 2, 1))
dots_4, dots_2, dots_1 = (_make(_dots, c, "x -= M^T y") for c in (4, 2, 1))
