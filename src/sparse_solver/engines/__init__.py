"""Engines: one small adapter per numeric library. `REGISTRY` is the list of all, best first."""

from .base import Declined, Engine, Numeric, OutOfMemory, Symbolic
from .cholespy import Cholespy
from .cudss import Cudss
from .multifrontal import Multifrontal
from .multifrontal.ready import state as compiled
from .multifrontal.ready import warm_up
from .rslab import Rslab
from .simplicial import Simplicial
from .superlu import SuperLU
from .triangles import Triangles

__all__ = [
    "REGISTRY",
    "Declined",
    "Engine",
    "Numeric",
    "OutOfMemory",
    "Symbolic",
    "Triangles",
    "compiled",
    "warm_up",
]

REGISTRY: dict[str, Engine] = {
    engine.name: engine
    for engine in (Simplicial(), Multifrontal(), Rslab(), SuperLU(), Cudss(), Cholespy())
}
