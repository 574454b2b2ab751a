"""A compiler for a small part of Python: loops over numbers behind pointers.

numba compiles much of Python's and NumPy's language, and takes 25 seconds for the multifrontal engine.
That is written in so small a language (`translate`) that four files suffice to hand it to LLVM, which
comes with numba, and most of the time left is LLVM's. There are numbers, pointers and tuples (`types`),
their arithmetic (`arithmetic`), and the machine code, kept on disk (`native`).
"""

from __future__ import annotations

from .native import Entry, Floats, Int32s, Numbers, entry
from .translate import Function, builtin, function
from .types import Pointer, Value

__all__ = [
    "Entry", "Floats", "Function", "Int32s", "Numbers", "Pointer", "Value", "builtin",
    "entry", "function",
]  # fmt: skip
