"""What numba's language lacks: pointers from addresses, and from pointers."""

from __future__ import annotations

from numba import types
from numba.extending import intrinsic

__all__ = ["int32_at", "move"]


@intrinsic
def move(typingctx, pointer, count):
    """`pointer` moved on by `count` elements."""

    def codegen(context, builder, sig, args):
        return builder.gep(args[0], [args[1]])

    return pointer(pointer, types.int64), codegen


@intrinsic
def int32_at(typingctx, address):
    """The integers of 32 bits at an address."""

    def codegen(context, builder, sig, args):
        return builder.inttoptr(args[0], context.get_value_type(sig.return_type))

    return types.CPointer(types.int32)(types.int64), codegen
