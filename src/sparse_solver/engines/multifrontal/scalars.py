"""What compiled code asks about the numbers it is compiled for."""

from __future__ import annotations

from ..compiler import builtin
from ..compiler.types import constant

__all__ = ["is_real", "one_of"]


@builtin
def is_real(b, x):
    """Whether x is real, decided when compiling."""
    return constant(x.type.kind == "f")


@builtin
def one_of(b, pointer):
    """One, as a number of the type found at the pointer."""
    return b.to(constant(1), pointer.type.to)
