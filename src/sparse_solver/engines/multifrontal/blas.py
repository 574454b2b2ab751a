"""BLAS and LAPACK for the large fronts: SciPy's own, called through addresses passed at run time.

An address held by compiled code could not be cached, and would tie it to one library.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import get_cython_function_address, intrinsic

__all__ = ["GEMM", "HERK", "TRSM", "addresses", "gemm", "herk", "one_thread", "trsm", "yield_address"]

GEMM, HERK, TRSM = range(3)  # places in `addresses`
_BYTES = ir.IntType(8).as_pointer()


def _caller(arguments: str):  # type: ignore[no-untyped-def]
    """A compiled call of a Fortran routine: c a letter, i an integer, s a scalar, p an array."""

    def call(typingctx, address, args):  # type: ignore[no-untyped-def]
        def codegen(context, builder, sig, given):  # type: ignore[no-untyped-def]
            pointers = []
            for k, kind in enumerate(arguments):
                value, type_ = builder.extract_value(given[1], k), sig.args[1].types[k]
                if kind != "p":
                    if kind in "ci":
                        wanted = types.int8 if kind == "c" else types.int32
                        value = context.cast(builder, value, type_, wanted)
                    slot = cgutils.alloca_once(builder, value.type)
                    builder.store(value, slot)
                    value = slot
                pointers.append(builder.bitcast(value, _BYTES))
            kind = ir.FunctionType(ir.VoidType(), [_BYTES] * len(pointers))
            builder.call(builder.inttoptr(given[0], kind.as_pointer()), pointers)
            return context.get_dummy_value()

        return types.void(types.int64, args), codegen

    return intrinsic(call)


# Arguments as in the reference: letters by their codes, C = conjugate transpose, L = lower, ...
gemm = _caller("cciiispipispi")  # transa transb m n k alpha A lda B ldb beta C ldc
herk = _caller("cciispispi")  # uplo trans n k alpha A lda beta C ldc, alpha and beta real
trsm = _caller("cccciispipi")  # side uplo trans diag m n alpha A lda B ldb


@functools.lru_cache
def addresses(dtype: str) -> np.ndarray:
    """Of the routines above for this NumPy element type, (3,) int64."""
    letter = {"float32": "s", "float64": "d", "complex64": "c", "complex128": "z"}[dtype]
    herk_ = "herk" if letter in "cz" else "syrk"
    found = [
        get_cython_function_address("scipy.linalg.cython_blas", letter + name)
        for name in ("gemm", herk_, "trsm")
    ]
    return np.array(found, np.int64)


@functools.lru_cache
def _libraries() -> list:
    from threadpoolctl import ThreadpoolController

    import scipy.linalg.cython_blas  # noqa: F401

    return ThreadpoolController().select(user_api="blas").lib_controllers


_lock = Lock()
_users = 0
_before: list[int] = []


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread inside BLAS while this library's own share the work; as it was afterwards.

    Two teams of threads on the same cores stall each other for many times the work itself.
    """
    global _users, _before
    with _lock:
        if _users == 0:
            _before = [library.num_threads for library in _libraries()]
            for library in _libraries():
                library.set_num_threads(1)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                for library, threads in zip(_libraries(), _before, strict=True):
                    library.set_num_threads(threads)


@functools.lru_cache
def yield_address() -> int:
    """Of the system's function by which a thread lets others run."""
    if hasattr(ctypes, "windll"):
        function = ctypes.windll.kernel32.SwitchToThread
    else:
        function = ctypes.CDLL(None).sched_yield
    return ctypes.cast(function, ctypes.c_void_p).value or 0
