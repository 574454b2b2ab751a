"""Running a graph of tasks on several threads, without Python in between.

Every thread calls the same compiled loop. It draws a ticket, waits until a task is ready for that
ticket, runs it and counts down the tasks after it. `state` is all they share.
"""

from __future__ import annotations

from numba import njit

from .dense import INNER
from .memory import fetch_add, load, store, yield_to_others

__all__ = ["ABORT", "BAD", "DONE", "STATE", "draw", "finish"]

HEAD, TAIL, DONE, BAD, ABORT = 0, 8, 16, 24, 32  # in `state`, a cache line apart
STATE = 40  # its length; the queue follows
_SPINS = 200  # before the processor is offered to others


@njit(**INNER)
def draw(state, tasks, yielding):  # type: ignore[no-untyped-def]
    """The next task for this thread, or -1 when all are given away or the run is called off."""
    ticket = fetch_add(state, HEAD, 1)
    if ticket >= tasks:
        return -1
    spins = 0
    while True:
        task = load(state, STATE + ticket)
        if task >= 0:
            return task
        if load(state, ABORT) != 0:
            return -1
        spins += 1
        if spins > _SPINS:
            yield_to_others(yielding)


@njit(**INNER)
def finish(state, task, before, begin, after):  # type: ignore[no-untyped-def]
    """Say that `task` is done; queue those that waited for it alone."""
    for p in range(begin[task], begin[task + 1]):
        other = after[p]
        if fetch_add(before, other, -1) == 1:
            place = fetch_add(state, TAIL, 1)
            store(state, STATE + place, other)
    fetch_add(state, DONE, 1)
