"""The passes in NumPy and SciPy: the reference, for every dtype."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.sparse import _sparsetools  # type: ignore[attr-defined]

from ...matrix import Pattern
from ...matrix.products import outer_numbers
from ...matrix.threads import by_parts

__all__ = ["Sizes", "adjoint", "columns", "joined_columns", "mirrored", "outer", "residual", "sizes"]

_MANY = 2000  # nonzeros
_IN_CACHE = 1 << 15  # numbers of one temporary
_largest, _smallest = np.maximum.reduce, np.minimum.reduce  # without the methods' detours


@lru_cache(maxsize=4)
def _ones(n: int, dtype: np.dtype) -> np.ndarray:
    ones = np.ones(n, dtype)
    ones.flags.writeable = False
    return ones


def pairs_of(pattern: Pattern) -> tuple[np.ndarray, np.ndarray] | None:
    """The pairs of entries that `sizes` is to compare: not in small matrices, for which nobody may want
    to know.
    """
    return pattern.pairs if pattern.nnz >= _MANY and pattern.has_full_diagonal else None


class Sizes(NamedTuple):
    """What one pass over the values finds out."""

    diagonal: np.ndarray  # |a_ii|, zero where none is stored
    norm: float  # the largest sum of |a_ij| in a row, not finite if A is not
    least: float  # the smallest
    margin: float  # the least by which a diagonal entry exceeds the rest of its row
    lowest: float  # the least real part of a diagonal entry, zero for those not stored
    mirrored: bool | None  # whether A = A^T exactly, None if not looked at


def sizes(pattern: Pattern, values: np.ndarray, room: np.ndarray | None = None) -> Sizes:
    """`Sizes`, with the values copied into `room` on the way, if given."""
    n, indptr = pattern.shape[0], pattern.indptr
    pointer, cols = pattern.csr
    if room is not None:
        np.copyto(room, values)
    magnitudes = np.empty(len(values), values.real.dtype)
    sums = np.zeros(n, magnitudes.dtype)
    ones = _ones(n, magnitudes.dtype)

    def rows(start: int, stop: int) -> None:
        here = slice(int(indptr[start]), int(indptr[stop]))
        np.abs(values[here], out=magnitudes[here])
        part = pointer[start : stop + 1], cols, magnitudes, ones, sums[start:stop]
        _sparsetools.csr_matvec(stop - start, n, *part)

    by_parts(n, len(values), rows)
    at = pattern.diagonal
    own = values[at] if len(values) else np.zeros(n, values.dtype)
    if not pattern.has_full_diagonal:
        own[at < 0] = 0
    diagonal = np.abs(own)
    if not n:
        return Sizes(diagonal, 0.0, np.inf, np.inf, np.inf, None)
    margins = diagonal + diagonal
    margins -= sums
    same = None
    if values.dtype.kind != "c" and pairs_of(pattern) is not None:
        same = mirrored(values, *pattern.triangles)
    least, margin, lowest = (float(_smallest(a)) for a in (sums, margins, own.real))
    return Sizes(diagonal, float(_largest(sums)), least, margin, lowest, same)


def residual(
    pattern: Pattern,
    values: np.ndarray,
    diagonal: np.ndarray,
    x: np.ndarray,
    b: np.ndarray,
    transposed: bool,
    wanted: bool = True,
) -> tuple[np.ndarray, float, float, float]:
    """(r, top, reach, least) for vectors: r = b - A x, or b - A^T x, its largest size (not finite if
    r is not), and the largest and the smallest |a_ii x_i|; r may be empty if it is not `wanted`.
    """
    indptr, cols = pattern.csr
    n, r, minus_x = len(b), b.copy(), -x
    if transposed:
        _sparsetools.csc_matvec(n, n, indptr, cols, values, minus_x, r)
    else:

        def rows(start: int, stop: int) -> None:
            part = indptr[start : stop + 1], cols, values, minus_x, r[start:stop]
            _sparsetools.csr_matvec(stop - start, n, *part)

        by_parts(n, len(values), rows)
    size = np.abs(x)
    size *= diagonal
    return r, float(_largest(np.abs(r))), float(_largest(size)), float(_smallest(size))


def adjoint(
    pattern: Pattern,
    values: np.ndarray,
    diagonal: np.ndarray,
    y: np.ndarray,
    b: np.ndarray,
    x: np.ndarray,
    swapped: bool,
) -> tuple[np.ndarray, float, float, float]:
    """`outer` of y and x, and the last three of `residual` for y with A y = b."""
    facts = residual(pattern, values, diagonal, y, b, False)[1:]
    return outer(pattern, y, x, swapped), *facts


def columns(
    pattern: Pattern, values: np.ndarray, diagonal: np.ndarray, x: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(top, reach, least) as above for each column of x (n, k), by rows, so that nothing as large as
    x is written; NaN where NaN is met.
    """
    indptr, cols = pattern.csr
    n, k = x.shape
    numbers = np.ascontiguousarray(x).reshape(-1)
    height = max(1, _IN_CACHE // k)

    def part(first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        r = np.empty((height, k), x.dtype)
        sizes = np.empty((height, k), diagonal.dtype)
        top, reach, least = np.zeros((3, k), diagonal.dtype)
        least[:] = np.inf
        with np.errstate(all="ignore"):  # of this thread
            for start in range(first, last, height):
                stop = min(start + height, last)
                here, size = r[: stop - start], sizes[: stop - start]
                here[:] = 0
                rows = indptr[start : stop + 1]
                _sparsetools.csr_matvecs(
                    stop - start, n, k, rows, cols, values, numbers, here.reshape(-1)
                )
                here -= b[start:stop]
                top = np.maximum(top, np.abs(here, out=size).max(0))
                np.abs(x[start:stop], out=size)
                size *= diagonal[start:stop, None]
                reach, least = np.maximum(reach, size.max(0)), np.minimum(least, size.min(0))
        return top, reach, least

    return joined_columns(by_parts(n, len(values) * k, part))


def joined_columns(parts: list[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of all rows, from parts of them."""
    tops, reaches, leasts = zip(*parts, strict=True)
    return np.max(tops, 0), np.max(reaches, 0), np.min(leasts, 0)


def outer(pattern: Pattern, y: np.ndarray, x: np.ndarray, swapped: bool) -> np.ndarray:
    """-y_i conj(x_j) at the nonzeros (i, j), or (j, i) if `swapped`, for vectors."""
    i, j = pattern.rows.numpy(), pattern.cols.numpy()
    return outer_numbers(-y, x, *((j, i) if swapped else (i, j)), True)


def mirrored(values: np.ndarray, upper: np.ndarray, mirror: np.ndarray) -> bool:
    """Whether the numbers at places `upper` and `mirror` are the very same."""

    def entries(start: int, stop: int) -> bool:
        here = slice(start, stop)
        return np.array_equal(values.take(upper[here]), values.take(mirror[here]))

    return all(by_parts(len(upper), len(values), entries))
