"""Many small matrices on one pattern, eliminated side by side: one matrix per SIMD lane.

Compiled when first needed, by numba, which nothing here imports before.
"""

from .elimination import Elimination, eliminate, weak_diagonal
from .layout import BAD, DOMINANT, INDEFINITE, UNSYMMETRIC, WIDTH
from .numeric import BatchNumeric, load_kernels
from .ready import state, warm_up

__all__ = [
    "BAD",
    "DOMINANT",
    "INDEFINITE",
    "UNSYMMETRIC",
    "WIDTH",
    "BatchNumeric",
    "Elimination",
    "eliminate",
    "load_kernels",
    "state",
    "warm_up",
    "weak_diagonal",
]
