"""Entries of products with A^-1 by plain solves, a block of unit vectors at a time: n solves in all,
each refined and judged. The reference for everything quicker, and what is left when that declines.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import _sparsetools  # type: ignore[attr-defined]

from ..matrix import Pattern
from .equations import NORMWISE
from .factored import Factored

__all__ = ["WIDTH", "chain", "multiply", "unit_blocks"]

WIDTH = 64  # unit vectors at a time
_MANY = 100  # blocks from which a word of warning is due


def unit_blocks(n: int, dtype: np.dtype, what: str) -> Iterator[tuple[slice, np.ndarray]]:
    """(columns, unit vectors (n, WIDTH)) over all n; with a warning where that takes long."""
    if n > _MANY * WIDTH:
        warnings.warn(
            f"{what} for n = {n} by {n} solves: no engine at hand gives it directly. The answer is "
            "exact; it takes long",
            stacklevel=2,
        )
    for start in range(0, n, WIDTH):
        columns = slice(start, min(start + WIDTH, n))
        E = np.zeros((n, columns.stop - start), dtype)
        E[np.arange(start, columns.stop), np.arange(columns.stop - start)] = 1
        yield columns, E


def multiply(pattern: Pattern, values: np.ndarray, x: np.ndarray) -> np.ndarray:
    """M x for values (nnz,) and x (n, k)."""
    indptr, cols = pattern.csr
    n, k = x.shape
    y = np.zeros((n, k), x.dtype)
    values = np.ascontiguousarray(values, x.dtype)
    _sparsetools.csr_matvecs(
        n, n, k, indptr, cols, values, np.ascontiguousarray(x).ravel(), y.reshape(-1)
    )
    return y


def _solve(f: Factored, b: np.ndarray) -> np.ndarray:
    """A^-1 b, accurate normwise: tiny entries of A's inverse beside large ones have no more."""
    assert f.attempt is not None
    x, accurate = f._refined(f.attempt, b, False)
    good = accurate or (f.residual is not None and f.residual <= NORMWISE * f.equations.eps)
    return x if good or not f.planner.method.check else f.solve(b)


def chain(f: Factored, Ms: Sequence[np.ndarray]) -> np.ndarray:
    """See `answers.chain`. Column i of the product, for the nonzeros (i, j) of row i."""
    eq, pattern = f.equations, f.equations.pattern
    rows, cols = pattern.rows.numpy(), pattern.cols.numpy()
    out = np.empty(pattern.nnz, eq.values.dtype)
    for columns, X in unit_blocks(eq.n, eq.values.dtype, "entries of the inverse"):
        X = _solve(f, X)
        for M in reversed(Ms):
            X = _solve(f, multiply(pattern, M, X))
        here = slice(pattern.indptr[columns.start], pattern.indptr[columns.stop])
        out[here] = X[cols[here], rows[here] - columns.start]
    return out
