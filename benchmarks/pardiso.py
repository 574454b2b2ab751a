"""A thin binding of MKL's PARDISO for positive definite matrices, from the PyPI package `mkl`.

Only to compare with. Phases are named as in MKL's reference: 11 analyses, 22 factors, 33 solves,
-1 releases everything.

It runs in a process of its own, which takes its own times: torch carries an MKL inside whose symbols
mix with this one's, and then PARDISO fails with "not enough memory" or never returns.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import pickle
import subprocess
import sys
import time
from typing import Any

import numpy as np

__all__ = ["REST", "Apart", "why_not"]

REST = 0.25  # s after which idle threads of Intel's OpenMP sleep (they spin for 0.2 s by default)
_DEFINITE = 2  # mtype: real, symmetric, positive definite; the upper triangle is read
_INTEL_THREADS, _LP64 = 0, 0
_REFINE, _KEPT, _NUMERIC, _ZERO_BASED = 7, 15, 16, 34  # places in iparm, counted from zero


@functools.lru_cache
def _library() -> ctypes.CDLL:
    files = importlib.metadata.files("mkl") or []
    found = [f for f in files if f.name.startswith("libmkl_rt.so") or f.name.startswith("mkl_rt")]
    if not found:
        raise OSError("the package mkl has no mkl_rt")
    library = ctypes.CDLL(str(found[0].locate()))
    library.MKL_Set_Interface_Layer(_LP64)
    library.MKL_Set_Threading_Layer(_INTEL_THREADS)
    return library


@functools.lru_cache
def why_not() -> str | None:
    """None if PARDISO can be used here, else the reason why not."""
    try:
        files = importlib.metadata.files("mkl") or []
    except importlib.metadata.PackageNotFoundError:
        return "pip install mkl"
    if not any("mkl_rt" in f.name for f in files):
        return "the package mkl has no mkl_rt"
    return None


def _at(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


class Pardiso:
    """One matrix structure; `analyse`, then `factor` and `solve` as often as wanted.

    Parameters
    ----------
    indptr, indices : CSR of the upper triangle, diagonal included, columns ascending
    threads : int
    """

    def __init__(self, indptr: np.ndarray, indices: np.ndarray, threads: int) -> None:
        self._mkl = _library()
        self._mkl.MKL_Set_Num_Threads(ctypes.c_int(threads))
        self.n = len(indptr) - 1
        self._indptr, self._indices = indptr.astype(np.int32), indices.astype(np.int32)
        self._values = np.zeros(len(indices))
        self._handle = np.zeros(64, np.int64)
        self._options = np.zeros(64, np.int32)
        kind = ctypes.c_int(_DEFINITE)
        self._mkl.pardisoinit(_at(self._handle), ctypes.byref(kind), _at(self._options))
        self._options[_ZERO_BASED] = 1
        self._options[_REFINE] = 0  # as the others: only where pivots were perturbed, so never

    def _call(self, phase: int, b: np.ndarray | None = None, x: np.ndarray | None = None) -> None:
        one, n, silent, error = 1, self.n, 0, ctypes.c_int(0)
        columns = 1 if b is None or b.ndim == 1 else b.shape[1]
        none = ctypes.c_void_p(None)
        # pt maxfct mnum mtype phase n a ia ja perm nrhs iparm msglvl b x error
        numbers = [ctypes.c_int(k) for k in (one, one, _DEFINITE, phase, n, columns, silent)]
        maxfct, mnum, mtype, phase_, n_, nrhs, msglvl = (ctypes.byref(k) for k in numbers)
        self._mkl.pardiso(
            _at(self._handle), maxfct, mnum, mtype, phase_, n_,
            _at(self._values), _at(self._indptr), _at(self._indices), none, nrhs,
            _at(self._options), msglvl,
            none if b is None else _at(b), none if x is None else _at(x), ctypes.byref(error),
        )  # fmt: skip
        if error.value:
            raise RuntimeError(f"PARDISO phase {phase}: error {error.value}")

    def analyse(self) -> None:
        """Order and plan, by nested dissection (MKL's METIS)."""
        self._call(11)

    def factor(self, values: np.ndarray) -> None:
        """Factor the values (nnz,) of the upper triangle, in the storage of the factor before."""
        self._values = values
        self._call(22)

    def solve(self, b: np.ndarray) -> np.ndarray:
        """A^-1 b for b (n,) or Fortran-ordered (n, k)."""
        x = np.empty_like(b)
        self._call(33, b, x)
        return x

    @property
    def memory(self) -> int:
        """Bytes kept, as MKL says."""
        return 1024 * int(self._options[_KEPT] + self._options[_NUMERIC])

    def release(self) -> None:
        """Free everything."""
        self._call(-1)


class Apart:
    """`Pardiso` in another process: each call returns its seconds there, and its result."""

    def __init__(self, *structure: Any) -> None:
        command = [sys.executable, __file__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.call("start", *structure)

    def call(self, name: str, *arguments: Any) -> tuple[float, Any]:
        """Call a method or ask for "memory"."""
        assert self._process.stdin is not None and self._process.stdout is not None
        pickle.dump((name, arguments), self._process.stdin, protocol=5)
        self._process.stdin.flush()
        try:
            seconds, result = pickle.load(self._process.stdout)
        except EOFError:
            raise RuntimeError(f"the process of PARDISO ended during {name!r}") from None
        if isinstance(result, Exception):
            raise result
        return seconds, result

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _serve() -> None:
    solver: Pardiso | None = None
    while True:
        try:
            name, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        start = time.perf_counter()
        result: Any = None
        try:
            if name == "start":
                solver = Pardiso(*arguments)
            elif name == "memory":
                result = solver.memory
            else:
                result = getattr(solver, name)(*arguments)
        except Exception as error:
            result = error
        pickle.dump((time.perf_counter() - start, result), sys.stdout.buffer, protocol=5)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve()
