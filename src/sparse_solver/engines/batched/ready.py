"""Are the kernels compiled? Answered without importing the compiler.

numba keeps what it compiles on disk. A file of ours beside it, named after everything that would make
numba compile again, says for each element type that all of it is there.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import sys
import time
from collections import deque
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from ...matrix import Pattern
from .elimination import eliminate
from .numeric import BatchNumeric, load_kernels

__all__ = ["state", "warm_up"]

log = logging.getLogger("sparse_solver")
_compiled: set[str] = set()  # element types whose kernels are in this process


@lru_cache
def _places() -> tuple[Path, ...]:
    given = os.environ.get("NUMBA_CACHE_DIR")
    here = Path(__file__).parent / "__pycache__"
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sparse_solver"
    return (Path(given),) if given else (here, home)


@lru_cache
def _stamp(dtype: str) -> str:
    try:
        facts = [version("numba"), version("llvmlite")]
    except PackageNotFoundError:
        facts = []
    facts += [sys.version, platform.machine(), platform.processor(), str(Path(__file__).parent)]
    kernels = Path(__file__).with_name("kernels.py").stat()  # the one file that numba looks at
    facts.append(f"{kernels.st_size} {kernels.st_mtime_ns}")
    return f"batched-{dtype}-{hashlib.sha1(' '.join(facts).encode()).hexdigest()[:16]}"


def state(dtype: str) -> str:
    """One of "compiled" (in this process), "on disk" and "cold"."""
    if dtype in _compiled:
        return "compiled"
    return "on disk" if any((place / _stamp(dtype)).exists() for place in _places()) else "cold"


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
    if load_kernels() is None:
        return False
    _use_everything(np.dtype(dtype))
    _compiled.add(dtype)
    if before == "cold":
        for place in _places():
            try:
                place.mkdir(parents=True, exist_ok=True)
                (place / _stamp(dtype)).touch()
                break
            except OSError:
                continue
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
