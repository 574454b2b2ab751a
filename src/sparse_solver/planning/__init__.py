"""Who factors, who may reuse, and is it good enough."""

from .batch import BatchFactored
from .cache import clear_cache, obtain, planner_for, planner_of
from .factored import Factored
from .method import ASSUMPTIONS, Direct, decode
from .planner import Planner

__all__ = [
    "ASSUMPTIONS",
    "BatchFactored",
    "Direct",
    "Factored",
    "Planner",
    "clear_cache",
    "decode",
    "obtain",
    "planner_for",
    "planner_of",
]
