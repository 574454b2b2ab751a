"""The compiled loops. Each does what its namesake in `plain` does, for rows `start` to `stop`.

Sums run in the order of the nonzeros, and nothing is reordered or contracted, so that the bits are
those of NumPy and SciPy. Comparisons are written so that NaN and infinity are noticed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

__all__ = ["compile_for"]

_options: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}


@njit(**_options)
def _sizes(indptr, at, values, row_sums, diagonal, start, stop):
    """(norm, margin); the norm is NaN where a sum is not finite."""
    kind = values.dtype.type
    norm, margin, finite = kind(0), kind(np.inf), True
    for i in range(start, stop):
        s = kind(0)
        for e in range(indptr[i], indptr[i + 1]):
            s += abs(values[e])
        d = abs(values[at[i]]) if at[i] >= 0 else kind(0)
        row_sums[i], diagonal[i] = s, d
        finite = finite and s < np.inf
        norm, margin = max(norm, s), min(margin, d + d - s)
    return norm if finite else kind(np.nan), margin


@njit(**_options)
def _residual(indptr, cols, values, x, b, diagonal, transposed, r, start, stop):
    """(top, reach, least); top is NaN where the residual is not finite."""
    kind = values.dtype.type
    top, reach, least, finite = kind(0), kind(0), kind(np.inf), True
    if transposed:  # all rows at once
        for i in range(stop):
            r[i] = b[i]
        for i in range(stop):
            xi = x[i]
            for e in range(indptr[i], indptr[i + 1]):
                r[cols[e]] -= values[e] * xi
    for i in range(start, stop):
        if not transposed:
            s = b[i]
            for e in range(indptr[i], indptr[i + 1]):
                s -= values[e] * x[cols[e]]
            r[i] = s
        size, reached = abs(r[i]), abs(x[i]) * diagonal[i]
        finite = finite and size < np.inf
        top, reach, least = max(top, size), max(reach, reached), min(least, reached)
    return top if finite else kind(np.nan), reach, least


@njit(**_options)
def _columns(indptr, cols, values, x, b, diagonal, r, top, reach, least, start, stop):
    k, kind = len(top), values.dtype.type
    for i in range(start, stop):
        for c in range(k):
            r[c] = kind(0)
        for e in range(indptr[i], indptr[i + 1]):
            a, j = values[e], cols[e]
            for c in range(k):
                r[c] += a * x[j, c]
        d = diagonal[i]
        for c in range(k):
            size, reached = abs(r[c] - b[i, c]), abs(x[i, c]) * d
            # Where one is NaN, so is the outcome, from then on.
            top[c] = size if size > top[c] or size != size else top[c]
            reach[c] = reached if reached > reach[c] or reached != reached else reach[c]
            least[c] = reached if reached < least[c] or reached != reached else least[c]


@njit(**_options)
def _outer(y, x, rows, cols, out, start, stop):
    for e in range(start, stop):
        out[e] = y[rows[e]] * x[cols[e]]


@njit(**_options)
def _mirrored(values, upper, mirror, start, stop):
    for e in range(start, stop):
        if values[upper[e]] != values[mirror[e]]:
            return False
    return True


def compile_for(dtype: np.dtype) -> tuple[Any, Any, Any, Any, Any]:
    """(sizes, residual, columns, outer, mirrored) for this real dtype."""
    f, i = types.Array(types.float64 if dtype.char == "d" else types.float32, 1, "C"), types.int64
    narrow, wide = types.int32[::1], types.int64[::1]
    _sizes.compile((narrow, wide, f, f, f, i, i))
    _residual.compile((narrow, narrow, f, f, f, f, types.boolean, f, i, i))
    g = types.Array(f.dtype, 2, "C")
    _columns.compile((narrow, narrow, f, g, g, f, f, f, f, f, i, i))
    _outer.compile((f, f, wide, wide, f, i, i))
    _mirrored.compile((f, wide, wide, i, i))
    return _sizes, _residual, _columns, _outer, _mirrored
