"""L D L^T of small definite matrices, number by number, and whole steps in one compiled call.

Where a factorisation takes microseconds, calls are what a step costs: `Kernel` checks, factors, solves
and judges in one, and in another solves for the gradient. Compiled when first needed, by numba, which
nothing here imports before.
"""

from .engine import Kernel, Simplicial
from .layout import KEPT, REFUSED, SOLVED
from .ready import functions, state, warm_up

__all__ = ["KEPT", "REFUSED", "SOLVED", "Kernel", "Simplicial", "functions", "state", "warm_up"]
