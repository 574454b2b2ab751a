"""torch's own threads, lent for work that is not torch's.

After an operation on many numbers torch's threads, which are OpenMP's, look for the next one for
milliseconds without a rest. Threads of our own that start meanwhile share the processors with them, and
wait for their turn. So where torch's threads can be had, they do the work.
"""

from __future__ import annotations

import _thread
import ctypes
import os
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

__all__ = ["address_of_parallel", "call_on_torchs_threads", "on_torchs_threads", "torchs_threads"]

_Region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_ident, _team_size = _thread.get_ident, torch.get_num_threads
_MAIN = threading.main_thread().ident
home = _MAIN  # the thread whose team is lent; None in children of this process
_used = False


@lru_cache
def _openmp() -> Any:
    """The library that torch's operations call, or one through which it is reached; None where that is
    not GNU's or behaves like it.
    """
    if not sys.platform.startswith("linux"):
        return None
    try:
        path = Path(str(torch.__file__)).with_name("lib") / "libtorch_cpu.so"
        library = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD)
        library.GOMP_parallel.argtypes = [_Region, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        library.GOMP_parallel.restype = None
        library.omp_pause_resource_all.argtypes = [ctypes.c_int]
    except (OSError, AttributeError):
        return None
    return library


@lru_cache
def address_of_parallel() -> int:
    """Of OpenMP's function that calls another on all threads, where `torchs_threads` are to be had."""
    return ctypes.cast(_openmp().GOMP_parallel, ctypes.c_void_p).value or 0


def torchs_threads(least: int, most: int) -> int:
    """How many threads torch's team has, which from now on may be used. 0 where they are not to be had:
    on other threads than the main one, which have teams of their own, in forked children, and where
    they are fewer than `least`, or so many more than `most` that to ask all takes too long.
    """
    global _used
    team = _team_size()
    if not least <= team <= most or _ident() != home or _openmp() is None:
        return 0
    _used = True
    return team


def call_on_torchs_threads(function: int, task: list[int], threads: int) -> bool:
    """Call a compiled function, by its address, with the words of a task on all threads of torch's team
    at the same time. False, and nothing done, where there are no `torchs_threads`.
    """
    team = torchs_threads(threads, 2 * threads)
    if team:
        words = (ctypes.c_int64 * len(task))(*task)
        _openmp().GOMP_parallel(_Region(function), ctypes.addressof(words), team, 0)
    return bool(team)


def on_torchs_threads(work: Callable[[], None], threads: int) -> bool:
    """Call ``work()`` on this thread and, at the same time, on others of torch's team, all of which are
    asked and some of which may not come. False, and nothing done, where there are no `torchs_threads`.

    The first error is raised, after all have ended.
    """
    team = torchs_threads(threads, 2 * threads)
    if not team:
        return False
    errors: list[BaseException] = []
    came: list[int] = []

    def lane(_: Any) -> None:
        try:
            came.append(_ident())
            work()
        except BaseException as error:  # raised below, in the caller's thread
            errors.append(error)

    _openmp().GOMP_parallel(_Region(lane), None, team, 0)
    if errors:
        raise errors[0]
    if _ident() not in came:  # Ctrl-C at the first step of all, which nobody else is told
        raise KeyboardInterrupt
    return True


def _before_fork() -> None:
    """Let the team go: a child would wait for threads that only its parent has."""
    if _used and _ident() == _MAIN:
        _openmp().omp_pause_resource_all(1)


def _in_child() -> None:
    global home
    home = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_in_child)
