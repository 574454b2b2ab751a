"""cholespy: CHOLMOD factors on the CPU, substitution where the tensors are, on the GPU too.

Notes
-----
For definite real matrices. CHOLMOD is used here without BLAS and is analysed anew at each
factorisation, so on the CPU every other engine is faster; the engine is for GPUs without cuDSS, and for
many solves with one factor.
"""

from __future__ import annotations

import atexit
import importlib.util
import threading
import time
import weakref
from typing import Any

import numpy as np
import torch

from ..matrix import Pattern
from .base import Declined, Engine, Numeric, Symbolic

__all__ = ["Cholespy"]

_COLUMNS = 128  # right-hand sides that it takes at once on a GPU
_alive: weakref.WeakSet[_CholespyNumeric] = weakref.WeakSet()


@atexit.register
def _let_go() -> None:
    """Before the interpreter ends: the library complains of solvers that outlive it."""
    for numeric in list(_alive):
        numeric.handle = None


class _CholespyNumeric(Numeric):
    def __init__(self, handle: Any, seconds: float, dtype: Any, n: int, definite: bool) -> None:
        self.handle, self.seconds, self.dtype = handle, seconds, dtype
        self.inertia = (n, 0, 0) if definite else None
        self._lock = threading.Lock()  # its buffers are those of the factor
        _alive.add(self)

    def solve(self, b: Any, transposed: bool = False) -> Any:
        """Solve A x = b for b (n,) or (n, k), an array, or (1, n, k), a tensor; A^T = A."""
        if isinstance(b, np.ndarray):
            return self._solve(b, np.empty_like, 1 if b.ndim == 1 else b.shape[1])
        x = self._solve(b[0].contiguous(), torch.empty_like, b.shape[-1])
        return x.unsqueeze(0)

    def _solve(self, b: Any, like: Any, k: int) -> Any:
        with self._lock:
            if b.ndim == 1 or k <= _COLUMNS:
                return self._block(b, like)
            parts = [b[:, at : at + _COLUMNS] for at in range(0, k, _COLUMNS)]
            if isinstance(b, np.ndarray):
                return np.concatenate(
                    [self._block(np.ascontiguousarray(p), like) for p in parts], axis=1
                )
            return torch.cat([self._block(p.contiguous(), like) for p in parts], 1)

    def _block(self, b: Any, like: Any) -> Any:
        x = like(b)
        if b.size if isinstance(b, np.ndarray) else b.numel():
            self.handle.solve(b, x)
        return x

    def failed(self) -> bool:
        """Whether the factorisation broke down: then there is none."""
        return False


class Cholespy(Engine):
    """Adapter of https://pypi.org/project/cholespy (BSD)."""

    name = "cholespy"
    paths = {"cholesky": "CHOLMOD's simplicial Cholesky on the CPU, substitution on the GPU"}
    dtypes = ("float32", "float64")
    devices = ("cpu", "cuda")
    kinds = ("hermitian", "spd")
    looks_at_values = False
    opaque = frozenset(paths)
    tensors = True
    chosen = False

    def why_not(self) -> str | None:
        """None if it is installed."""
        return None if importlib.util.find_spec("cholespy") is not None else "pip install cholespy"

    def analyze(self, pattern: Pattern, path: str, values: Any, threads: int) -> Symbolic:
        """Nothing: the library analyses as part of each factorisation."""
        start = time.perf_counter()
        indices: Any = pattern.csr
        if isinstance(values, torch.Tensor):
            indices = tuple(torch.from_numpy(i).to(values.device, torch.int32) for i in indices)
        else:
            indices = tuple(i.astype(np.int32, copy=False) for i in indices)
        return Symbolic(pattern, path, indices, None, None, None, time.perf_counter() - start)

    def factorize(
        self, symbolic: Symbolic, values: Any, threads: int, recycle: Numeric | None = None
    ) -> Numeric:
        """See `Engine.factorize`, for values (nnz,), an array, or (1, nnz), a tensor."""
        import cholespy

        start = time.perf_counter()
        pattern = symbolic.pattern
        if isinstance(values, torch.Tensor):
            if values.is_cuda and values.device.index not in (None, 0):
                raise Declined(f"cholespy works on GPU 0 alone, not on {values.device}")
            numbers: Any = values[0].contiguous()
            single = values.dtype == torch.float32
        else:
            numbers, single = np.ascontiguousarray(values), values.dtype == np.float32
        solver = cholespy.CholeskySolverF if single else cholespy.CholeskySolverD
        try:
            handle = solver(pattern.shape[0], *symbolic.handle, numbers, cholespy.MatrixType.CSR)
        except (ValueError, RuntimeError) as error:
            raise Declined(f"cholespy: {error}") from error
        seconds = time.perf_counter() - start
        return _CholespyNumeric(handle, seconds, values.dtype, pattern.shape[0], True)
