"""Energies of elements as compiled loops: traced once, differentiated as a program, fused.

local_energy -> `lower` (torch operations to scalar ones) -> `tape` (derivatives) -> `kernel` (numba)
"""

from .fast import Fast

__all__ = ["Fast"]
