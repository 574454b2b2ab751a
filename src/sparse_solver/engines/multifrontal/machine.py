"""The table of addresses that compiled code calls, and how many threads BLAS may use."""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import numpy as np

from .kernels import KERNELS
from .tile import tile_rows

__all__ = ["machine", "one_thread"]


@functools.lru_cache
def machine(dtype: str) -> np.ndarray:
    """Addresses, in the order of the places named in `calls`, for this NumPy element type."""
    letter = {"float32": "s", "float64": "d", "complex64": "c", "complex128": "z"}[dtype]
    hermitian = "he" if letter in "cz" else "sy"
    names = ("gemm", f"{hermitian}rk", "trsm", f"{hermitian}mm")
    found = [_scipy("blas", letter + name) for name in names]
    found += [_scipy("lapack", letter + name) for name in ("trtri", "lauum")]
    found += [kernel.address(np.dtype(dtype)) for kernel in KERNELS]
    found += [tile_rows(np.dtype(dtype).itemsize), *_waiting()]
    return np.array(found, np.int64)


def _scipy(library: str, name: str) -> int:
    """Address of a Fortran routine, which SciPy hands out for Cython's use."""
    capsule = importlib.import_module(f"scipy.linalg.cython_{library}").__pyx_capi__[name]
    python, thing = ctypes.pythonapi, ctypes.py_object
    get_name = ctypes.PYFUNCTYPE(ctypes.c_char_p, thing)(("PyCapsule_GetName", python))
    get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, thing, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", python)
    )
    return get_pointer(capsule, get_name(capsule))


def _waiting() -> tuple[int, int, int]:
    """Addresses of the system's functions to let others run and to sleep, and the time for the latter:
    50 microseconds, or the millisecond that is Windows's least.
    """
    if hasattr(ctypes, "windll"):
        kernel = ctypes.windll.kernel32
        functions, nap = (kernel.SwitchToThread, kernel.Sleep), 1
    else:
        system = ctypes.CDLL(None)
        functions, nap = (system.sched_yield, system.usleep), 50
    yielding, sleep = (ctypes.cast(f, ctypes.c_void_p).value or 0 for f in functions)
    return yielding, sleep, nap


@functools.lru_cache
def _libraries() -> list:
    import scipy.linalg.cython_blas  # noqa: F401
    from threadpoolctl import ThreadpoolController

    found = ThreadpoolController().select(user_api="blas").lib_controllers
    own = [library for library in found if "scipy.libs" in library.filepath]
    return own or found


_lock = RLock()  # a finaliser that runs while it is held may come back here
_users = 0
_before: list[int] = []

if hasattr(os, "register_at_fork"):

    def _in_child() -> None:
        """Those who shared the work, and held the lock, are not in a forked child."""
        global _lock, _users
        _lock = RLock()
        if _users:
            _users = 0
            _set_threads(_before)

    os.register_at_fork(after_in_child=_in_child)


def _set_threads(counts: list[int]) -> None:
    for library, threads in zip(_libraries(), counts, strict=True):
        # Newer versions listen to the first thread that asks and to no other; but backward passes run
        # on threads of their own, and who counts users need not be told to take turns.
        set_number = getattr(library, "_real_set_num_threads", library.set_num_threads)
        set_number(threads)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread inside BLAS while this library's own share the work; as it was afterwards.

    Two teams of threads on the same cores stall each other for many times the work itself.
    """
    global _users, _before
    with _lock:
        if _users == 0:
            before = [library.num_threads for library in _libraries()]
            _set_threads([1] * len(before))
            _before = before
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _set_threads(_before)
