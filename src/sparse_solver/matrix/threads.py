"""Independent pieces of work over threads, begun and ended with the call.

They are torch's, or else started by hand: executors take locks at module level, and a garbage
collection while one is held may run a finaliser that solves.
"""

from __future__ import annotations

import _thread
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .openmp import on_torchs_threads

__all__ = ["WORTH_SHARING", "by_parts", "dot", "share"]

_PART = 1 << 16  # products added up in one go: sums of sums have smaller errors
WORTH_SHARING = 200_000  # numbers from which a pass over them is worth another thread


def by_parts(n: int, work: int, do: Callable[[int, int], Any]) -> list[Any]:
    """What ``do(start, stop)`` returns for parts of range(n), on torch's number of threads where
    `work`, the numbers touched, is large. Each part must give what the whole would.
    """
    parts = min(torch.get_num_threads(), n) if work >= WORTH_SHARING else 1
    if parts <= 1:
        return [do(0, n)]
    bounds = [n * k // parts for k in range(parts + 1)]
    results: list[Any] = []  # in any order
    share(lambda k: results.append(do(bounds[k], bounds[k + 1])), parts, parts, torchs=True)
    return results


def dot(x: np.ndarray, y: np.ndarray) -> complex:
    """sum_i x_i y_i, by this thread alone.

    NumPy's BLAS shares long products among threads of its own, which then look for more to do without a
    rest, and hold up whatever else computes meanwhile.
    """
    parts = range(0, len(x), _PART)
    return sum(np.einsum("i,i->", x[k : k + _PART], y[k : k + _PART]).item() for k in parts)


def share(work: Callable[[int], None], count: int, threads: int, *, torchs: bool = False) -> None:
    """Call ``work(0) ... work(count - 1)``, each once, over at most `threads` threads.

    With `torchs`, over torch's where they can be had, perhaps a few more than `threads`. That is for
    short pieces, as Ctrl-C waits for those under way.

    `work` must release the GIL for this to pay. The first error is raised, after all have ended; which
    pieces were done then is not defined.
    """
    threads = min(threads, count)
    if threads <= 1:
        for k in range(count):
            work(k)
        return
    counter = itertools.count()
    errors: list[BaseException] = []

    def take_turns() -> None:
        try:
            while (k := next(counter)) < count and not errors:
                work(k)
        except BaseException as error:  # raised below, in the caller's thread
            errors.append(error)

    if not (torchs and on_torchs_threads(take_turns, threads)):
        _on_our_own(take_turns, threads)
    if errors:
        raise errors[0]


def _on_our_own(work: Callable[[], None], threads: int) -> None:
    """Call ``work()``, which raises nothing, on this thread and others started for it."""

    def other(done: _thread.LockType) -> None:
        work()
        done.release()

    running = []
    for _ in range(threads - 1):
        done = _thread.allocate_lock()
        done.acquire()
        try:
            _thread.start_new_thread(other, (done,))
        except RuntimeError:  # no more threads to be had; this one does the rest
            break
        running.append(done)
    work()
    for done in running:
        done.acquire()
