"""From energies and residuals to matrices, and to the points where they are stationary."""

from .element_sum import ElementSum
from .energy_sum import EnergySum
from .minimize import minimize, minimize_ex
from .progress import Newton, Progress
from .residual_sum import ResidualSum
from .root import root, root_ex

__all__ = [
    "ElementSum",
    "EnergySum",
    "Newton",
    "Progress",
    "ResidualSum",
    "minimize",
    "minimize_ex",
    "root",
    "root_ex",
]
