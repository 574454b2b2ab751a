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

import torch
from torch import Tensor

from ..matrix import Pattern
from ..matrix.convert import forget
from .factored import Factored
from .method import decode
from .planner import Attempt, Planner

__all__ = ["PATTERNS", "clear_cache", "make", "obtain", "planner_for"]

PATTERNS = 8


class _Slot:
    """A planner and the latest factor it made, for one (assume, method) and dtype."""

    __slots__ = ("factored", "planner", "snapshot")

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self.snapshot: Tensor | None = None
        self.factored: Factored | None = None


_slots: OrderedDict[Pattern, dict[tuple[str, torch.dtype], _Slot]] = OrderedDict()
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


def _slot(pattern: Pattern, how: str, dtype: torch.dtype) -> _Slot:
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
            # Any slot of this pattern with the same options shares its analyses.
            slot = by_how[how, dtype] = _Slot(Planner(pattern, *decode(how)))
    del dropped
    return slot


def planner_for(pattern: Pattern, how: str) -> Planner:
    """A planner of the caller's own."""
    return Planner(pattern, *decode(how))


def make(planner: Planner, values: Tensor, old: Attempt | None = None) -> tuple[Tensor, Factored]:
    """(snapshot, factor) of values (nnz,) on the CPU."""
    values = values.detach()
    if values.is_complex():
        values = values.resolve_conj()
    snapshot = values.resolve_neg().clone()
    return snapshot, Factored(planner, snapshot.numpy(), old)


def obtain(pattern: Pattern, how: str, values: Tensor) -> Factored:
    """The factor of these values: the one kept if they are equal, else a new one, which is kept.

    Parameters
    ----------
    pattern : Pattern
    how : str
        ``assume + method.key``.
    values : Tensor, shape (nnz,)
        On the CPU.
    """
    if not decode(how)[1].reuse:
        return make(planner_for(pattern, how), values)[1]
    slot = _slot(pattern, how, values.dtype)
    kept, snapshot = slot.factored, slot.snapshot
    if kept is not None and snapshot is not None and torch.equal(snapshot, values):
        return kept
    with _lock:
        slot.factored = slot.snapshot = None
    del snapshot
    old = kept.attempt if kept is not None and _is_ours_alone(kept) else None
    kept = None  # released before the next is made, so that two never exist at once
    snapshot, factored = make(slot.planner, values, old)
    with _lock:
        slot.snapshot, slot.factored = snapshot, factored
    _limit(slot)
    return factored


def _references(thing: object) -> int:
    return sys.getrefcount(thing)


def _alone() -> int:
    """The count of something that only a calling frame's variable holds (it differs by version)."""
    thing = _Slot.__new__(_Slot)
    return _references(thing)


def _is_ours_alone(factored: Factored) -> bool:
    """Whether nobody but the calling frame holds the factor.

    Only CPython with its lock counts exactly; elsewhere nothing is recycled.
    """
    return getattr(sys, "_is_gil_enabled", lambda: True)() and (
        # one more frame than in `_alone`: this one's parameter
        _references(factored) <= _alone() + 1
    )


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
                slot.factored = slot.snapshot = None
                total -= size
    del dropped
