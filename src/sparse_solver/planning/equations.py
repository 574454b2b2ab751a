"""A x = b as numbers on the host, and how well an x satisfies it.

Notes
-----
For r = b - A x the normwise backward error is |r| / (|A| |x| + |b|) in the maximum norm, and the
componentwise one max_i |r_i| / (|A| |x| + |b|)_i (Oettli and Prager 1964; Higham, Accuracy and
Stability of Numerical Algorithms, 2nd ed., theorems 7.1 and 7.3): the smallest relative change of
the data for which x is exact.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy.sparse import _sparsetools  # type: ignore[attr-defined]

from ..errors import NonFiniteError
from ..matrix import Pattern
from ..matrix.threads import by_parts

__all__ = ["COMPONENTWISE", "NORMWISE", "Equations"]

NORMWISE = 1e3  # units of eps
COMPONENTWISE = 1e7
_IN_CACHE = 1 << 15  # numbers of one temporary
_SHARED = 100_000  # nonzeros from which threads may share the passes over them
_EPS = {np.dtype(t).char: float(np.finfo(t).eps) for t in ("f4", "f8", "c8", "c16")}


_largest, _smallest = np.maximum.reduce, np.minimum.reduce  # without the methods' detours


@lru_cache(maxsize=4)
def _ones(n: int, dtype: np.dtype) -> np.ndarray:
    ones = np.ones(n, dtype)
    ones.flags.writeable = False
    return ones


class Equations:
    """Values on a pattern, with the sums that judging a solution needs.

    Parameters
    ----------
    pattern : Pattern
    values : array, shape (nnz,)
        Kept, not copied: the caller hands over its snapshot.

    Raises
    ------
    NonFiniteError
        If a value is NaN or infinite.
    """

    def __init__(self, pattern: Pattern, values: np.ndarray) -> None:
        self.pattern, self.values = pattern, values
        self.n = pattern.shape[0]
        self.eps = _EPS[values.dtype.char]
        self.magnitudes, self.row_sums = self._sizes()
        self.norm = float(_largest(self.row_sums)) if self.n else 0.0
        self.diagonal = self._diagonal()  # |a_ii|, zero where none is stored
        if not math.isfinite(self.norm):
            self._raise_non_finite()

    def _sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """|a_ij| at the nonzeros, and their sums by rows."""
        values, indptr = self.values, self.pattern.indptr
        if len(values) < _SHARED:
            magnitudes = np.abs(values)
            ones = _ones(self.n, magnitudes.dtype)
            return magnitudes, self._sums(ones, transposed=False, magnitudes=magnitudes)
        magnitudes = np.empty(len(values), values.real.dtype)
        sums = np.zeros(self.n, magnitudes.dtype)
        pointer, cols = self.pattern.csr
        ones = _ones(self.n, magnitudes.dtype)

        def rows(start: int, stop: int) -> None:
            here = slice(int(indptr[start]), int(indptr[stop]))
            np.abs(values[here], out=magnitudes[here])
            part = pointer[start : stop + 1], cols, magnitudes, ones, sums[start:stop]
            _sparsetools.csr_matvec(stop - start, self.n, *part)

        by_parts(self.n, len(values), rows)
        return magnitudes, sums

    def _raise_non_finite(self) -> None:
        bad = np.flatnonzero(~np.isfinite(self.values))
        if not len(bad):
            raise NonFiniteError("the absolute values of a row of A add up to infinity; rescale A")
        i, j = int(self.pattern.rows[bad[0]]), int(self.pattern.cols[bad[0]])
        raise NonFiniteError(
            f"A has {len(bad)} entries that are NaN or infinite, the first {self.values[bad[0]]} at "
            f"row {i}, column {j}"
        )

    def _sums(
        self, weights: np.ndarray, transposed: bool, magnitudes: np.ndarray | None = None
    ) -> np.ndarray:
        """|A| w or |A|^T w."""
        magnitudes = self.magnitudes if magnitudes is None else magnitudes
        indptr, cols = self.pattern.csr
        product = _sparsetools.csc_matvec if transposed else _sparsetools.csr_matvec
        out = np.zeros(self.n, dtype=magnitudes.dtype)
        product(self.n, self.n, indptr, cols, magnitudes, weights, out)
        return out

    def _diagonal(self) -> np.ndarray:
        at = self.pattern.diagonal
        if self.pattern.has_full_diagonal:
            return self.magnitudes[at]
        out = np.zeros(self.n, self.magnitudes.dtype)
        out[at >= 0] = self.magnitudes[at[at >= 0]]
        return out

    def residual(self, x: np.ndarray, b: np.ndarray, transposed: bool) -> np.ndarray:
        """b - A x, or b - A^T x, for (n,) or (n, k) contiguous."""
        indptr, cols = self.pattern.csr
        r = b.copy()
        n = self.n
        if x.ndim == 1:
            if transposed:
                _sparsetools.csc_matvec(n, n, indptr, cols, self.values, -x, r)
                return r
            minus_x = -x

            def rows(start: int, stop: int) -> None:
                part = indptr[start : stop + 1], cols, self.values, minus_x, r[start:stop]
                _sparsetools.csr_matvec(stop - start, n, *part)

            by_parts(n, len(self.values), rows)
        else:
            products = _sparsetools.csc_matvecs if transposed else _sparsetools.csr_matvecs
            k = x.shape[1]
            products(n, n, k, indptr, cols, self.values, (-x).ravel(), r.reshape(-1))
        return r

    def judge(
        self, x: np.ndarray, r: np.ndarray, b: np.ndarray, transposed: bool
    ) -> tuple[bool, float]:
        """Whether x is accurate in both senses, and (at most) its normwise backward error."""
        residual = np.abs(r)
        if x.ndim == 1:
            # Lower bounds of both denominators, from the diagonal alone, settle nearly every solve.
            size = np.abs(x)
            size *= self.diagonal
            top, reach = float(_largest(residual)), float(_largest(size))
            error = top / reach if reach > 0 else math.inf
            if error <= NORMWISE * self.eps and top <= COMPONENTWISE * self.eps * float(
                _smallest(size)
            ):
                return True, error
        with np.errstate(all="ignore"):
            return self._judge_fully(x, residual, b, transposed)

    def are_surely_accurate(self, x: np.ndarray, b: np.ndarray, transposed: bool) -> tuple[bool, float]:
        """Whether bounds from the diagonal alone accept all columns of x (n, k), and a bound of their
        normwise backward errors; a few rows at a time, so that nothing as large as x is written.
        """
        P = self.pattern.T if transposed else self.pattern
        values = self.values[self.pattern.transposed_order] if transposed else self.values
        indptr, cols = P.csr
        n, k = x.shape
        numbers = np.ascontiguousarray(x).reshape(-1)
        height = max(1, _IN_CACHE // k)
        r = np.empty((height, k), x.dtype)
        residual = np.empty((height, k), self.magnitudes.dtype)
        top, reach = np.zeros((2, k))
        least = np.full(k, math.inf)
        with np.errstate(all="ignore"):
            for start in range(0, n, height):
                stop = min(start + height, n)
                part, size = r[: stop - start], residual[: stop - start]
                part[:] = 0
                rows = indptr[start : stop + 1]
                _sparsetools.csr_matvecs(
                    stop - start, n, k, rows, cols, values, numbers, part.reshape(-1)
                )
                part -= b[start:stop]
                top = np.maximum(top, np.abs(part, out=size).max(0))
                np.abs(x[start:stop], out=size)
                size *= self.diagonal[start:stop, None]
                reach, least = np.maximum(reach, size.max(0)), np.minimum(least, size.min(0))
            error = float((top / reach).max())
        accurate = error <= NORMWISE * self.eps and bool(
            (top <= COMPONENTWISE * self.eps * least).all()
        )
        return accurate, error

    def _judge_fully(
        self, x: np.ndarray, residual: np.ndarray, b: np.ndarray, transposed: bool
    ) -> tuple[bool, float]:
        # In double precision, lest sums that overflow to infinity accept everything.
        magnitudes = self.magnitudes.astype(np.float64, copy=False)
        norm = self.norm
        if transposed:
            norm = self._sums(_ones(self.n, magnitudes.dtype), True, magnitudes).max()
        size = np.abs(x).astype(np.float64, copy=False)
        whole = np.abs(b).astype(np.float64)
        reach = norm * size.max(0) + whole.max(0)
        top = residual.max(0)
        # No denominator, no residual: 0 = 0. NaN stays NaN, and is not accurate.
        errors = np.where((reach > 0) | (top != 0), top / np.where(reach == 0, 1, reach), 0)
        error = float(errors.max())
        if not error <= NORMWISE * self.eps or not np.isfinite(reach).all():
            return False, error
        for j in range(1 if x.ndim == 1 else x.shape[1]):
            column = size if x.ndim == 1 else np.ascontiguousarray(size[:, j])
            target = whole if x.ndim == 1 else whole[:, j]
            target += self._sums(column, transposed, magnitudes)
        return bool((residual <= COMPONENTWISE * self.eps * whole).all()), error
