"""Are the loops compiled? Answered without importing the compiler."""

from __future__ import annotations

import logging
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..stamps import forget_other_versions, is_stamped, stamp

__all__ = ["Functions", "functions", "state", "warm_up"]

log = logging.getLogger("sparse_solver")
_HERE = Path(__file__).parent
_SOURCES = (_HERE / "kernels.py", _HERE / "layout.py", _HERE / "memory.py")


class Functions(NamedTuple):
    """The compiled loops as Python calls them: with addresses, and without the GIL."""

    factor: Any
    solve: Any
    forward: Any
    backward: Any


_compiled: dict[str, Functions] = {}
_kept: list = []  # compiled functions live as long as their addresses are called


def state(dtype: str) -> str:
    """One of "compiled" (in this process), "loaded" (on disk, and the compiler is in this process), "on
    disk" and "cold".
    """
    if dtype in _compiled:
        return "compiled"
    if not _on_disk(dtype):
        return "cold"
    return "loaded" if "numba" in sys.modules else "on disk"


@lru_cache
def _on_disk(dtype: str) -> bool:
    return is_stamped(f"simplicial-{dtype}", _SOURCES)


def warm_up(dtype: str) -> None:
    """Compile the loops for this element type, or load them."""
    functions(dtype)


def functions(dtype: str) -> Functions:
    """The loops for this element type, compiled or loaded if they are not."""
    found = _compiled.get(dtype)
    if found is not None:
        return found
    from numba import from_dtype

    from ...matrix.plain import use_look
    from ..compiler import callable_at, look
    from .kernels import cache_path, compile_for

    if not is_stamped("simplicial-*", _SOURCES):
        forget_other_versions(cache_path())
    before, start = state(dtype), time.perf_counter()
    compiled = compile_for(from_dtype(np.dtype(dtype)))
    _kept.append(compiled)
    use_look(look())
    found = Functions(*(callable_at(f.address, len(f._sig.args)) for f in compiled))
    _compiled[dtype] = found
    if before == "cold":
        stamp(f"simplicial-{dtype}", _SOURCES)
        _on_disk.cache_clear()
    log.info(
        "simplicial loops for %s: %s, ready after %.1f s", dtype, before, time.perf_counter() - start
    )
    return found
