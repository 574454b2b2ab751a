"""Matrices that are factored where their numbers are, on a GPU: the way of a solve for tensors, with
the same `Plan`s, judgement, errors and answers as on the CPU.

`equations.py` judges, `planner.py` chooses and analyses, `lone.py` and `batch.py` solve, `obtain.py`
says who may reuse.
"""

from .batch import DeviceBatch
from .lone import Lone
from .obtain import analyze, anew, obtain
from .planner import host_how, is_elsewhere

__all__ = [
    "DeviceBatch",
    "Lone",
    "analyze",
    "anew",
    "everywhere",
    "host_how",
    "is_elsewhere",
    "obtain",
]

everywhere = False  # whether tensors on the CPU go this way as well: for tests
