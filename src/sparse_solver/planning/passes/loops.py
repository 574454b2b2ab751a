"""The compiled loops. Each does what its namesake in `plain` does, for rows `start` to `stop`.

Sums run in the order of the nonzeros, and nothing is reordered or contracted, so that the bits are
those of NumPy and SciPy. Comparisons are written so that NaN and infinity are noticed: s - s is zero of
other numbers. Indices are unsigned, for which numba needs no look whether they count from the end, and
one place runs on through all rows: rows are short, and what is done once for each row costs most.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

__all__ = [
    "OPTIONS",
    "adjoint",
    "cache_path",
    "compile_for",
    "residual",
    "sizes",
    "spread",
    "sum_up",
    "take",
]

OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
_u = np.uint64
_NOWHERE = np.uint64(2**32 - 1)  # -1 without a sign


@njit(**OPTIONS)
def _mirrored(values, upper, mirror, start, stop):
    """Whether pairs of entries are equal. Branches would take more than the rest after an odd pair."""
    odd = False
    for k in range(_u(start), _u(stop)):
        odd |= values[upper[k]] != values[mirror[k]]
    return not odd


@njit(**OPTIONS)
def sizes(indptr, at, upper, mirror, values, room, diagonal, start, stop):
    """(norm, least, margin, lowest, mirrored), the last for this part's share of the pairs; the norm is
    NaN where a sum is not finite.
    """
    kind = values.dtype.type
    norm, margin, lowest, odd = kind(0), kind(np.inf), kind(np.inf), kind(0)
    least = kind(np.inf)
    copy, n, pairs = len(room) > 0, max(1, len(at)), len(upper)
    mirrored = _mirrored(values, upper, mirror, pairs * start // n, pairs * stop // n)
    e = indptr[start]
    for i in range(_u(start), _u(stop)):
        s, d, k, end = kind(0), kind(0), at[i], indptr[i + _u(1)]
        if copy:
            while e < end:
                v = values[e]
                s += abs(v)
                room[e] = v
                e += _u(1)
        else:
            while e < end:
                s += abs(values[e])
                e += _u(1)
        if k != _NOWHERE:
            d = values[k]
        # NaN is odd anyway.
        lowest = d if d < lowest else lowest
        d = abs(d)
        diagonal[i] = d
        odd += s - s
        norm = s if s > norm else norm
        least = s if s < least else least
        excess = d + d - s
        margin = excess if excess < margin else margin
    return norm if odd == 0 else kind(np.nan), least, margin, lowest, mirrored


@njit(**OPTIONS)
def residual(indptr, cols, values, x, b, diagonal, transposed, r, start, stop):
    """(top, reach, least); top is NaN where the residual is not finite."""
    kind = values.dtype.type
    top, reach, least, odd = kind(0), kind(0), kind(np.inf), kind(0)
    e, wanted = indptr[start], len(r) > 0
    if transposed:  # all rows at once
        for i in range(_u(stop)):
            r[i] = b[i]
        for i in range(_u(stop)):
            xi, end = x[i], indptr[i + _u(1)]
            while e < end:
                r[cols[e]] -= values[e] * xi
                e += _u(1)
    for i in range(_u(start), _u(stop)):
        if transposed:
            s = r[i]
        else:
            s, end = b[i], indptr[i + _u(1)]
            while e < end:
                s -= values[e] * x[cols[e]]
                e += _u(1)
            if wanted:
                r[i] = s
        size, reached = abs(s), abs(x[i]) * diagonal[i]
        odd += size - size
        top = size if size > top else top
        reach = reached if reached > reach else reach
        least = reached if reached < least else least
    return top if odd == 0 else kind(np.nan), reach, least


@njit(**OPTIONS)
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


@njit(**OPTIONS)
def _outer(indptr, cols, y, x, swapped, out, start, stop):
    e = indptr[start]
    for i in range(_u(start), _u(stop)):
        xi, minus, end = x[i], -y[i], indptr[i + _u(1)]
        if swapped:
            while e < end:
                out[e] = -y[cols[e]] * xi
                e += _u(1)
        else:
            while e < end:
                out[e] = minus * x[cols[e]]
                e += _u(1)


@njit(**OPTIONS)
def adjoint(indptr, cols, values, diagonal, y, b, x, swapped, out, start, stop):
    """`_outer` and the facts of `residual` for A y = b."""
    kind = values.dtype.type
    top, reach, least, odd = kind(0), kind(0), kind(np.inf), kind(0)
    e = indptr[start]
    for i in range(_u(start), _u(stop)):
        s, yi, xi, end = b[i], y[i], x[i], indptr[i + _u(1)]
        minus = -yi
        if swapped:
            while e < end:
                yj = y[cols[e]]
                s -= values[e] * yj
                out[e] = -yj * xi
                e += _u(1)
        else:
            while e < end:
                j = cols[e]
                s -= values[e] * y[j]
                out[e] = minus * x[j]
                e += _u(1)
        size, reached = abs(s), abs(yi) * diagonal[i]
        odd += size - size
        top = size if size > top else top
        reach = reached if reached > reach else reach
        least = reached if reached < least else least
    return top if odd == 0 else kind(np.nan), reach, least


@njit(**OPTIONS)
def sum_up(single, others, pointer, order, triplets, out, start, stop):
    """Sums of the triplets of each place: `single` is the only one, except for `others`, whose triplets
    `order` has one after the other.
    """
    kind = triplets.dtype.type
    for i in range(_u(start), _u(stop)):
        out[i] = kind(0) + triplets[single[i]]
    first, last = np.searchsorted(others, start), np.searchsorted(others, stop)
    k = pointer[first]
    for j in range(_u(first), _u(last)):
        s, end = kind(0), pointer[j + _u(1)]
        while k < end:
            s += triplets[order[k]]
            k += _u(1)
        out[others[j]] = s


@njit(**OPTIONS)
def spread(single, others, pointer, order, values, out, start, stop):
    """The transpose of `sum_up`, where no place is without a triplet."""
    for i in range(_u(start), _u(stop)):
        out[single[i]] = values[i]
    first, last = np.searchsorted(others, start), np.searchsorted(others, stop)
    k = pointer[first]
    for j in range(_u(first), _u(last)):
        v, end = values[others[j]], pointer[j + _u(1)]
        while k < end:
            out[order[k]] = v
            k += _u(1)


@njit(**OPTIONS)
def take(index, values, out, start, stop):
    """The values at the places in `index`."""
    for k in range(_u(start), _u(stop)):
        out[k] = values[index[k]]


def compile_for(dtype: np.dtype) -> tuple[Any, ...]:
    """(sizes, residual, columns, outer, mirrored, sum, take, adjoint) for this real dtype."""
    f, i = types.Array(types.float64 if dtype.char == "d" else types.float32, 1, "C"), types.int64
    narrow, wide = types.uint32[::1], types.int64[::1]
    sizes.compile((*[narrow] * 4, f, f, f, i, i))
    residual.compile((narrow, narrow, f, f, f, f, types.boolean, f, i, i))
    g = types.Array(f.dtype, 2, "C")
    _columns.compile((narrow, narrow, f, g, g, f, f, f, f, f, i, i))
    _outer.compile((narrow, narrow, f, f, types.boolean, f, i, i))
    _mirrored.compile((f, wide, wide, i, i))
    sum_up.compile((*[narrow] * 4, f, f, i, i))
    take.compile((narrow, f, f, i, i))
    adjoint.compile((narrow, narrow, f, f, f, f, f, types.boolean, f, i, i))
    return sizes, residual, _columns, _outer, _mirrored, sum_up, take, adjoint


def cache_path() -> str:
    """The folder in which numba keeps what it compiled."""
    return sizes.stats.cache_path
