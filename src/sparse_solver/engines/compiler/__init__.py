"""A compiler for a small part of Python: loops over numbers behind pointers.

numba compiles much of Python's and NumPy's language, and takes 25 seconds for the multifrontal engine.
That is written in so small a language (`translate`) that five files suffice to hand it to LLVM, which
comes with numba, and most of the time left is LLVM's. There are numbers, pointers and tuples (`types`),
their arithmetic (`arithmetic`), functions (`functions`), and the machine code, kept on disk (`native`).
Any compiled function can be made one that Python calls as quickly as its own (`callables`). One of them
looks at tensors before others are given their memory (`look`).
"""

from __future__ import annotations

from .callables import callable_at
from .functions import Function, builtin, function
from .look import look
from .native import Entry, Floats, Int32s, Lanes, Numbers, entry
from .types import Pointer, Value

__all__ = [
    "Entry", "Floats", "Function", "Int32s", "Lanes", "Numbers", "Pointer", "Value",
    "builtin", "callable_at", "entry", "function", "look",
]  # fmt: skip
