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
def _sizes(indptr, at, mates, values, row_sums, diagonal, start, stop):
    """(norm, margin, mirrored); the norm is NaN where a sum is not finite."""
    kind = values.dtype.type
    norm, margin, finite = kind(0), kind(np.inf), True
    mirrored = len(mates) > 0
    for i in range(start, stop):
        s = kind(0)
        for e in range(indptr[i], indptr[i + 1]):
            s += abs(values[e])
        d = abs(values[at[i]]) if at[i] >= 0 else kind(0)
        row_sums[i], diagonal[i] = s, d
        finite = finite and s < np.inf
        norm, margin = max(norm, s), min(margin, d + d - s)
        if mirrored:
            for e in range(at[i] + 1, indptr[i + 1]):
                if values[e] != values[mates[e]]:
                    mirrored = False
                    break
    return norm if finite else kind(np.nan), margin, mirrored


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
def _outer(indptr, cols, y, x, swapped, out, start, stop):
    for i in range(start, stop):
        if swapped:
            xi = x[i]
            for e in range(indptr[i], indptr[i + 1]):
                out[e] = -y[cols[e]] * xi
        else:
            yi = -y[i]
            for e in range(indptr[i], indptr[i + 1]):
                out[e] = yi * x[cols[e]]


@njit(**_options)
def _sum(pointer, order, triplets, out, start, stop):
    kind = triplets.dtype.type
    for i in range(start, stop):
        s = kind(0)
        for k in range(pointer[i], pointer[i + 1]):
            s += triplets[order[k]]
        out[i] = s


@njit(**_options)
def _take(index, values, out, start, stop):
    for k in range(start, stop):
        out[k] = values[index[k]]


@njit(**_options)
def _mirrored(values, upper, mirror, start, stop):
    for e in range(start, stop):
        if values[upper[e]] != values[mirror[e]]:
            return False
    return True


def compile_for(dtype: np.dtype) -> tuple[Any, ...]:
    """(sizes, residual, outer, mirrored, sum, take) for this real dtype."""
    f, i = types.Array(types.float64 if dtype.char == "d" else types.float32, 1, "C"), types.int64
    narrow, wide = types.int32[::1], types.int64[::1]
    _sizes.compile((narrow, wide, narrow, f, f, f, i, i))
    _residual.compile((narrow, narrow, f, f, f, f, types.boolean, f, i, i))
    _outer.compile((narrow, narrow, f, f, types.boolean, f, i, i))
    _mirrored.compile((f, wide, wide, i, i))
    _sum.compile((narrow, narrow, f, f, i, i))
    _take.compile((narrow, f, f, i, i))
    return _sizes, _residual, _outer, _mirrored, _sum, _take
