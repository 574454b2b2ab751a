"""The one inner kernel: C = beta C - A B^H on a tile that stays in registers.

Every dense operation on fronts too small for a BLAS call to pay is built from it. C and A are
columns of contiguous rows, of which a tile takes `ROWS`; B is read one number at a time, with any
strides, and so may be a transpose. Written in LLVM's language, because a compiler finds such a
register blocking in no loop: per step of the product, two vectors of A and one number of B feed
two fused multiply-adds for each of the tile's columns.

References
----------
F. G. Van Zee and R. A. van de Geijn, BLIS: a framework for rapidly instantiating BLAS
functionality, ACM Trans. Math. Softw. 41 (2015), section 4.
"""

from __future__ import annotations

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["COLUMNS", "tile_1", "tile_4", "tile_rows"]

COLUMNS = 4
_VECTORS = 2  # of rows in a tile
_VECTOR_BYTES = 64 if llvm.get_host_cpu_features().get("avx512f") else 32
_I32, _I64 = ir.IntType(32), ir.IntType(64)


def tile_rows(itemsize: int) -> int:
    """Rows of a full tile for numbers of this size in bytes."""
    return _VECTORS * _VECTOR_BYTES // itemsize


class _Tile:
    """Emits the kernel for one type and a number of columns."""

    def __init__(self, context, builder, dtype, columns: int) -> None:
        self.builder, self.columns = builder, columns
        self.complex = isinstance(dtype, types.Complex)
        real = dtype.underlying_float if self.complex else dtype
        self.real = context.get_value_type(real)
        self.bytes = real.bitwidth // 8
        self.lanes = _VECTOR_BYTES // self.bytes
        self.vector = ir.VectorType(self.real, self.lanes)
        self.parts = 2 if self.complex else 1
        self.accumulators = [
            [[self._zero() for _ in range(self.parts)] for _ in range(_VECTORS)] for _ in range(columns)
        ]

    def _zero(self):
        slot = cgutils.alloca_once(self.builder, self.vector)
        self.builder.store(ir.Constant(self.vector, None), slot)
        return slot

    def _call(self, name: str, result, args):
        kind = ir.FunctionType(result, [a.type for a in args])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), args)

    def _suffix(self) -> str:
        return f"v{self.lanes}f{self.bytes * 8}"

    def _rows(self, base, first, mask):
        """The vectors of a column at `base`."""
        b, found = self.builder, []
        for v in range(_VECTORS):
            p = b.bitcast(
                b.gep(base, [ir.Constant(_I64, first + v * self.lanes)]), self.vector.as_pointer()
            )
            if mask is None:
                found.append(b.load(p, align=self.bytes))
            else:
                zero = ir.Constant(self.vector, None)
                name = f"llvm.masked.load.{self._suffix()}.p0{self._suffix()}"
                found.append(
                    self._call(name, self.vector, [p, ir.Constant(_I32, self.bytes), mask[v], zero])
                )
        return found

    def _write(self, values, base, mask):
        b = self.builder
        for v, value in enumerate(values):
            p = b.bitcast(b.gep(base, [ir.Constant(_I64, v * self.lanes)]), self.vector.as_pointer())
            if mask is None:
                b.store(value, p, align=self.bytes)
            else:
                name = f"llvm.masked.store.{self._suffix()}.p0{self._suffix()}"
                args = [value, p, ir.Constant(_I32, self.bytes), mask[v]]
                self._call(name, ir.VoidType(), args)

    def _all(self, scalar):
        b = self.builder
        one = b.insert_element(ir.Constant(self.vector, ir.Undefined), scalar, ir.Constant(_I32, 0))
        zeros = ir.Constant(ir.VectorType(_I32, self.lanes), [0] * self.lanes)
        return b.shuffle_vector(one, ir.Constant(self.vector, ir.Undefined), zeros)

    def masks(self, rows):
        b = self.builder
        found = []
        wide = ir.VectorType(_I64, self.lanes)
        one = b.insert_element(ir.Constant(wide, ir.Undefined), rows, ir.Constant(_I32, 0))
        zeros = ir.Constant(ir.VectorType(_I32, self.lanes), [0] * self.lanes)
        count = b.shuffle_vector(one, ir.Constant(wide, ir.Undefined), zeros)
        for v in range(_VECTORS):
            lane = ir.Constant(wide, [v * self.lanes + i for i in range(self.lanes)])
            found.append(b.icmp_signed("<", lane, count))
        return found

    def product(self, A, lda, B, sj, sk, k, mask):
        """Accumulate the k steps."""
        b = self.builder
        fma = f"llvm.fmuladd.{self._suffix()}"
        with cgutils.for_range(b, k) as loop:
            a = self._rows(b.gep(A, [b.mul(loop.index, lda)]), 0, mask)
            row = b.mul(loop.index, sk)
            for j in range(self.columns):
                p = b.gep(B, [b.add(row, b.mul(sj, ir.Constant(_I64, j * self.parts)))])
                for part in range(self.parts):
                    bj = self._all(b.load(b.gep(p, [ir.Constant(_I64, part)])))
                    for v in range(_VECTORS):
                        slot = self.accumulators[j][v][part]
                        b.store(self._call(fma, self.vector, [a[v], bj, b.load(slot)]), slot)

    def total(self, j, v):
        """Column j, vector v of A B^H."""
        b = self.builder
        first = b.load(self.accumulators[j][v][0])
        if not self.complex:
            return first
        # a conj(b) = a re(b) - i a im(b); -i (x + i y) = y - i x
        second = b.load(self.accumulators[j][v][1])
        swap = [i ^ 1 for i in range(self.lanes)]
        mask = ir.Constant(ir.VectorType(_I32, self.lanes), swap)
        turned = b.shuffle_vector(second, ir.Constant(self.vector, ir.Undefined), mask)
        signs = ir.Constant(self.vector, [1.0 if i % 2 == 0 else -1.0 for i in range(self.lanes)])
        return b.fadd(first, b.fmul(turned, signs))

    def finish(self, C, ldc, add, mask):
        b = self.builder
        minus = ir.Constant(self.vector, [-0.0] * self.lanes)
        for j in range(self.columns):
            base = b.gep(C, [b.mul(ldc, ir.Constant(_I64, j))])
            totals = [self.total(j, v) for v in range(_VECTORS)]
            with b.if_else(add) as (then, otherwise):
                with then:
                    old = self._rows(base, 0, mask)
                    self._write([b.fsub(c, t) for c, t in zip(old, totals, strict=True)], base, mask)
                with otherwise:
                    self._write([b.fsub(minus, t) for t in totals], base, mask)


def _make(columns: int):
    def tile(typingctx, C, ldc, A, lda, B, sj, sk, k, rows, add):
        def codegen(context, builder, sig, args):
            C, ldc, A, lda, B, sj, sk, k, rows, add = args
            kernel = _Tile(context, builder, sig.args[0].dtype, columns)
            pointer = kernel.real.as_pointer()
            C, A, B = (builder.bitcast(p, pointer) for p in (C, A, B))
            if kernel.complex:
                two = ir.Constant(_I64, 2)
                ldc, lda, sk, rows = (builder.mul(x, two) for x in (ldc, lda, sk, rows))
            full = ir.Constant(_I64, _VECTORS * kernel.lanes)
            with builder.if_else(builder.icmp_signed(">=", rows, full)) as (whole, part):
                with whole:
                    kernel.product(A, lda, B, sj, sk, k, None)
                    kernel.finish(C, ldc, add, None)
                with part:
                    mask = kernel.masks(rows)
                    kernel.product(A, lda, B, sj, sk, k, mask)
                    kernel.finish(C, ldc, add, mask)
            return context.get_dummy_value()

        i = types.int64
        return types.void(C, i, A, i, B, i, i, i, i, types.boolean), codegen

    tile.__doc__ = f"""C = [C if add] - A B^H for {columns} columns of C and at most a tile of rows.

    C (rows x {columns}, leading dimension ldc), A (rows x k, lda), B element (j, l) at B[j sj + l sk].
    """
    return intrinsic(tile)


tile_4, tile_1 = _make(4), _make(1)
