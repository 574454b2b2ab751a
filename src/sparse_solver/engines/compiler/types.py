"""Types of the compiled language, and values of these types as LLVM holds them.

- integers of 64 bits; those of 32 exist in memory alone,
- truth values,
- real and complex numbers of both precisions,
- pointers to numbers,
- tuples of all these, named or not.

LLVM sees a value as one or more parts: a complex number as two, a tuple as all parts of its items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

__all__ = ["BOOL", "INT", "INT32", "REAL", "Pointer", "Scalar", "Tuple", "Type", "Value", "constant"]


class Type:
    """What a value is: its parts, as LLVM's types, and a name for messages and symbols."""

    parts: tuple[ir.Type, ...]
    name: str


@dataclass(frozen=True)
class Scalar(Type):
    """A number or a truth value."""

    dtype: np.dtype

    @property
    def kind(self) -> str:
        """NumPy's letter: b, i, f or c."""
        return self.dtype.kind

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.dtype.name

    @property
    def real(self) -> Scalar:
        """The type of the real part."""
        return Scalar(np.empty(0, self.dtype).real.dtype)

    @property
    def parts(self) -> tuple[ir.Type, ...]:  # type: ignore[override]
        return _LLVM[self.dtype.name]

    @property
    def stored(self) -> ir.Type:
        """As it lies in memory."""
        return self.parts[0] if len(self.parts) == 1 else ir.ArrayType(self.parts[0], 2)


_float, _double = ir.FloatType(), ir.DoubleType()
_LLVM: dict[str, tuple[ir.Type, ...]] = {
    "bool": (ir.IntType(1),),
    "int32": (ir.IntType(32),),
    "int64": (ir.IntType(64),),
    "float32": (_float,),
    "float64": (_double,),
    "complex64": (_float, _float),
    "complex128": (_double, _double),
}
BOOL, INT, INT32, REAL = (Scalar(np.dtype(t)) for t in (np.bool_, np.int64, np.int32, np.float64))


@dataclass(frozen=True)
class Pointer(Type):
    """The address of numbers that lie one after the other."""

    to: Scalar

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.to.name}*"

    @property
    def parts(self) -> tuple[ir.Type, ...]:  # type: ignore[override]
        return (self.to.stored.as_pointer(),)


@dataclass(frozen=True)
class Tuple(Type):
    """A tuple; `maker` is its class if its items have names."""

    items: tuple[Type, ...]
    maker: Any = tuple

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.maker.__name__}({', '.join(t.name for t in self.items)})"

    @property
    def parts(self) -> tuple[ir.Type, ...]:  # type: ignore[override]
        return tuple(part for t in self.items for part in t.parts)


@dataclass(frozen=True)
class Value:
    """A value. A literal gives way: next to a number of single precision 0.5 is one, too."""

    type: Any
    parts: Sequence[Any]
    literal: bool = False

    @property
    def llvm(self) -> Any:
        """The one part of a value that is neither complex nor a tuple."""
        (part,) = self.parts
        return part

    def item(self, k: int) -> Value:
        """Item k of a tuple."""
        before = sum(len(t.parts) for t in self.type.items[:k])
        of = self.type.items[k]
        return Value(of, self.parts[before : before + len(of.parts)])


def constant(number: Any) -> Value:
    """A number known when compiling."""
    if isinstance(number, (bool, np.bool_)):
        return Value(BOOL, (ir.Constant(BOOL.parts[0], int(number)),), True)
    if isinstance(number, (int, np.integer)):
        return Value(INT, (ir.Constant(INT.parts[0], int(number)),), True)
    if isinstance(number, (float, np.floating)):
        return Value(REAL, (ir.Constant(REAL.parts[0], float(number)),), True)
    raise TypeError(f"{number!r} is no number")
