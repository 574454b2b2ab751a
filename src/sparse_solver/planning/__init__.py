"""Who factors, who may reuse, and is it good enough."""

from .cache import clear_cache, obtain, planner_for
from .factored import Factored
from .method import ASSUMPTIONS, Direct, decode
from .planner import Planner

__all__ = [
    "ASSUMPTIONS",
    "Direct",
    "Factored",
    "Planner",
    "clear_cache",
    "decode",
    "obtain",
    "planner_for",
]
