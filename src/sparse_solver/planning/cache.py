"""Who may reuse: plans by pattern, and the latest factor of each, recycled when nobody holds it.

A factor is used again only for values equal to the snapshot kept with it. The cache holds detached
snapshots and factors, never a tensor with a graph. At most `PATTERNS` patterns and `max_bytes()`
of factors are kept, the least recently used going first.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import OrderedDict

import numpy as np

from ..matrix import Pattern
from ..matrix.convert import forget
from .factored import Factored
from .method import decode
from .planner import Planner

__all__ = ["PATTERNS", "clear_cache", "obtain", "planner_for"]

PATTERNS = 8
_FIRST = 512


class _Slot:
    """A planner and the latest factor it made, for one (assume, method) and dtype."""

    __slots__ = ("factored", "planner")

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self.factored: Factored | None = None


_slots: OrderedDict[Pattern, dict[tuple[str, np.dtype], _Slot]] = OrderedDict()
# Held for dictionary operations only: never while anything is freed, factored or solved, because a
# finaliser that runs meanwhile might solve.
_lock = threading.Lock()


def clear_cache() -> None:
    """Forget all plans, factors and recognised structures.

    Pending backward passes keep the factors they need.

    Examples
    --------
    >>> import sparse_solver as ss
    >>> ss.clear_cache()
    """
    with _lock:
        dropped = list(_slots.values())
        _slots.clear()
    del dropped
    forget()


def _slot(pattern: Pattern, how: str, dtype: np.dtype) -> _Slot:
    dropped = None
    with _lock:
        by_how = _slots.get(pattern)
        if by_how is None:
            by_how = _slots[pattern] = {}
            if len(_slots) > PATTERNS:
                dropped = _slots.popitem(last=False)
        else:
            _slots.move_to_end(pattern)
        slot = by_how.get((how, dtype))
        if slot is None:
            slot = by_how[how, dtype] = _Slot(Planner(pattern, *decode(how)))
    del dropped
    return slot


def planner_for(pattern: Pattern, how: str) -> Planner:
    """A planner of the caller's own."""
    return Planner(pattern, *decode(how))


def obtain(pattern: Pattern, how: str, values: np.ndarray) -> Factored:
    """The factor of these values: the one kept if they are equal, else a new one, which is kept.

    Parameters
    ----------
    pattern : Pattern
    how : str
        ``assume + method.key``.
    values : array, shape (nnz,)
        Copied if a factor of them is made.
    """
    if not decode(how)[1].reuse:
        return Factored(planner_for(pattern, how), values.copy())
    slot = _slot(pattern, how, values.dtype)
    kept = slot.factored
    if kept is not None and _same(kept.equations.values, values):
        return kept
    slot.factored = None
    old = kept.attempt if kept is not None and _references(kept) <= _ALONE else None
    if old is not None and not old.numeric.recyclable:
        old = None
    kept = None  # now nothing of it is left, so that two factors never exist at once
    factored = Factored(slot.planner, values.copy(), old)
    slot.factored = factored
    _limit(slot)
    return factored


def _same(kept: np.ndarray, values: np.ndarray) -> bool:
    """Equal bit for bit. Most steps of an optimisation change the first values already."""
    if kept[:_FIRST].tobytes() != values[:_FIRST].tobytes():
        return False
    return len(kept) <= _FIRST or np.array_equal(kept.view(np.uint8), values.view(np.uint8))


def _references(thing: object) -> int:
    return sys.getrefcount(thing)


def _count_alone() -> int:
    """References to something that only a calling frame's variable holds: by version of Python.

    Only CPython with its lock counts exactly. Elsewhere nothing is ever alone.
    """
    thing = object()
    return _references(thing) if getattr(sys, "_is_gil_enabled", lambda: True)() else -1


_ALONE = _count_alone()


def max_bytes() -> int:
    """A quarter of the machine's memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    except (AttributeError, ValueError, OSError):
        return 4 << 30


def _limit(newest: _Slot) -> None:
    """Let go of the oldest factors while all together are too large."""
    if len(_slots) == 1 and len(next(iter(_slots.values()))) == 1:
        return
    dropped = []
    with _lock:
        kept = [(s, s.factored) for by_how in _slots.values() for s in by_how.values()]
        sizes = [(f and f.attempt and f.attempt.numeric.memory) or 0 for _, f in kept]
        total = sum(sizes)
        for (slot, factored), size in zip(kept, sizes, strict=True):
            if total <= max_bytes():
                break
            if slot is not newest and size:
                dropped.append(factored)
                slot.factored = None
                total -= size
    del dropped
