"""Who factors, who may reuse, and is it good enough."""

from . import on_device
from .answers import Singular, chain, factored_or_singular, slogdet
from .batch import BatchFactored
from .batch_answers import chains, slogdets
from .cache import clear_cache, obtain, planner_for, planner_of, renewed, touch
from .factored import Factored
from .halves import halves
from .method import ASSUMPTIONS, Direct, decode
from .passes import passes_for
from .planner import Planner
from .repeat import Repeat
from .step import Step

__all__ = [
    "ASSUMPTIONS",
    "BatchFactored",
    "Direct",
    "Factored",
    "Planner",
    "Repeat",
    "Singular",
    "Step",
    "chain",
    "chains",
    "clear_cache",
    "decode",
    "factored_or_singular",
    "halves",
    "obtain",
    "on_device",
    "passes_for",
    "planner_for",
    "planner_of",
    "renewed",
    "slogdet",
    "slogdets",
    "touch",
]
