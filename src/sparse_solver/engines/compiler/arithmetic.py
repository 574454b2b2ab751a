"""Arithmetic on values: what Python's operators mean for each type.

Mixed operands take the type of the more general one, of which a literal never is the cause beyond
its own kind. Integers wrap around in silence; `//` and `%` round down as in Python.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from llvmlite import ir

from .types import BOOL, INT, INT32, Pointer, Scalar, Tuple, Value, constant

__all__ = ["Arithmetic"]

_KINDS = "bifc"
_FUSED = ("contract",)
_COMPARISONS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}


class Arithmetic(ir.IRBuilder):
    """Emits instructions. Products and sums of real numbers may be fused."""

    # Memory

    def slot(self, kind: ir.Type) -> Any:
        """Room for a variable; set aside when the function begins."""
        with self.goto_entry_block():
            return self.alloca(kind)

    def call_llvm(self, name: str, result: ir.Type, args: list) -> Any:
        """Call one of LLVM's own functions."""
        known = self.module.globals.get(name)
        if known is None:
            known = ir.Function(self.module, ir.FunctionType(result, [a.type for a in args]), name)
        return self.call(known, args)

    @contextmanager
    def count(self, n: Any) -> Iterator[Any]:
        """A loop over 0, 1, ..., n - 1: the body sees the counter."""
        head, body, end = (self.append_basic_block() for _ in range(3))
        before = self.block
        self.branch(head)
        self.position_at_end(head)
        i = self.phi(INT.parts[0])
        i.add_incoming(ir.Constant(i.type, 0), before)
        self.cbranch(self.icmp_signed("<", i, n), body, end)
        self.position_at_end(body)
        yield i
        i.add_incoming(self.add(i, ir.Constant(i.type, 1), flags=("nsw",)), self.block)
        self.branch(head)
        self.position_at_end(end)

    def place(self, pointer: Value, index: Value) -> Value:
        """The pointer to element `index`."""
        if not isinstance(pointer.type, Pointer):
            raise TypeError(f"{pointer.type.name} has no elements to index")
        return Value(pointer.type, (self.gep(pointer.llvm, [self.to(index, INT).llvm]),))

    def read(self, pointer: Value) -> Value:
        """What the pointer points to."""
        of = pointer.type.to
        found = Value(of, [self.load(p) for p in self._places(pointer)])
        return self.to(found, INT) if of == INT32 else found

    def write(self, value: Value, pointer: Value) -> None:
        """Store there."""
        of = pointer.type.to
        if of == INT32:
            self.store(self.trunc(self.to(value, INT).llvm, INT32.parts[0]), pointer.llvm)
            return
        for part, p in zip(self.to(value, of).parts, self._places(pointer), strict=True):
            self.store(part, p)

    def _places(self, pointer: Value) -> list:
        of = pointer.type.to
        if of.kind != "c":
            return [pointer.llvm]
        first = self.bitcast(pointer.llvm, of.parts[0].as_pointer())
        return [first, self.gep(first, [ir.Constant(INT.parts[0], 1)])]

    # Conversions

    def to(self, value: Value, wanted: Any) -> Value:
        """The value as one of type `wanted`, where nothing is lost but digits of literals."""
        have = value.type
        if have == wanted:
            return value
        if isinstance(have, Scalar) and isinstance(wanted, Scalar):
            if _KINDS.index(have.kind) < _KINDS.index(wanted.kind):
                return self._widen(value, wanted)
            if have == INT32 and wanted == INT:
                return Value(INT, (self.sext(value.llvm, INT.parts[0]),))
            if have.kind == wanted.kind == "f" and (value.literal or wanted.dtype > have.dtype):
                return self._precision(value, wanted)
        elif isinstance(have, Tuple) and isinstance(wanted, Tuple) and have.maker is wanted.maker:
            items = [self.to(value.item(k), t) for k, t in enumerate(wanted.items)]
            return Value(wanted, [part for item in items for part in item.parts])
        raise TypeError(f"{have.name} is not {wanted.name}")

    def _widen(self, value: Value, wanted: Scalar) -> Value:
        if wanted.kind == "c":
            zero = ir.Constant(wanted.parts[0], 0.0)
            return Value(wanted, (self.to(value, wanted.real).llvm, zero))
        part, kind = value.llvm, wanted.parts[0]
        if wanted.kind == "i":
            return Value(wanted, (self.zext(part, kind),))
        if isinstance(part, ir.Constant):
            return Value(wanted, (ir.Constant(kind, float(part.constant)),), True)
        as_real = self.uitofp if value.type == BOOL else self.sitofp
        return Value(wanted, (as_real(part, kind),))

    def _precision(self, value: Value, wanted: Scalar) -> Value:
        part, kind = value.llvm, wanted.parts[0]
        if isinstance(part, ir.Constant):
            return Value(wanted, (ir.Constant(kind, float(wanted.dtype.type(part.constant))),), True)
        return Value(wanted, (self.fpext(part, kind),))

    def alike(self, values: list[Value]) -> list[Value]:
        """The values as values of one type."""
        first = values[0].type
        if all(v.type == first for v in values):
            return values
        if not all(isinstance(v.type, Scalar) for v in values):
            raise TypeError(f"nothing is both {' and '.join(v.type.name for v in values)}")
        kind = max((v.type.kind for v in values), key=_KINDS.index)
        if kind in "bi":
            return [self.to(v, INT) for v in values]
        # Precision is that of variables, unless there are none.
        real = [v for v in values if v.type.kind in "fc"]
        real = [v for v in real if not v.literal] or real
        wanted = max((v.type.real for v in real), key=lambda t: t.dtype.itemsize)
        if kind == "c":
            wanted = Scalar(np.result_type(wanted.dtype, np.complex64))
        return [self.to(v, wanted) for v in values]

    def truth(self, value: Value) -> Any:
        """Whether the value counts as true, as LLVM's bit."""
        if value.type == BOOL:
            return value.llvm
        if value.type == INT:
            return self.icmp_signed("!=", value.llvm, ir.Constant(INT.parts[0], 0))
        raise TypeError(f"{value.type.name} is neither true nor false; compare it")

    # Operators

    def unary(self, op: ast.unaryop, x: Value) -> Value:
        """-x, ~x, not x, +x."""
        if isinstance(op, ast.Not):
            return Value(BOOL, (self.not_(self.truth(x)),))
        if x.type == BOOL:
            x = self.to(x, INT)
        if isinstance(op, ast.UAdd):
            return x
        if isinstance(op, ast.USub):
            if isinstance(x.parts[0], ir.Constant):
                return constant(-x.llvm.constant)
            if x.type == INT:
                return Value(INT, (self.neg(x.llvm),))
            return Value(x.type, [self.fneg(p, flags=_FUSED) for p in x.parts])
        if isinstance(op, ast.Invert) and x.type == INT:
            return Value(INT, (self.not_(x.llvm),))
        raise TypeError(f"no {type(op).__name__} for {x.type.name}")

    def compare(self, op: ast.cmpop, x: Value, y: Value) -> Value:
        """x < y and the like."""
        x, y = self.alike([x, y])
        sign = _COMPARISONS[type(op)]
        if x.type in (INT, BOOL):
            return Value(BOOL, (self.icmp_signed(sign, x.llvm, y.llvm),))
        if x.type.kind != "f":
            raise TypeError(f"{x.type.name} can't be compared")
        emit = self.fcmp_unordered if sign == "!=" else self.fcmp_ordered
        return Value(BOOL, (emit(sign, x.llvm, y.llvm, flags=_FUSED),))

    def binary(self, op: ast.operator, x: Value, y: Value) -> Value:
        """x + y and the like."""
        name = type(op).__name__
        if name in ("Mult", "Div") and {x.type.kind, y.type.kind} == {"c", "f"}:
            found = self._scale(name, x, y)
            if found is not None:
                return found
        x, y = self.alike([x, y])
        if x.type == BOOL:
            x, y = self.to(x, INT), self.to(y, INT)
        if x.type == INT and name != "Div":
            return Value(INT, (self._integer(name, x.llvm, y.llvm),))
        if x.type == INT:
            x, y = self.to(x, constant(1.0).type), self.to(y, constant(1.0).type)
        if x.type.kind == "f":
            return Value(x.type, (self._real(name, x.llvm, y.llvm),))
        return Value(x.type, self._complex(name, x.parts, y.parts))

    def _scale(self, name: str, x: Value, y: Value) -> Value | None:
        """A complex number times, or divided by, a real one: part by part."""
        if y.type.kind == "c":
            if name == "Div":
                return None
            x, y = y, x
        y = self.to(y, x.type.real)
        return Value(x.type, [self._real(name, p, y.llvm) for p in x.parts])

    def _integer(self, name: str, x: Any, y: Any) -> Any:
        simple = {"Add": self.add, "Sub": self.sub, "Mult": self.mul}
        if name in simple:
            return simple[name](x, y, flags=("nsw",))
        bits = {"LShift": self.shl, "RShift": self.ashr, "BitAnd": self.and_, "BitOr": self.or_}
        if name in bits:
            return bits[name](x, y)
        if name not in ("FloorDiv", "Mod"):
            raise TypeError(f"no {name} for integers")
        zero = ir.Constant(x.type, 0)
        rest = self.srem(x, y)
        down = self.and_(
            self.icmp_signed("!=", rest, zero), self.icmp_signed("<", self.xor(rest, y), zero)
        )
        if name == "Mod":
            return self.add(rest, self.select(down, y, zero))
        return self.sub(self.sdiv(x, y), self.zext(down, x.type))

    def _real(self, name: str, x: Any, y: Any) -> Any:
        emit = {"Add": self.fadd, "Sub": self.fsub, "Mult": self.fmul, "Div": self.fdiv}.get(name)
        if emit is None:
            raise TypeError(f"no {name} for real numbers")
        return emit(x, y, flags=_FUSED)

    def _complex(self, name: str, x: Any, y: Any) -> list:
        if name in ("Add", "Sub"):
            return [self._real(name, a, b) for a, b in zip(x, y, strict=True)]
        if name != "Mult":
            raise TypeError(f"no {name} for complex numbers")
        (a, b), (c, d) = x, y
        real = self._real("Sub", self._real("Mult", a, c), self._real("Mult", b, d))
        return [real, self._real("Add", self._real("Mult", a, d), self._real("Mult", b, c))]

    def extreme(self, sign: str, values: list[Value]) -> Value:
        """The least (<) or greatest (>) of integers or of real numbers."""
        values = self.alike(values)
        best = values[0]
        for value in values[1:]:
            if value.type == INT:
                better = self.icmp_signed(sign, value.llvm, best.llvm)
            elif value.type.kind == "f":
                better = self.fcmp_ordered(sign, value.llvm, best.llvm)
            else:
                raise TypeError(f"{value.type.name} has no order")
            best = Value(value.type, (self.select(better, value.llvm, best.llvm),))
        return best
