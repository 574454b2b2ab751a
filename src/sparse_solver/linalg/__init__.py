"""What users call."""

from .factor import Factor, Plan, analyze, factorize
from .outcomes import factorize_ex
from .seed import SparseSolver
from .solve import solve, solve_ex
from .table import engines

__all__ = [
    "Factor",
    "Plan",
    "SparseSolver",
    "analyze",
    "engines",
    "factorize",
    "factorize_ex",
    "solve",
    "solve_ex",
]
