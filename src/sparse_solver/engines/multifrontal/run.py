"""Running a graph of tasks on several threads, without Python in between.

Every thread calls the same compiled loop. It draws a ticket, waits until a task is ready for that
ticket, runs it and counts down the tasks after it. `state` is all they share. A thread may keep one
of the tasks that it made ready, and run it without a ticket.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ..compiler import function
from .calls import NAP, SLEEP, YIELD
from .memory import fetch_add, int64_at, load, pause, store

__all__ = ["ABORT", "BAD", "DONE", "STATE", "TAIL", "Graph", "draw", "finish", "go_on", "tasks_at"]

HEAD, TAIL, DONE, BAD, ABORT = 0, 8, 16, 24, 32  # in `state`, a cache line apart
STATE = 40  # its length; the queue follows
_SPINS, _YIELDS = 200, 4000  # looks before the processor is offered to others, and before sleep


@dataclass(frozen=True, eq=False)
class Graph:
    """A directed graph of tasks."""

    what: np.ndarray  # (4 t,) the kind of each and three numbers
    before: np.ndarray  # (t,) tasks that must come before; a run counts down a copy
    begin: np.ndarray  # (t + 1,) into after
    after: np.ndarray  # tasks that wait for it

    @cached_property
    def ready(self) -> np.ndarray:
        """Tasks that wait for none."""
        return np.flatnonzero(self.before == 0)

    @cached_property
    def _table(self) -> np.ndarray:
        arrays = self.what, self.before, self.begin, self.after
        return np.array([*(a.ctypes.data for a in arrays), len(self.before)], np.int64)

    def table(self, before: np.ndarray) -> np.ndarray:
        """Addresses, as `tasks_at` reads them, and the number of tasks; for a copy of `before`."""
        table = self._table.copy()
        table[1] = before.ctypes.data
        return table


class _Tasks(NamedTuple):
    what: Any
    before: Any
    begin: Any
    after: Any
    total: int


@function
def tasks_at(table):
    """The graph, as pointers."""
    what, before = int64_at(table[0]), int64_at(table[1])
    return _Tasks(what, before, int64_at(table[2]), int64_at(table[3]), table[4])


@function
def draw(state, tasks, machine):
    """The next task for this thread, or -1 when all are given away or the run is called off."""
    if load(state, ABORT) != 0:
        return -1
    ticket = fetch_add(state, HEAD, 1)
    if ticket >= tasks.total:
        return -1
    spins = 0
    while True:
        task = load(state, STATE + ticket)
        if task >= 0:
            return task
        if load(state, ABORT) != 0 or load(state, DONE) >= tasks.total:
            return -1
        spins += 1
        if spins > _YIELDS:
            pause(machine[SLEEP], machine[NAP])
        elif spins > _SPINS:
            pause(machine[YIELD], 0)


@function
def finish(state, tasks, task):
    """Say that `task` is done; queue those that waited for it alone."""
    for p in range(tasks.begin[task], tasks.begin[task + 1]):
        other = tasks.after[p]
        if fetch_add(tasks.before, other, -1) == 1:
            place = fetch_add(state, TAIL, 1)
            store(state, STATE + place, other)
    fetch_add(state, DONE, 1)


@function
def go_on(state, tasks, task):
    """Like `finish`, but the first task that waited for `task` alone is not queued: it is returned for
    the same thread to run at once, or -1 if there is none.
    """
    kept = -1
    for p in range(tasks.begin[task], tasks.begin[task + 1]):
        other = tasks.after[p]
        if fetch_add(tasks.before, other, -1) == 1:
            if kept < 0:
                kept = other
            else:
                place = fetch_add(state, TAIL, 1)
                store(state, STATE + place, other)
    fetch_add(state, DONE, 1)
    return kept
