"""Passes over all numbers of a matrix or of a solution, each made at every factorisation or solve.

`plain` has them in NumPy and SciPy, always there and the reference; `compiled` in loops of our own
that give the same bits and do in one call what takes ten there, which is most of the time of small
systems. They are compiled ahead (``python -m sparse_solver warmup``), or when so much has been passed
over that it pays; loading them, too, must first be worth its time.
"""

from __future__ import annotations

import logging
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ...engines.stamps import forget_other_versions, is_stamped, stamp
from ...matrix.gather import use_compiled
from . import plain

__all__ = ["consider", "passes_for", "state", "warm_up"]

log = logging.getLogger("sparse_solver")
_SOURCES = tuple(Path(__file__).with_name(f"{name}.py") for name in ("loops", "calls", "layout"))
_DTYPES = ("float32", "float64")
_CALL = 5000  # numbers that take as long to pass over as the calls themselves
_AT_STAKE = {"loaded": 1e6, "on disk": 1e7, "cold": 3e9}  # numbers passed over before it pays

_CHEAPER = 8  # times is a number of many columns passed over more quickly than one of a matrix
_beside = 0  # numbers of many columns so far

_compiled: dict[str, Any] = {}  # by the dtype's character


def passes_for(dtype: np.dtype, numbers: int = 0) -> Any:
    """The passes to use now: the module `plain`, or one like it for this dtype; `numbers` are about
    to be passed over beside those of factorisations.
    """
    global _beside
    if numbers and dtype.char not in _compiled:
        _beside += numbers
        consider(1, _beside // _CHEAPER, dtype)
    return _compiled.get(dtype.char, plain)


def state(dtype: str) -> str:
    """One of "compiled" (in this process), "on disk", "cold", and "none" for complex numbers."""
    if dtype not in _DTYPES:
        return "none"
    if np.dtype(dtype).char in _compiled:
        return "compiled"
    return "on disk" if _on_disk(dtype) else "cold"


@lru_cache
def _on_disk(dtype: str) -> bool:
    return is_stamped(f"passes-{dtype}", _SOURCES)


def consider(uses: int, nnz: int, dtype: np.dtype) -> None:
    """Compile or load the passes once what they have to do makes up for that: `uses` factorisations
    of `nnz` nonzeros so far.
    """
    if dtype.char in _compiled:
        return
    touched = uses * (nnz + _CALL)
    if touched < _AT_STAKE["loaded"]:
        return
    found = state(dtype.name)
    if found == "on disk" and "numba" in sys.modules:
        found = "loaded"
    if touched >= _AT_STAKE.get(found, np.inf):
        warm_up(dtype.name)


def warm_up(dtype: str) -> bool:
    """Compile the passes for this element type, or load them; False where that can't be done."""
    before = state(dtype)
    if before in ("compiled", "none"):
        return before == "compiled"
    start = time.perf_counter()
    found: Any = plain
    try:
        from .compiled import Compiled
        from .loops import cache_path
    except ImportError:
        log.info("no compiled passes: numba is missing")  # and never considered again
    else:
        if not is_stamped("passes-*", _SOURCES):
            forget_other_versions(cache_path())
        found = Compiled(np.dtype(dtype))
        use_compiled(np.dtype(dtype).char, found)
        if before == "cold":
            stamp(f"passes-{dtype}", _SOURCES)
        log.info("passes for %s: %s, ready after %.1f s", dtype, before, time.perf_counter() - start)
    _compiled[np.dtype(dtype).char] = found
    return found is not plain
