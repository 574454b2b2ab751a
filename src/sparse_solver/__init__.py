"""The sparse linear algebra layer for PyTorch: factor once, reuse everything, differentiate
everything, never answer wrong in silence.
"""

from . import gallery
from .energy import (
    ElementSum,
    EnergySum,
    Newton,
    Progress,
    ResidualSum,
    minimize,
    minimize_ex,
    root,
    root_ex,
)
from .errors import (
    InaccurateSolveError,
    NonFiniteError,
    NotConvergedError,
    NotPositiveDefiniteError,
    SingularMatrixError,
)
from .info import Info
from .linalg import (
    Factor,
    GaussianMarkovRandomField,
    Plan,
    SparseSolver,
    analyze,
    engines,
    factorize,
    factorize_ex,
    gaussian_log_prob,
    logdet,
    slogdet,
    solve,
    solve_ex,
)
from .matrix import Pattern, SparseMatrix
from .planning import Direct, clear_cache

__version__ = "0.2.0"

__all__ = [
    "Direct",
    "ElementSum",
    "EnergySum",
    "Factor",
    "GaussianMarkovRandomField",
    "InaccurateSolveError",
    "Info",
    "Newton",
    "NonFiniteError",
    "NotConvergedError",
    "NotPositiveDefiniteError",
    "Pattern",
    "Plan",
    "Progress",
    "ResidualSum",
    "SingularMatrixError",
    "SparseMatrix",
    "SparseSolver",
    "analyze",
    "clear_cache",
    "engines",
    "factorize",
    "factorize_ex",
    "gallery",
    "gaussian_log_prob",
    "logdet",
    "minimize",
    "minimize_ex",
    "root",
    "root_ex",
    "slogdet",
    "solve",
    "solve_ex",
]
