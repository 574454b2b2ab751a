"""What numba's language lacks: pointers into arrays, and atomic operations on them.

Indices through pointers carry no wrap-around for negative numbers, which would keep inner loops
from being vectorised.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = [
    "at", "fetch_add", "fetch_min", "int32_at", "int64_at", "load", "move", "pause", "store"
]  # fmt: skip


@intrinsic
def at(typingctx, array, offset):
    """Pointer to element `offset` of a contiguous array."""

    def codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.gep(data, [args[1]])

    return types.CPointer(array.dtype)(array, types.int64), codegen


@intrinsic
def move(typingctx, pointer, count):
    """`pointer` moved on by `count` elements."""

    def codegen(context, builder, sig, args):
        return builder.gep(args[0], [args[1]])

    return pointer(pointer, types.int64), codegen


def _atomic(emit):
    def codegen(context, builder, sig, args):
        found = emit(builder, builder.gep(args[0], [args[1]]), *args[2:])
        return context.get_dummy_value() if found is None else found

    return codegen


@intrinsic
def fetch_add(typingctx, words, index, amount):
    """Add to words[index] (int64) in one indivisible step; the value before."""
    emit = _atomic(lambda builder, word, by: builder.atomic_rmw("add", word, by, "seq_cst"))
    return types.int64(words, types.int64, types.int64), emit


@intrinsic
def fetch_min(typingctx, words, index, other):
    """Make words[index] (int64) no greater than `other` in one indivisible step; the value before."""
    emit = _atomic(lambda builder, word, by: builder.atomic_rmw("min", word, by, "seq_cst"))
    return types.int64(words, types.int64, types.int64), emit


@intrinsic
def load(typingctx, words, index):
    """words[index] (int64), and whatever its writer wrote before."""
    emit = _atomic(lambda builder, word: builder.load_atomic(word, "acquire", 8))
    return types.int64(words, types.int64), emit


def _store(builder, word, value):
    builder.store_atomic(value, word, "release", 8)


@intrinsic
def store(typingctx, words, index, value):
    """words[index] = value (int64), for readers that use `load`."""
    return types.void(words, types.int64, types.int64), _atomic(_store)


def _cast(kind):
    def cast(typingctx, address):
        def codegen(context, builder, sig, args):
            return builder.inttoptr(args[0], context.get_value_type(sig.return_type))

        return types.CPointer(kind)(types.int64), codegen

    cast.__doc__ = f"""The {kind} numbers at an address."""
    return intrinsic(cast)


int32_at, int64_at = _cast(types.int32), _cast(types.int64)


@intrinsic
def pause(typingctx, address, amount):
    """Call the system's function at `address`, which takes an unsigned integer or nothing."""

    def codegen(context, builder, sig, args):
        word = ir.IntType(32)
        kind = ir.FunctionType(word, [word])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [builder.trunc(args[1], word)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen
