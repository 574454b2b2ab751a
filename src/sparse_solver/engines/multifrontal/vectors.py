"""Vectors of the machine's width, for kernels written in LLVM's language.

A complex number is two real ones side by side; half a vector's lanes are its real parts.
"""

from __future__ import annotations

from collections.abc import Callable

import llvmlite.binding as llvm
from llvmlite import ir

__all__ = ["I64", "VECTOR_BYTES", "Vectors"]

VECTOR_BYTES = 64 if llvm.get_host_cpu_features().get("avx512f") else 32
_I32, I64 = ir.IntType(32), ir.IntType(64)


class Vectors:
    """Emits operations on vectors of numbers of one type."""

    def __init__(self, builder, number) -> None:
        self.builder = builder
        self.complex = number.kind == "c"
        self.real = number.parts[0]
        self.bytes = number.real.dtype.itemsize
        self.lanes = VECTOR_BYTES // self.bytes
        self.kind = ir.VectorType(self.real, self.lanes)
        self.parts = 2 if self.complex else 1
        self.zero = ir.Constant(self.kind, None)

    def call(self, name: str, result, args, **flags):
        """A call of one of LLVM's own functions; `*` stands for the kind of vector."""
        module = self.builder.module
        name = name.replace("*", f"v{self.lanes}f{self.bytes * 8}")
        function = module.globals.get(name)
        if function is None:
            function = ir.Function(module, ir.FunctionType(result, [a.type for a in args]), name)
        return self.builder.call(function, args, **flags)

    def real_pointer(self, pointer):
        """The same place, as real numbers."""
        return self.builder.bitcast(pointer, self.real.as_pointer())

    def at(self, base, offset, width: int | None = None):
        """Pointer to the vector `offset` real numbers after `base`."""
        kind = ir.VectorType(self.real, width or self.lanes)
        return self.builder.bitcast(self.builder.gep(base, [offset]), kind.as_pointer())

    def load(self, base, offset, mask=None, width: int | None = None):
        """A vector, perhaps of fewer lanes; zero where a mask is not set."""
        p = self.at(base, offset, width)
        if mask is None:
            return self.builder.load(p, align=self.bytes)
        args = [p, ir.Constant(_I32, self.bytes), mask, self.zero]
        return self.call("llvm.masked.load.*.p0*", self.kind, args)

    def store(self, value, base, offset) -> None:
        """Write a vector of as many lanes as it has."""
        self.builder.store(value, self.at(base, offset, value.type.count), align=self.bytes)

    def store_first(self, value, base, offset, count) -> None:
        """Write its first `count` lanes: none if negative, all if more.

        By halves, since a store under a mask takes many cycles where AVX-512 is missing.
        """
        b = self.builder
        with b.if_else(b.icmp_signed(">=", count, ir.Constant(I64, self.lanes))) as (whole, part):
            with whole:
                self.store(value, base, offset)
            with part, b.if_then(b.icmp_signed(">", count, ir.Constant(I64, 0))):
                width = self.lanes
                while width > self.parts:
                    width //= 2
                    low, high = (self._part(value, k * width, width) for k in (0, 1))
                    bit = b.and_(count, ir.Constant(I64, width))
                    there = b.icmp_signed("!=", bit, ir.Constant(I64, 0))
                    with b.if_then(there):
                        self.store(low, base, offset)
                    offset, value = b.add(offset, bit), b.select(there, high, low)

    def _part(self, value, first: int, width: int):
        """Some lanes of a vector, as a narrower one."""
        lanes = ir.Constant(ir.VectorType(_I32, width), list(range(first, first + width)))
        return self.builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), lanes)

    def pick(self, low, high, which: Callable[[int], int]):
        """Lane i is lane which(i) of both vectors, the first's counted before the second's."""
        order = [which(i) for i in range(self.lanes)]
        lanes = ir.Constant(ir.VectorType(_I32, self.lanes), order)
        return self.builder.shuffle_vector(low, high, lanes)

    def all(self, scalar, lanes_of=None):
        """A vector with `scalar` in all lanes."""
        b, kind = self.builder, lanes_of or self.kind
        one = b.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(_I32, 0))
        zeros = ir.Constant(ir.VectorType(_I32, self.lanes), [0] * self.lanes)
        return b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)

    def mask(self, count, first: int = 0):
        """Lanes of those vectors of which `count` numbers are left, the first `first` being done."""
        wide = ir.VectorType(I64, self.lanes)
        lane = ir.Constant(wide, [first + i for i in range(self.lanes)])
        return self.builder.icmp_signed("<", lane, self.all(count, wide))

    def fma(self, a, b, c):
        """a b + c."""
        return self.call("llvm.fmuladd.*", self.kind, [a, b, c])

    def swap(self, value):
        """Real and imaginary parts in each other's place."""
        order = ir.Constant(ir.VectorType(_I32, self.lanes), [i ^ 1 for i in range(self.lanes)])
        return self.builder.shuffle_vector(value, ir.Constant(self.kind, ir.Undefined), order)

    def signs(self, even: float, odd: float):
        """A constant: `even` in the lanes of real parts, `odd` in the others."""
        return ir.Constant(self.kind, [odd if i % 2 else even for i in range(self.lanes)])

    def total(self, value):
        """The sum of all lanes."""
        start = ir.Constant(self.real, -0.0)
        return self.call("llvm.vector.reduce.fadd.*", self.real, [start, value], fastmath=("reassoc",))
