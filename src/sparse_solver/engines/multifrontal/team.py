"""A team of threads for a run, and scratch memory that outlives it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from threading import RLock
from typing import Any

import numpy as np

from ...matrix.openmp import call_on_torchs_threads
from ..compiler import Lanes
from .machine import one_thread
from .run import ABORT, BAD, STATE, TAIL, Graph

__all__ = ["Scratch", "aligned", "run"]

_NEVER = np.iinfo(np.int64).max
_KEEP = 160 << 20  # bytes of an array that is kept in any case
_LINE = 64  # bytes
_LONG = 2e9  # flops, a tenth of a second, from which the caller only waits, so that Ctrl-C is heard
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}
_lock = RLock()  # a finaliser that runs while it is held may come back here


def _pool(size: int) -> ThreadPoolExecutor:
    """Threads kept for good; those of a parent process do not exist in a forked child."""
    key = os.getpid(), size
    with _lock:
        pool = _pools.get(key)
        if pool is None:
            pool = _pools[key] = ThreadPoolExecutor(size, "sparse_solver")
        return pool


if hasattr(os, "register_at_fork"):
    # Held by another thread at the moment of a fork, it would stay locked in the child.
    def _new_lock() -> None:
        global _lock
        _lock = RLock()  # a finaliser that runs while it is held may come back here

    os.register_at_fork(after_in_child=_new_lock)


def run(
    graph: Graph,
    work: Lanes,
    given: Callable[..., tuple[Any, ...]],
    threads: int,
    flops: float,
    blas: bool = True,
) -> int | None:
    """Run a graph of tasks: `work` on each of `threads`, with the arguments ``given(table, state)``. If
    it may call `blas`, that keeps to one thread meanwhile.

    Returns the first column whose pivot failed, or None.
    """
    before, tasks = graph.before.copy(), len(graph.before)
    table = graph.table(before)
    state = np.full(STATE + tasks, -1, np.int64)
    state[:STATE] = 0
    state[BAD] = _NEVER
    ready = graph.ready
    state[STATE : STATE + len(ready)] = ready
    state[TAIL] = len(ready)

    held = given(table, state)
    with one_thread() if blas else nullcontext():
        _take_part(work, work.words(held), threads, flops < _LONG, state)
    del held, before  # which words and the table point into
    return None if state[BAD] == _NEVER else int(state[BAD])


def _take_part(work: Lanes, words: list[int], threads: int, here: bool, state: np.ndarray) -> None:
    """Call `work` for up to `threads` lanes at the same time. This thread takes part if `here`, else it
    waits.
    """
    # torch's look for work for so short a time that long runs need not mind.
    if here and threads > 1 and call_on_torchs_threads(work.everyone, [0, threads, *words], threads):
        return

    def part(lane: int) -> None:
        own = words.copy()
        own[work.place] = lane
        work.code(*own)

    others: list[Future] = []
    try:
        for k in range(int(here), threads):
            others.append(_pool(threads).submit(part, k))
        if here:
            part(0)
    except BaseException:
        state[ABORT] = 1
        wait(others)
        raise
    _finish(others, state)


def _finish(parts: list[Future], state: np.ndarray) -> None:
    """Wait for them; after Ctrl-C, too: nobody may work on memory that is let go of."""
    try:
        wait(parts)
    except BaseException:
        state[ABORT] = 1
        wait(parts)
        raise
    for found in parts:
        found.result()


def aligned(size: int, dtype: np.dtype) -> np.ndarray:
    """An array of any content that begins with a cache line, so that no vector lies in two."""
    room = np.empty(size + _LINE // dtype.itemsize, dtype)
    first = -room.ctypes.data % _LINE // dtype.itemsize
    return room[first : first + size]


class Scratch:
    """Work arrays, lent to one user at a time and kept for the next.

    Fresh pages for the update matrices of 60^3 unknowns cost 8 % of their factorisation; what is kept
    stays in proportion to the factor beside it.

    Parameters
    ----------
    limit : int
        Bytes up to which an array is kept, if that is more than for any plan.
    """

    def __init__(self, limit: int = 0) -> None:
        self._limit = max(limit, _KEEP)
        self._kept: dict[Any, list[np.ndarray]] = {}

    def take(self, name: str, size: int, dtype: np.dtype) -> np.ndarray:
        """An array of at least `size` numbers, of any content."""
        kept = self._kept.setdefault((name, dtype), [])
        try:
            array = kept.pop()  # one step, so that two threads never get the same
        except IndexError:
            return aligned(size, dtype)
        return array if len(array) >= size else aligned(size, dtype)

    def give(self, name: str, array: np.ndarray) -> None:
        """Back for the next user; one array of each kind is kept, unless it is too large."""
        if array.nbytes > self._limit:
            return
        kept = self._kept.setdefault((name, array.dtype), [])
        if not kept:
            kept.append(array)
