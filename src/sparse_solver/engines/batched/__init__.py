"""Many small matrices on one pattern, eliminated side by side: one matrix per SIMD lane.

Compiled when first needed, by numba, which nothing here imports before.
"""

from .elimination import Elimination, eliminate, weak_diagonal
from .layout import BAD, DOMINANT, INDEFINITE, UNSYMMETRIC, WIDTH
from .numeric import BatchNumeric, compiled, is_cached, load_kernels

__all__ = [
    "BAD",
    "DOMINANT",
    "INDEFINITE",
    "UNSYMMETRIC",
    "WIDTH",
    "BatchNumeric",
    "Elimination",
    "compiled",
    "eliminate",
    "is_cached",
    "load_kernels",
    "weak_diagonal",
]
