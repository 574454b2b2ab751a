"""Who may reuse: plans by pattern, and the latest factor of each, recycled when nobody holds it.

A factor is used again only for values equal to the snapshot kept with it. The cache holds detached
snapshots and factors, never a tensor with a graph. At most `PATTERNS` patterns and `max_bytes()`
of factors are kept, the least recently used going first.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..matrix import Pattern
from ..matrix.convert import forget
from .attempt import Spare
from .factored import Factored
from .method import decode
from .planner import Planner
from .repeat import HAS_LOCK, Repeat, repeat_of
from .step import Step, step_of

__all__ = ["PATTERNS", "clear_cache", "obtain", "planner_for", "planner_of", "planners", "renewed"]
__all__ += ["touch"]

PATTERNS = 8
_FIRST = 512


class _Slot:
    """A planner and the latest factor it made, for one (assume, method) and dtype.

    Where whole steps are compiled, `step` makes them; the latest factor is in `store` then, and
    `factored` is None or the same one. The slot used last is its pattern's `recent`.
    """

    __slots__ = ("__weakref__", "assume", "dtype", "factored", "key", "planner", "step", "store")

    def __init__(self, planner: Planner, dtype: np.dtype) -> None:
        self.planner, self.assume, self.key = planner, planner.assume, planner.method.key
        self.dtype = _TORCH[dtype.char]
        self.factored: Factored | None = None
        self.step: Step | Repeat | None = None
        self.store: Tensor | None = None


_TORCH = {"f": torch.float32, "d": torch.float64, "F": torch.complex64, "D": torch.complex128}
_slots: OrderedDict[Pattern, dict[tuple[str, np.dtype], _Slot]] = OrderedDict()
# Held for dictionary operations only, never while anything is freed, factored or solved. Re-entrant,
# because even these may start a garbage collection, and a finaliser may solve.
_lock = threading.RLock()
_latest: Callable[[], object] | None = None  # the slot used last, if it was found by `recent`


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
    global _latest
    _latest = None
    with _lock:
        slot = _slots.get(pattern, {}).get((how, dtype))
        if slot is not None:
            pattern.recent = weakref.ref(slot)
            _slots.move_to_end(pattern)
            return slot
    fresh: dict[tuple[str, np.dtype], _Slot] = {}
    made, dropped = _Slot(planner_for(pattern, how), dtype), None
    with _lock:
        slot = _slots.setdefault(pattern, fresh).setdefault((how, dtype), made)
        _slots.move_to_end(pattern)
        if len(_slots) > PATTERNS:
            dropped = _slots.popitem(last=False)
    del dropped
    pattern.recent = weakref.ref(slot)
    return slot


def touch(pattern: Pattern) -> None:
    """Note that `pattern.recent` was used."""
    global _latest
    if _latest is not pattern.recent:
        _latest = pattern.recent
        with _lock:
            if pattern in _slots:
                _slots.move_to_end(pattern)


def planners() -> list[Planner]:
    """All that are kept."""
    with _lock:
        return [slot.planner for by_how in _slots.values() for slot in by_how.values()]


def planner_of(pattern: Pattern, how: str, dtype: np.dtype) -> Planner:
    """The planner kept for this pattern, so that batches find their analysis again."""
    if not decode(how)[1].reuse:
        return planner_for(pattern, how)
    return _slot(pattern, how, dtype).planner


def planner_for(pattern: Pattern, how: str, promised: bool = False) -> Planner:
    """A planner of the caller's own; `promised` if matrices on this pattern will come again."""
    return Planner(pattern, *decode(how), promised)


def obtain(pattern: Pattern, how: str, values: np.ndarray, explicit: bool = False) -> Factored:
    """The factor of these values: the one kept if they are equal, else a new one, which is kept.

    Parameters
    ----------
    pattern : Pattern
    how : str
        ``assume + method.key``.
    values : array, shape (nnz,)
        Copied if a factor of them is made.
    explicit : bool
        As for `Factored`, if one is made.
    """
    if not values.flags.carray:
        values = np.array(values, order="C")
    if not decode(how)[1].reuse:
        return Factored(planner_for(pattern, how), values.copy(), None, explicit)
    return renewed(_slot(pattern, how, values.dtype), values, explicit)


def renewed(slot: _Slot, values: np.ndarray, explicit: bool = False) -> Factored:
    """As `obtain`, for contiguous values of a slot's dtype."""
    kept, step, store = slot.factored, slot.step, slot.store
    if kept is None and isinstance(step, Step) and store is not None:
        kept = slot.factored = step.factored(store)
    if kept is not None and _same(kept.equations.values, values):
        return kept
    slot.factored = slot.step = slot.store = None
    alone = kept is not None and _references(kept) <= _alone()
    spare = Spare(kept.attempt) if alone else None  # type: ignore[union-attr]
    room = _room(kept) if alone else None  # type: ignore[arg-type]
    kept = store = None  # now the spare alone holds it, if anything does
    if room is None or room.shape != values.shape or room.dtype != values.dtype:
        room = np.empty_like(values)
    factored = Factored(slot.planner, values, spare, explicit, room)
    slot.factored, slot.step = factored, step_of(factored, step) or repeat_of(factored, step)
    if slot.step is not None:
        slot.store = slot.step.store_of(factored)
    if spare is None:  # what takes another's place takes no more than that
        _limit(slot)
    return factored


def _room(kept: Factored) -> np.ndarray | None:
    """The memory of its snapshot, if nobody but `kept`, which goes, has it: fresh pages take longer to
    be had than numbers to be copied.
    """
    alone = _alone()
    if _references(kept.equations) > alone or _references(kept.equations.values) > alone:
        return None
    return kept.equations.values if kept.equations.values.base is None else None


def _same(kept: np.ndarray, values: np.ndarray) -> bool:
    """Equal bit for bit. Most steps of an optimisation change the first values already."""
    if kept[:_FIRST].tobytes() != values[:_FIRST].tobytes():
        return False
    return len(kept) <= _FIRST or np.array_equal(kept.view(np.uint8), values.view(np.uint8))


def _references(thing: object) -> int:
    return sys.getrefcount(thing)


def _alone() -> int:
    """References to something that only a calling frame's variable holds.

    Counted at each call: the number depends on the version of Python and on hooks into its frames.
    Only CPython with its lock counts exactly; elsewhere nothing is ever alone.
    """
    thing = object()
    return _references(thing) if HAS_LOCK else -1


def max_bytes() -> int:
    """A quarter of the machine's memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    except (AttributeError, ValueError, OSError):
        return 4 << 30


def _limit(newest: _Slot) -> None:
    """Let go of the oldest factors while all together are too large."""
    with _lock:
        slots = [s for by_how in _slots.values() for s in by_how.values()]
    if len(slots) == 1:
        return
    held = [(s, s.factored) for s in slots if s is not newest]
    total = sum(_bytes(f) for _, f in held) + _bytes(newest.factored)
    for slot, factored in held:
        if total <= max_bytes():
            break
        total -= _bytes(factored)
        if slot.factored is factored:
            slot.factored = None


def _bytes(factored: Factored | None) -> int:
    if factored is None:
        return 0
    attempts = [factored.attempt, *factored.notes.get("helpers", ())]
    return sum(a.numeric.memory or 0 for a in attempts if a is not None)
