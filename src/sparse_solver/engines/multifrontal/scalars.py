"""What compiled code asks about the numbers it is compiled for."""

from __future__ import annotations

from numba import types
from numba.extending import overload
from numba.np.numpy_support import as_dtype

__all__ = ["is_real", "one_of"]


def is_real(x):
    """Whether x is real, decided when compiling."""
    raise NotImplementedError


@overload(is_real)
def _is_real(x):
    answer = not isinstance(x, types.Complex)
    return lambda x: answer


def one_of(pointer):
    """One, as a number of the type found at the pointer."""
    raise NotImplementedError


@overload(one_of)
def _one_of(pointer):
    kind = as_dtype(pointer.dtype).type
    return lambda pointer: kind(1)
