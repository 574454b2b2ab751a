"""Engines: one small adapter per numeric library. `REGISTRY` is the list of all, best first."""

from .base import Declined, Engine, Numeric, Symbolic
from .rslab import Rslab
from .superlu import SuperLU

__all__ = ["REGISTRY", "Declined", "Engine", "Numeric", "Symbolic"]

REGISTRY: dict[str, Engine] = {engine.name: engine for engine in (Rslab(), SuperLU())}
