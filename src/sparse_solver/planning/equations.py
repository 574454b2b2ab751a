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
from functools import cached_property

import numpy as np
from scipy.sparse import _sparsetools  # type: ignore[attr-defined]

from ..errors import NonFiniteError
from ..matrix import Pattern
from .passes import passes_for
from .passes.layout import Found
from .passes.plain import Sizes

__all__ = ["COMPONENTWISE", "NORMWISE", "Equations"]

NORMWISE = 1e3  # units of eps
COMPONENTWISE = 1e7
_EPS = {np.dtype(t).char: float(np.finfo(t).eps) for t in ("f4", "f8", "c8", "c16")}


class Equations:
    """Values on a pattern, with the sums that judging a solution needs.

    Parameters
    ----------
    pattern : Pattern
    values : array, shape (nnz,)
        Kept, not copied, unless there is room: the caller hands over its snapshot.
    room : array, shape (nnz,), optional
        Where a snapshot of the values is to be put, which is kept then.

    Raises
    ------
    NonFiniteError
        If a value is NaN or infinite.
    """

    def __init__(self, pattern: Pattern, values: np.ndarray, room: np.ndarray | None = None) -> None:
        self.pattern, self.values = pattern, values if room is None else room
        self.n = pattern.shape[0]
        self.eps = _EPS[values.dtype.char]
        found = passes_for(values.dtype).sizes(pattern, values, room)
        self.sizes: Sizes | Found = found
        self.diagonal, self.mirrored = found.diagonal, found.mirrored
        if not math.isfinite(found.norm):
            self._raise_non_finite()

    @cached_property
    def magnitudes(self) -> np.ndarray:
        """|a_ij| at the nonzeros."""
        return np.abs(self.values)

    @cached_property
    def row_sums(self) -> np.ndarray:
        """Of |a_ij|."""
        return self._sums(np.ones(self.n, self.magnitudes.dtype), False)

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

    def residual(self, x: np.ndarray, b: np.ndarray, transposed: bool) -> np.ndarray:
        """b - A x, or b - A^T x, for (n,) or (n, k) contiguous."""
        if x.ndim == 1:
            return self._facts(x, b, transposed, True)[0]
        indptr, cols = self.pattern.csr
        r, (n, k) = b.copy(), x.shape
        products = _sparsetools.csc_matvecs if transposed else _sparsetools.csr_matvecs
        products(n, n, k, indptr, cols, self.values, (-x).ravel(), r.reshape(-1))
        return r

    def _facts(
        self, x: np.ndarray, b: np.ndarray, transposed: bool, wanted: bool
    ) -> tuple[np.ndarray, float, float, float]:
        given = self.pattern, self.values, self.diagonal
        transposed = transposed and not self.mirrored
        return passes_for(x.dtype).residual(*given, x, b, transposed, wanted)

    def judge(self, x: np.ndarray, b: np.ndarray, transposed: bool) -> tuple[np.ndarray, bool, float]:
        """(r, accurate, error): the residual, as above, where x is not accurate in both senses, whether
        it is, and (at most) its normwise backward error.
        """
        if x.ndim == 1:
            r, *facts = self._facts(x, b, transposed, False)
            accurate, error = self._is_surely_accurate(*facts)
            if accurate:
                return r, True, error
        r = self.residual(x, b, transposed)
        with np.errstate(all="ignore"):
            return r, *self._judge_fully(x, np.abs(r), b, transposed)

    def _is_surely_accurate(self, top: float, reach: float, least: float) -> tuple[bool, float]:
        """(verdict, error): lower bounds of both denominators, from the diagonal alone, settle nearly
        every solve.
        """
        error = top / reach if reach > 0 else math.inf
        return error <= NORMWISE * self.eps and top <= COMPONENTWISE * self.eps * least, error

    def adjoint(
        self, y: np.ndarray, b: np.ndarray, x: np.ndarray, swapped: bool
    ) -> tuple[np.ndarray, float] | None:
        """(-y_i x_j at the nonzeros (i, j), or (j, i) if `swapped`; the error of y) for vectors and
        A = A^T, if y with A y = b is surely accurate; both in one pass.
        """
        given = self.pattern, self.values, self.diagonal, y, b, x, swapped
        out, *facts = passes_for(y.dtype).adjoint(*given)
        accurate, error = self._is_surely_accurate(*facts)
        return (out, error) if accurate else None

    def are_surely_accurate(self, x: np.ndarray, b: np.ndarray, transposed: bool) -> tuple[bool, float]:
        """Whether bounds from the diagonal alone accept all columns of x (n, k), and a bound of their
        normwise backward errors; a few rows at a time, so that nothing as large as x is written.
        """
        P = self.pattern.T if transposed else self.pattern
        values = self.values[self.pattern.transposed_order] if transposed else self.values
        given = P, values, self.diagonal, x, b
        top, reach, least = passes_for(x.dtype, x.shape[1] * len(values)).columns(*given)
        with np.errstate(all="ignore"):
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
        norm = self.sizes.norm
        if transposed:
            norm = self._sums(np.ones(self.n), True, magnitudes).max()
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
