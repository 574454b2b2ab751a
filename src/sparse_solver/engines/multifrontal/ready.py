"""Is the engine compiled? Answered without importing the compiler.

numba keeps what it compiles on disk, beside the source or in the user's cache. A file of ours, named
after everything that would make it compile again, says that all of it is there.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import sys
import time
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

__all__ = ["state", "warm_up"]

log = logging.getLogger("sparse_solver")
_loaded: set[str] = set()


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
    for file in sorted(Path(__file__).parent.glob("*.py")):
        found = file.stat()
        facts.append(f"{file.name} {found.st_size} {found.st_mtime_ns}")
    return f"compiled-{dtype}-{hashlib.sha1(' '.join(facts).encode()).hexdigest()[:16]}"


def state(dtype: str) -> str:
    """One of "loaded" (in this process), "cached" (on disk) and "cold"."""
    if dtype in _loaded:
        return "loaded"
    return "cached" if any((place / _stamp(dtype)).exists() for place in _places()) else "cold"


def warm_up(dtype: str) -> float:
    """Compile everything for this element type, or load it; the seconds that took."""
    start = time.perf_counter()
    if dtype in _loaded:
        return 0.0
    if state(dtype) == "cold":
        log.info(
            "compiling the multifrontal engine for %s; once per machine, a quarter of a minute. "
            "'python -m sparse_solver warmup' does it ahead",
            dtype,
        )
    _use_everything(np.dtype(dtype))
    seconds = time.perf_counter() - start
    _loaded.add(dtype)
    for place in _places():
        try:
            place.mkdir(parents=True, exist_ok=True)
            (place / _stamp(dtype)).touch()
            break
        except OSError:
            continue
    log.info("the multifrontal engine is ready for %s after %.1f s", dtype, seconds)
    return seconds


def _use_everything(dtype: np.dtype) -> None:
    from .analysis import analyse
    from .numeric import Cholesky
    from .team import Scratch

    n = 3  # a chain
    indptr, indices = np.array([0, 2, 5, 7]), np.array([0, 1, 0, 1, 2, 1, 2])
    values = np.array([2, -1, -1, 2, -1, -1, 2], dtype)
    F = Cholesky(analyse(indptr, indices, np.arange(n)), values, 1, Scratch())
    F.solve(np.ones(n, dtype))
    F.selected_inverse(np.array([0, 2, 1, 3, 5, 4, 6]))
