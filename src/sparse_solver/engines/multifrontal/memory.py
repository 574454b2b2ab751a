"""Pointers, and atomic operations on what they point to."""

from __future__ import annotations

from llvmlite import ir

from ..compiler import Pointer, builtin
from ..compiler.types import INT, INT32, Value

__all__ = [
    "fetch_add", "fetch_min", "int32_at", "int64_at", "load", "move", "pause", "prefetch", "store",
]  # fmt: skip

_BYTE, _I32 = ir.IntType(8).as_pointer(), ir.IntType(32)
_LINE = 64  # bytes of a cache line


def _int(n: int):
    return ir.Constant(INT.parts[0], n)


@builtin
def move(b, pointer, count):
    """`pointer` moved on by `count` elements."""
    return b.place(pointer, count)


@builtin
def fetch_add(b, words, index, amount):
    """Add to words[index] (int64) in one indivisible step; the value before."""
    return Value(INT, (b.atomic_rmw("add", b.place(words, index).llvm, amount.llvm, "seq_cst"),))


@builtin
def fetch_min(b, words, index, other):
    """Make words[index] (int64) no greater than `other` in one indivisible step; the value before."""
    return Value(INT, (b.atomic_rmw("min", b.place(words, index).llvm, other.llvm, "seq_cst"),))


@builtin
def load(b, words, index):
    """words[index] (int64), and whatever its writer wrote before."""
    return Value(INT, (b.load_atomic(b.place(words, index).llvm, "acquire", 8),))


@builtin
def store(b, words, index, value):
    """words[index] = value (int64), for readers that use `load`."""
    b.store_atomic(value.llvm, b.place(words, index).llvm, "release", 8)


@builtin
def prefetch(b, pointer, count, for_writing):
    """Ask for `count` numbers to come to the processor, cache line by cache line."""
    first, size = b.bitcast(pointer.llvm, _BYTE), pointer.type.to.dtype.itemsize
    kind = ir.FunctionType(ir.VoidType(), [_BYTE, _I32, _I32, _I32])
    name = "llvm.prefetch.p0i8"
    ask = b.module.globals.get(name) or ir.Function(b.module, kind, name)
    how = ir.Constant(_I32, int(for_writing.llvm.constant)), ir.Constant(_I32, 3), ir.Constant(_I32, 1)
    lines = b.udiv(b.add(b.mul(count.llvm, _int(size)), _int(_LINE - 1)), _int(_LINE))
    with b.count(lines) as line:
        b.call(ask, [b.gep(first, [b.mul(line, _int(_LINE))]), *how])


@builtin
def int64_at(b, address):
    """The integers at an address."""
    return _at(b, address, Pointer(INT))


@builtin
def int32_at(b, address):
    """The integers of 32 bits at an address."""
    return _at(b, address, Pointer(INT32))


def _at(b, address, kind):
    return Value(kind, (b.inttoptr(address.llvm, kind.parts[0]),))


@builtin
def pause(b, address, amount):
    """Call the system's function at `address`, which takes an unsigned integer or nothing."""
    word = ir.IntType(32)
    function = b.inttoptr(address.llvm, ir.FunctionType(word, [word]).as_pointer())
    b.call(function, [b.trunc(amount.llvm, word)])
