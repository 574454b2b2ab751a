"""Rows of right-hand sides: k numbers each, which X holds in whole vectors.

Copying and adding them is much of a solve with many right-hand sides. A compiler's loop would first
compare pointers, every time, and end with single numbers.
"""

from __future__ import annotations

from llvmlite import ir

from ..compiler import builtin
from .vectors import I64, VECTOR_BYTES, Vectors

__all__ = ["add_row", "put_row", "row_width", "take_conjugate", "take_row"]


def row_width(k: int, itemsize: int) -> int:
    """Numbers in a row of X: the one of a single column, or k up to a multiple of a vector's."""
    lanes = VECTOR_BYTES // itemsize
    return 1 if k == 1 else -(-k // lanes) * lanes


def _row(b, to, source, k, conjugate: bool, whole: bool) -> None:
    """Copy k numbers; with `whole` zeros follow up to the end of the last vector."""
    vectors = Vectors(b, to.type.to)
    to, source = vectors.real_pointer(to.llvm), vectors.real_pointer(source.llvm)
    count = b.mul(k.llvm, ir.Constant(I64, vectors.parts))
    lanes = ir.Constant(I64, vectors.lanes)

    def given(offset, mask=None):
        found = vectors.load(source, offset, mask)
        return b.fmul(found, vectors.signs(1.0, -1.0)) if conjugate and vectors.complex else found

    full = b.udiv(count, lanes)
    with b.count(full) as v:
        offset = b.mul(v, lanes)
        vectors.store(given(offset), to, offset)
    done = b.mul(full, lanes)
    left = b.sub(count, done)
    with b.if_then(b.icmp_signed(">", left, ir.Constant(I64, 0))):
        last = given(done, vectors.mask(left))
        if whole:
            vectors.store(last, to, done)
        else:
            vectors.store_first(last, to, done, left)


@builtin
def take_row(b, to, source, k):
    """Copy k numbers, and zeros up to the end of the last vector."""
    _row(b, to, source, k, False, True)


@builtin
def take_conjugate(b, to, source, k):
    """The same, conjugated."""
    _row(b, to, source, k, True, True)


@builtin
def put_row(b, to, source, k):
    """Copy k numbers, conjugated, and no more."""
    _row(b, to, source, k, True, False)


@builtin
def add_row(b, to, source, width):
    """to += source for whole vectors."""
    vectors = Vectors(b, to.type.to)
    to, source = vectors.real_pointer(to.llvm), vectors.real_pointer(source.llvm)
    lanes = ir.Constant(I64, vectors.lanes)
    with b.count(b.udiv(b.mul(width.llvm, ir.Constant(I64, vectors.parts)), lanes)) as v:
        offset = b.mul(v, lanes)
        vectors.store(b.fadd(vectors.load(to, offset), vectors.load(source, offset)), to, offset)
