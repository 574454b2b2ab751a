"""The inner kernel: C = beta C - A B^H on a tile that stays in registers.

Every dense operation on fronts too small for a BLAS call to pay is built from it. C and A are
columns of contiguous rows, of which a tile takes `tile_rows`; B is read one number at a time, with any
strides, and so may be a transpose. Written in LLVM's language, because a compiler finds such a
register blocking in no loop: per step of the product, two vectors of A and one number of B feed
two fused multiply-adds for each of the tile's columns.

References
----------
F. G. Van Zee and R. A. van de Geijn, BLIS: a framework for rapidly instantiating BLAS
functionality, ACM Trans. Math. Softw. 41 (2015), section 4.
"""

from __future__ import annotations

from llvmlite import ir

from ..compiler import builtin
from .vectors import I64, VECTOR_BYTES, Vectors

__all__ = ["Tile", "tile_1", "tile_4", "tile_rows"]

_VECTORS = 2  # of rows in a tile


def tile_rows(itemsize: int) -> int:
    """Rows of a full tile for numbers of this size in bytes."""
    return _VECTORS * VECTOR_BYTES // itemsize


class Tile:
    """Emits the kernel for one type, a number of columns and a height in vectors."""

    def __init__(self, builder, vectors: Vectors, columns: int, height: int = _VECTORS) -> None:
        self.builder, self.vectors, self.columns = builder, vectors, columns
        self.offsets = [ir.Constant(I64, v * vectors.lanes) for v in range(height)]
        self.accumulators = [
            [[self._zero() for _ in range(vectors.parts)] for _ in range(height)]
            for _ in range(columns)
        ]

    def _zero(self):
        slot = self.builder.slot(self.vectors.kind)
        self.builder.store(self.vectors.zero, slot)
        return slot

    def product(self, A, lda, B, sk, k, masks):
        """Accumulate the k steps; B has a pointer for each column, which moves on by sk a step."""
        b, vectors = self.builder, self.vectors
        with b.count(k) as step:
            base = b.gep(A, [b.mul(step, lda)])
            a = [vectors.load(base, o, m) for o, m in zip(self.offsets, masks, strict=True)]
            row = b.mul(step, sk)
            for j in range(self.columns):
                p = b.gep(B[j], [row])
                for part in range(vectors.parts):
                    bj = vectors.all(b.load(b.gep(p, [ir.Constant(I64, part)])))
                    for v in range(len(a)):
                        slot = self.accumulators[j][v][part]
                        b.store(vectors.fma(a[v], bj, b.load(slot)), slot)

    def total(self, j: int, v: int):
        """Column j, vector v of A B^H."""
        b, vectors = self.builder, self.vectors
        first = b.load(self.accumulators[j][v][0])
        if not vectors.complex:
            return first
        # a conj(b) = a re(b) - i a im(b); -i (x + i y) = y - i x
        turned = vectors.swap(b.load(self.accumulators[j][v][1]))
        return b.fadd(first, b.fmul(turned, vectors.signs(1.0, -1.0)))

    def finish(self, C, ldc, add, masks, rows):
        """Subtract from C, or negate."""
        b, vectors = self.builder, self.vectors
        minus = vectors.signs(-0.0, -0.0)
        left = [None if m is None else b.sub(rows, o) for m, o in zip(masks, self.offsets, strict=True)]

        def write(value, base, offset, count):
            if count is None:
                vectors.store(value, base, offset)
            else:
                vectors.store_first(value, base, offset, count)

        for j in range(self.columns):
            base = b.gep(C, [b.mul(ldc, ir.Constant(I64, j))])
            totals = [self.total(j, v) for v in range(len(masks))]
            places = list(zip(totals, self.offsets, left, strict=True))
            with b.if_else(add) as (then, otherwise):
                with then:
                    old = [
                        vectors.load(base, *place) for place in zip(self.offsets, masks, strict=True)
                    ]
                    for c, (t, o, count) in zip(old, places, strict=True):
                        write(b.fsub(c, t), base, o, count)
                with otherwise:
                    for t, o, count in places:
                        write(b.fsub(minus, t), base, o, count)


def _make(columns: int):
    def tile(b, C, ldc, A, lda, B, sj, sk, k, rows, add):
        vectors = Vectors(b, C.type.to)
        kernel = Tile(b, vectors, columns)
        C, A, B = (vectors.real_pointer(p.llvm) for p in (C, A, B))
        ldc, lda, sj, sk, k, rows, add = (x.llvm for x in (ldc, lda, sj, sk, k, rows, add))
        if vectors.complex:
            two = ir.Constant(I64, 2)
            ldc, lda, sk, rows = (b.mul(x, two) for x in (ldc, lda, sk, rows))
        full = ir.Constant(I64, _VECTORS * vectors.lanes)
        rows_of_b = [b.gep(B, [b.mul(sj, ir.Constant(I64, j * vectors.parts))]) for j in range(columns)]
        with b.if_else(b.icmp_signed(">=", rows, full)) as (whole, part):
            with whole:
                none = [None] * _VECTORS
                kernel.product(A, lda, rows_of_b, sk, k, none)
                kernel.finish(C, ldc, add, none, rows)
            with part:
                masks = [vectors.mask(rows, v * vectors.lanes) for v in range(_VECTORS)]
                kernel.product(A, lda, rows_of_b, sk, k, masks)
                kernel.finish(C, ldc, add, masks, rows)

    tile.__doc__ = f"""C = [C if add] - A B^H for {columns} columns of C and at most a tile of rows.

    C (rows x {columns}, leading dimension ldc), A (rows x k, lda), B element (j, l) at B[j sj + l sk].
    """
    return builtin(tile)


tile_4, tile_1 = _make(4), _make(1)
