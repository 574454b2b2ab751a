"""Are the kernels compiled? Answered without importing the compiler."""

from __future__ import annotations

import logging
import time
from collections import deque
from functools import lru_cache
from pathlib import Path

import numpy as np

from ...matrix import Pattern
from ..stamps import forget_other_versions, is_stamped, stamp
from .elimination import eliminate
from .numeric import BatchNumeric, load_kernels

__all__ = ["state", "warm_up"]

log = logging.getLogger("sparse_solver")
_SOURCES = tuple(sorted(Path(__file__).parent.glob("*.py")))
_compiled: set[str] = set()  # element types whose kernels are in this process


def state(dtype: str) -> str:
    """One of "compiled" (in this process), "on disk" and "cold"."""
    if dtype in _compiled:
        return "compiled"
    return "on disk" if _on_disk(dtype) else "cold"


@lru_cache
def _on_disk(dtype: str) -> bool:
    """Looked at once: this is asked before every batch."""
    return is_stamped(f"batched-{dtype}", _SOURCES)


def warm_up(dtype: str) -> bool:
    """Compile the kernels for this element type, or load them; False where numba can't be used."""
    if dtype in _compiled:
        return True
    began, before = time.perf_counter(), state(dtype)
    if before == "cold":
        log.info(
            "compiling the kernels of batches for %s; once per machine, some ten seconds. "
            "'python -m sparse_solver warmup' does it ahead",
            dtype,
        )
    kernels = load_kernels()
    if kernels is None:
        return False
    if not is_stamped("batched-*", _SOURCES):
        forget_other_versions(kernels.factor.stats.cache_path)
    _use_everything(np.dtype(dtype))
    _compiled.add(dtype)
    if before == "cold":
        stamp(f"batched-{dtype}", _SOURCES)
        _on_disk.cache_clear()
    log.info("the kernels of batches are ready for %s after %.1f s", dtype, time.perf_counter() - began)
    return True


def _use_everything(dtype: np.dtype) -> None:
    P = Pattern([0, 0, 1, 1], [0, 1, 0, 1], (2, 2))
    plan = eliminate(P, False)
    assert plan is not None
    F = BatchNumeric(plan, np.array([[1, 2, 3, 4]], dtype), 0, False, 1, deque(maxlen=1))
    F.suspect(np.ones(2), 1e9, 1e3)
    x, *_ = F.solve(np.ones((1, 2), dtype), False, 1e3, 1e7)
    F.outer(x, x, P.rows.numpy(), P.cols.numpy())
    F.inverse(1e4)
