"""What users call."""

from .determinant import logdet, slogdet
from .factor import Factor, Plan, analyze, factorize
from .gaussian import GaussianMarkovRandomField, gaussian_log_prob
from .outcomes import factorize_ex
from .seed import SparseSolver
from .solve import solve, solve_ex
from .table import engines

__all__ = [
    "Factor",
    "GaussianMarkovRandomField",
    "Plan",
    "SparseSolver",
    "analyze",
    "engines",
    "factorize",
    "factorize_ex",
    "gaussian_log_prob",
    "logdet",
    "slogdet",
    "solve",
    "solve_ex",
]
