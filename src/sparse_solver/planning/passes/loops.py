"""The compiled loops. Each does what its namesake in `plain` does, for rows `start` to `stop`.

Sums run in the order of the nonzeros, and nothing is reordered or contracted, so that the bits are
those of NumPy and SciPy. Comparisons are written so that NaN and infinity are noticed: s - s is zero of
other numbers. Indices are unsigned, for which numba needs no look whether they count from the end, and
one place runs on through all rows: rows are short, and what is done once for each row costs most.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic

__all__ = ["calls_for", "compile_for"]

_options: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
_u = np.uint64
_NOWHERE = np.uint64(2**32 - 1)  # -1 without a sign


@njit(**_options)
def _sizes(indptr, at, mates, values, room, row_sums, diagonal, start, stop):
    """(norm, margin, lowest, mirrored); the norm is NaN where a sum is not finite."""
    kind = values.dtype.type
    norm, margin, lowest, odd = kind(0), kind(np.inf), kind(np.inf), kind(0)
    look, copy = len(mates) > 0, len(room) > 0
    mirrored = look
    e = indptr[start]
    for i in range(_u(start), _u(stop)):
        s, d, k, end = kind(0), kind(0), at[i], indptr[i + _u(1)]
        if look:
            while e < end:
                v = values[e]
                s += abs(v)
                if copy:
                    room[e] = v
                if e > k and v != values[mates[e]]:
                    mirrored = False
                e += _u(1)
        else:
            while e < end:
                v = values[e]
                s += abs(v)
                if copy:
                    room[e] = v
                e += _u(1)
        if k != _NOWHERE:
            d = values[k]
        # NaN is odd anyway.
        lowest = d if d < lowest else lowest
        d = abs(d)
        row_sums[i], diagonal[i] = s, d
        odd += s - s
        norm = s if s > norm else norm
        excess = d + d - s
        margin = excess if excess < margin else margin
    return norm if odd == 0 else kind(np.nan), margin, lowest, mirrored


@njit(**_options)
def _residual(indptr, cols, values, x, b, diagonal, transposed, r, start, stop):
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


@njit(**_options)
def _adjoint(indptr, cols, values, diagonal, y, b, x, swapped, out, start, stop):
    """`_outer` and the facts of `_residual` for A y = b."""
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


@njit(**_options)
def _mirrored(values, upper, mirror, start, stop):
    for e in range(start, stop):
        if values[upper[e]] != values[mirror[e]]:
            return False
    return True


@njit(**_options)
def _sum(pointer, order, triplets, out, start, stop):
    kind = triplets.dtype.type
    k = pointer[start]
    for i in range(_u(start), _u(stop)):
        s, end = kind(0), pointer[i + _u(1)]
        while k < end:
            s += triplets[order[k]]
            k += _u(1)
        out[i] = s


@njit(**_options)
def _take(index, values, out, start, stop):
    for k in range(_u(start), _u(stop)):
        out[k] = values[index[k]]


def compile_for(dtype: np.dtype) -> tuple[Any, ...]:
    """(sizes, residual, columns, outer, mirrored, sum, take, adjoint) for this real dtype."""
    f, i = types.Array(types.float64 if dtype.char == "d" else types.float32, 1, "C"), types.int64
    narrow, wide = types.uint32[::1], types.int64[::1]
    _sizes.compile((narrow, narrow, narrow, f, f, f, f, i, i))
    _residual.compile((narrow, narrow, f, f, f, f, types.boolean, f, i, i))
    g = types.Array(f.dtype, 2, "C")
    _columns.compile((narrow, narrow, f, g, g, f, f, f, f, f, i, i))
    _outer.compile((narrow, narrow, f, f, types.boolean, f, i, i))
    _mirrored.compile((f, wide, wide, i, i))
    _sum.compile((narrow, narrow, f, f, i, i))
    _take.compile((narrow, f, f, i, i))
    _adjoint.compile((narrow, narrow, f, f, f, f, f, types.boolean, f, i, i))
    return _sizes, _residual, _columns, _outer, _mirrored, _sum, _take, _adjoint


# The same by addresses, for calls in a microsecond. A system is a row of them: of indptr, cols, the
# places of the diagonal, mates, values, row sums, diagonal, after n and the number of nonzeros.


@intrinsic
def _at(typingctx, address, like):
    """The pointer to what is at an address, of the type of `like`."""

    def codegen(context, builder, sig, args):
        return builder.inttoptr(args[0], context.get_value_type(sig.return_type))

    return like(types.int64, like), codegen


@njit(**_options)
def _numbers_of(system, like):
    """(values, row sums, diagonal)."""
    n, nnz = system[0], system[1]
    values = carray(_at(system[6], like), (nnz,))
    return values, carray(_at(system[7], like), (n,)), carray(_at(system[8], like), (n,))


@njit(**_options)
def _index(system, k, like, count):
    return carray(_at(system[k], like), (count,))


def _prepare(system, kind, v, facts):
    """`_sizes` of v, which becomes the system's values, into facts: norm, margin, lowest and whether
    mirrored. Or 1 and nothing else, if they are these very numbers. `kind` is any pointer to uint32.
    """
    n, nnz = system[0], system[1]
    values = carray(v, (nnz,))
    copy, sums, diagonal = _numbers_of(system, v)
    e = 0
    while e < nnz and values[e] == copy[e]:
        e += 1
    if e == nnz:
        return 1
    indptr, at, mates = (
        _index(system, 2, kind, n + 1),
        _index(system, 4, kind, n),
        _index(system, 5, kind, nnz),
    )
    norm, margin, lowest, same = _sizes(indptr, at, mates, values, copy, sums, diagonal, 0, n)
    facts[0], facts[1], facts[2], facts[3] = norm, margin, lowest, 1.0 if same else 0.0
    return 0


@njit(**_options)
def _error(top, reach, least, normwise, componentwise):
    """As `Equations.judge` bounds it; -1 where that does not accept."""
    if not reach > 0:
        return -1.0
    error = np.float64(top) / np.float64(reach)
    return error if error <= normwise and top <= componentwise * least else -1.0


def _judge(system, kind, x, b, normwise, componentwise):
    """The normwise backward error of x for A x = b, or -1 where it may not be accurate."""
    n, nnz = system[0], system[1]
    values, _, diagonal = _numbers_of(system, x)
    indptr, cols = _index(system, 2, kind, n + 1), _index(system, 3, kind, nnz)
    vectors = carray(x, (n,)), carray(b, (n,)), diagonal, False, carray(x, (0,))
    top, reach, least = _residual(indptr, cols, values, *vectors, 0, n)
    return _error(top, reach, least, normwise, componentwise)


def _adjoint_judged(system, kind, y, b, x, out, normwise, componentwise):
    """`_adjoint`, and the error of y as above."""
    n, nnz = system[0], system[1]
    values, _, diagonal = _numbers_of(system, x)
    indptr, cols = _index(system, 2, kind, n + 1), _index(system, 3, kind, nnz)
    vectors = carray(y, (n,)), carray(b, (n,)), carray(x, (n,)), False, carray(out, (nnz,))
    top, reach, least = _adjoint(indptr, cols, values, diagonal, *vectors, 0, n)
    return _error(top, reach, least, normwise, componentwise)


def _sum_at(places, m, pointer, order, triplets, out):
    given = carray(pointer, (places + 1,)), carray(order, (m,)), carray(triplets, (m,))
    _sum(*given, carray(out, (places,)), 0, places)
    return 0


def _take_at(places, m, index, values, out):
    _take(carray(index, (m,)), carray(values, (places,)), carray(out, (m,)), 0, m)
    return 0


def calls_for(dtype: np.dtype) -> tuple[Any, ...]:
    """(prepare, judge, adjoint, sum, take) by addresses, compiled, for this real dtype."""
    f = types.CPointer(types.float64 if dtype.char == "d" else types.float32)
    u, i, d = types.CPointer(types.uint32), types.int64, types.float64
    signatures = (
        (_prepare, i(types.CPointer(i), u, f, types.CPointer(d))),
        (_judge, d(types.CPointer(i), u, f, f, d, d)),
        (_adjoint_judged, d(types.CPointer(i), u, f, f, f, f, d, d)),
        (_sum_at, i(i, i, u, u, f, f)),
        (_take_at, i(i, i, u, f, f)),
    )
    return tuple(cfunc(s, cache=True, error_model="numpy")(function) for function, s in signatures)
