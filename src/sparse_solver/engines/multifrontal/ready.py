"""Is the engine compiled? Answered without importing the compiler."""

from __future__ import annotations

import logging
import time
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..stamps import is_stamped, stamp

__all__ = ["state", "warm_up"]

log = logging.getLogger("sparse_solver")
_SOURCES = tuple(
    sorted(f for name in (".", "../compiler") for f in (Path(__file__).parent / name).glob("*.py"))
)
_loaded: set[str] = set()


def state(dtype: str) -> str:
    """One of "loaded" (in this process), "cached" (on disk) and "cold"."""
    if dtype in _loaded:
        return "loaded"
    return "cached" if _on_disk(dtype) else "cold"


@lru_cache
def _on_disk(dtype: str) -> bool:
    """Looked at once: this is asked before every factorisation of a matrix that might move here."""
    return is_stamped(f"multifrontal-{dtype}", _SOURCES)


def warm_up(dtype: str) -> float:
    """Compile everything for this element type, or load it; the seconds that took."""
    start = time.perf_counter()
    if dtype in _loaded:
        return 0.0
    if state(dtype) == "cold":
        log.info(
            "compiling the multifrontal engine for %s; once per machine, some seconds. "
            "'python -m sparse_solver warmup' does it ahead",
            dtype,
        )
    _use_everything(np.dtype(dtype))
    seconds = time.perf_counter() - start
    _loaded.add(dtype)
    stamp(f"multifrontal-{dtype}", _SOURCES)
    log.info("the multifrontal engine is ready for %s after %.1f s", dtype, seconds)
    return seconds


def _use_everything(dtype: np.dtype) -> None:
    from .analysis import analyse
    from .elimination import eliminate
    from .numeric import Cholesky
    from .ordering import nested_dissection
    from .team import Scratch

    n = 3  # a chain
    indptr, indices = np.array([0, 2, 5, 7]), np.array([0, 1, 0, 1, 2, 1, 2])
    values = np.array([2, -1, -1, 2, -1, -1, 2], dtype)
    order = nested_dissection(np.array([0, 1, 3, 4]), np.array([1, 0, 2, 1]), 1, 1)
    forest = eliminate(indptr, indices, order)
    F = Cholesky(analyse(indptr, indices, forest), values, 1, Scratch())
    F.solve(np.ones(n, dtype))
    F.selected_inverse(np.array([0, 2, 1, 3, 5, 4, 6]))
