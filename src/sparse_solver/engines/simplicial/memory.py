"""What numba's language lacks: pointers from addresses, and from pointers."""

from __future__ import annotations

from numba import types
from numba.extending import intrinsic

__all__ = ["float64_at", "int32_at", "like_at", "move"]


@intrinsic
def move(typingctx, pointer, count):
    """`pointer` moved on by `count` elements."""

    def codegen(context, builder, sig, args):
        return builder.gep(args[0], [args[1]])

    return pointer(pointer, types.int64), codegen


def _pointer_from(context, builder, sig, args):
    return builder.inttoptr(args[0], context.get_value_type(sig.return_type))


@intrinsic
def int32_at(typingctx, address):
    """The integers of 32 bits at an address."""
    return types.CPointer(types.int32)(types.int64), _pointer_from


@intrinsic
def float64_at(typingctx, address):
    """The numbers of 64 bits at an address."""
    return types.CPointer(types.float64)(types.int64), _pointer_from


@intrinsic
def like_at(typingctx, address, pointer):
    """What is at an address, of the type of what `pointer` points to."""
    return pointer(types.int64, pointer), _pointer_from
