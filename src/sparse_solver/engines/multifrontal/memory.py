"""What numba's language lacks: pointers into arrays, and atomic operations on them.

Indices through pointers carry no wrap-around for negative numbers, which would keep inner loops
from being vectorised.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["at", "fetch_add", "fetch_min", "load", "move", "store", "yield_to_others"]


@intrinsic
def at(typingctx, array, offset):  # type: ignore[no-untyped-def]
    """Pointer to element `offset` of a contiguous array."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.gep(data, [args[1]])

    return types.CPointer(array.dtype)(array, types.int64), codegen


@intrinsic
def move(typingctx, pointer, count):  # type: ignore[no-untyped-def]
    """`pointer` moved on by `count` elements."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.gep(args[0], [args[1]])

    return pointer(pointer, types.int64), codegen


def _word(context, builder, sig, args):  # type: ignore[no-untyped-def]
    data = context.make_array(sig.args[0])(context, builder, args[0]).data
    return builder.gep(data, [args[1]])


@intrinsic
def fetch_add(typingctx, array, index, amount):  # type: ignore[no-untyped-def]
    """Add to array[index] (int64) in one indivisible step; the value before."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.atomic_rmw("add", _word(context, builder, sig, args), args[2], "seq_cst")

    return types.int64(array, types.int64, types.int64), codegen


@intrinsic
def fetch_min(typingctx, array, index, other):  # type: ignore[no-untyped-def]
    """Make array[index] (int64) no greater than `other` in one indivisible step; the value before."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.atomic_rmw("min", _word(context, builder, sig, args), args[2], "seq_cst")

    return types.int64(array, types.int64, types.int64), codegen


@intrinsic
def load(typingctx, array, index):  # type: ignore[no-untyped-def]
    """array[index] (int64), and whatever its writer wrote before."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.load_atomic(_word(context, builder, sig, args), "acquire", 8)

    return types.int64(array, types.int64), codegen


@intrinsic
def store(typingctx, array, index, value):  # type: ignore[no-untyped-def]
    """array[index] = value (int64), for readers that use `load`."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        word = _word(context, builder, sig, args)
        builder.store_atomic(args[2], word, "release", 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), codegen


@intrinsic
def yield_to_others(typingctx, address):  # type: ignore[no-untyped-def]
    """Call the system's function at `address`, which takes nothing."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [])
        return context.get_dummy_value()

    return types.void(types.int64), codegen
