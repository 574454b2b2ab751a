"""SuperLU, as it comes with SciPy: always there, any square matrix, no reuse of an analysis."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ..matrix import Pattern
from .base import Declined, Engine, Numeric, Symbolic
from .triangles import Triangles, determinant

__all__ = ["SuperLU"]


class _SuperLUNumeric(Numeric):
    """Factors of R A C, with R and C diagonal, powers of two."""

    def __init__(
        self,
        handle: Any,
        dtype: np.dtype,
        seconds: float,
        definite: bool,
        scales: tuple[np.ndarray, np.ndarray],
    ) -> None:
        self.handle, self.dtype, self.seconds, self.scales = handle, dtype, seconds, scales
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
        r, c = self.scales if b.ndim == 1 else (s[:, None] for s in self.scales)
        if transposed:  # (R A C)^T = C A^T R
            r, c = c, r
        x = self.handle.solve(b * r, "T" if transposed else "N")
        return np.ascontiguousarray(x * c)

    def slogdet(self) -> tuple[complex, float]:
        h = self.handle
        return determinant(h.U.diagonal(), h.perm_r, h.perm_c, *self.scales)

    def factors(self) -> Triangles:
        h, (r, c) = self.handle, (s.astype(np.float64) for s in self.scales)
        places = {"row_place": h.perm_r.astype(np.int64), "col_place": h.perm_c.astype(np.int64)}
        return Triangles.from_csc(h.L, h.U, **places, r=r, c=c, gaps=True)  # SciPy drops zeros


def _powers_of_two(size: np.ndarray, power: float = -1.0) -> np.ndarray:
    """Near size**power, exact to multiply with."""
    with np.errstate(divide="ignore"):
        exponent = np.where(size > 0, np.log2(size.astype(np.float64)), 0.0)
    limit = 120 if size.dtype == np.float32 else 1000
    return np.exp2(np.clip(np.round(power * exponent), -limit, limit)).astype(size.dtype)


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
        pattern, definite = symbolic.pattern, symbolic.path == "diagonal"
        r, c = _scales(pattern, np.abs(values), definite)
        scaled = values * r[pattern.rows.numpy()] * c[pattern.cols.numpy()]
        indptr, indices = pattern.T.csr
        A = scipy.sparse.csc_array((scaled[symbolic.take], indices, indptr), shape=pattern.shape)
        options: dict[str, Any] = {}
        if definite:
            options = {
                "permc_spec": "MMD_AT_PLUS_A",
                "diag_pivot_thresh": 0.0,
                "options": {"SymmetricMode": True},
            }
        try:
            handle = splu(A, **options)
        except RuntimeError as error:
            raise Declined(f"superlu: {error}") from error
        seconds = time.perf_counter() - start
        return _SuperLUNumeric(handle, values.dtype, seconds, definite, (r, c))


def _scales(pattern: Pattern, size: np.ndarray, definite: bool) -> tuple[np.ndarray, np.ndarray]:
    """SciPy calls SuperLU below its own equilibration, without which pivoting compares rows of
    different units.
    """
    n, rows, cols = pattern.shape[0], pattern.rows.numpy(), pattern.cols.numpy()

    def tallest(index: np.ndarray, scaled: np.ndarray) -> np.ndarray:
        top = np.zeros(n, size.dtype)
        np.maximum.at(top, index, scaled)
        return _powers_of_two(top)

    candidates = []
    if pattern.has_full_diagonal:
        s = _powers_of_two(size[pattern.diagonal], -0.5)
        if definite:
            return s, s
        candidates.append((s, s))
    r = tallest(rows, size)
    candidates.append((r, tallest(cols, size * r[rows])))
    c = tallest(cols, size)
    candidates.append((tallest(rows, size * c[cols]), c))
    positive = size > 0
    i, j, levels = rows[positive], cols[positive], np.log2(size[positive])

    def spread(scales: tuple[np.ndarray, np.ndarray]) -> float:
        return float(np.abs(levels + np.log2(scales[0])[i] + np.log2(scales[1])[j]).sum())

    return min(candidates, key=spread)  # the one that leaves entries closest to one
