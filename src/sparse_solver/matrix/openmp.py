"""torch's own threads, lent for work that is not torch's.

After an operation on many numbers torch's threads, which are OpenMP's, look for the next one for
milliseconds without a rest. Threads of our own that start meanwhile share the processors with them: a
step of an optimisation took 1.2 to 1.4 times as long. So where torch's threads can be had, they do the
work.
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

__all__ = ["on_torchs_threads"]

_Region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_used = False
_is_child = False


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


def on_torchs_threads(work: Callable[[], None], threads: int) -> bool:
    """Call ``work()`` on this thread and, at the same time, on others of torch's team, all of which are
    asked and some of which may not come. False, and nothing done, where they are not to be had: on
    other threads than the main one, which have teams of their own, in forked children, and where the
    team is smaller than `threads`, or so much larger that to ask all takes too long.

    The first error is raised, after all have ended.
    """
    global _used
    team = torch.get_num_threads()
    if not threads <= team <= 2 * threads or _is_child:
        return False
    openmp = _openmp()
    if openmp is None or _thread.get_ident() != threading.main_thread().ident:
        return False
    errors: list[BaseException] = []
    came: list[int] = []

    def lane(_: Any) -> None:
        try:
            came.append(_thread.get_ident())
            work()
        except BaseException as error:  # raised below, in the caller's thread
            errors.append(error)

    _used = True
    openmp.GOMP_parallel(_Region(lane), None, team, 0)
    if errors:
        raise errors[0]
    if _thread.get_ident() not in came:  # Ctrl-C at the first step of all, which nobody else is told
        raise KeyboardInterrupt
    return True


def _before_fork() -> None:
    """Let the team go: a child would wait for threads that only its parent has."""
    if _used and _thread.get_ident() == threading.main_thread().ident:
        _openmp().omp_pause_resource_all(1)


def _in_child() -> None:
    global _is_child
    _is_child = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_in_child)
