"""SuperLU, as it comes with SciPy: always there, any square matrix, no reuse of an analysis."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ..matrix import Pattern
from .base import Declined, Engine, Numeric, Symbolic

__all__ = ["SuperLU"]


class _SuperLUNumeric(Numeric):
    def __init__(self, handle: Any, dtype: np.dtype, seconds: float, definite: bool) -> None:
        self.handle, self.dtype, self.seconds = handle, dtype, seconds
        self.nnz_factor = int(handle.nnz)
        self.memory = self.nnz_factor * (dtype.itemsize + 4)
        self._definite = definite

    @property
    def inertia(self) -> tuple[int, int, int] | None:  # type: ignore[override]
        """Signs of the pivots, where these are all taken from the diagonal."""
        if not self._definite or not np.array_equal(self.handle.perm_r, self.handle.perm_c):
            return None
        pivots = self.handle.U.diagonal().real
        positive = int((pivots > 0).sum())
        return positive, len(pivots) - positive, 0

    def solve(self, b: np.ndarray, transposed: bool = False) -> np.ndarray:
        if b.shape[-1] == 0:
            return np.empty_like(b)
        x = self.handle.solve(b, "T" if transposed else "N")
        return np.ascontiguousarray(x)


class SuperLU(Engine):
    """Adapter of scipy.sparse.linalg.splu (BSD)."""

    name = "superlu"
    paths = {
        "lu": "LU with partial pivoting on a column ordering",
        "diagonal": "LU that prefers diagonal pivots on a symmetric ordering, for definite matrices",
    }

    def analyze(self, pattern: Pattern, path: str, values: np.ndarray, threads: int) -> Symbolic:
        # SciPy offers no symbolic phase: only the conversion to columns can be prepared.
        start = time.perf_counter()
        take = pattern.transposed_order
        _ = pattern.T.csr
        return Symbolic(pattern, path, None, take, None, None, time.perf_counter() - start)

    def factorize(
        self, symbolic: Symbolic, values: np.ndarray, threads: int, recycle: Numeric | None = None
    ) -> Numeric:
        import scipy.sparse
        from scipy.sparse.linalg import splu

        start = time.perf_counter()
        indptr, indices = symbolic.pattern.T.csr
        A = scipy.sparse.csc_array(
            (values[symbolic.take], indices, indptr), shape=symbolic.pattern.shape
        )
        definite = symbolic.path == "diagonal"
        try:
            if definite:
                handle = splu(
                    A,
                    permc_spec="MMD_AT_PLUS_A",
                    diag_pivot_thresh=0.0,
                    options={"SymmetricMode": True},
                )
            else:
                handle = splu(A)
        except RuntimeError as error:
            raise Declined(f"superlu: {error}") from error
        seconds = time.perf_counter() - start
        return _SuperLUNumeric(handle, values.dtype, seconds, definite)
