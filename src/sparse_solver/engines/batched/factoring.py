"""The compiled loop that factors blocks of eight matrices and judges what it reads."""

from __future__ import annotations

import numpy as np
from numba import njit

from .lanes import (
    absolute,
    add,
    conjugate,
    fms,
    get,
    largest,
    load,
    mul,
    real_part,
    reciprocal,
    root,
    smallest,
    splat,
    store,
    sub,
    zero,
)
from .layout import BAD, DOMINANT, INDEFINITE, OPTIONS, UNSYMMETRIC, WIDTH
from .moving import gather

__all__ = ["factor"]

_ROUNDINGS = 8.0  # units of eps by which mirrored entries may differ


@njit(**OPTIONS)
def factor(
    values, stride, blocks, norms, verdicts, real, first, last, eps, margin, mirrored, definite,
    n, nnz, symmetric, rows, cols, begin, diagonal, upper, mirror,
    pointer, index, row_pointer, row_col, row_place, together,
    low_pointer, low_value, low_at, high_pointer, high_value, high_at,
):  # fmt: skip
    """Blocks `first` to `last`: values in, factors, norms and verdicts out.

    values : (items * stride,) or, with stride 0, one item's
    blocks : (blocks, height, WIDTH); norms : (items, 2), of rows and columns; verdicts : (items,)
    real : an empty array of the real dtype
    mirrored : 0, or 1 to test A = A^T, or 2 for A = A^H
    """
    items = len(verdicts)
    work, other = np.zeros((n, WIDTH), blocks.dtype), np.zeros((n, WIDTH), blocks.dtype)
    sums = np.zeros((n, WIDTH), real.dtype)
    facts = np.zeros((6, WIDTH), real.dtype)
    nL = len(index)
    at_D = nnz + nL if symmetric else nnz + 2 * nL
    for g in range(first, last):
        F = blocks[g]
        start = g * WIDTH
        gather(F, values, start * stride, stride, 1, nnz, min(WIDTH, items - start))

        # |A| by rows and columns, and by how much the diagonal exceeds the rest of its row
        norm, least = zero(sums), splat(sums, np.inf)
        for i in range(n):
            row, own = zero(sums), zero(sums)
            for e in range(begin[i], begin[i + 1]):
                row = add(row, absolute(load(F, e)))
            if diagonal[i] >= 0:
                own = absolute(load(F, diagonal[i]))
            norm = largest(norm, row)
            least = smallest(least, sub(add(own, own), row))
        store(facts, 0, norm)
        store(facts, 1, norm)
        store(facts, 2, least)
        store(facts, 3, zero(sums))
        if not (mirrored and _same(F, facts, upper, mirror, mirrored)):
            store(facts, 1, _norm_of_columns(F, sums, cols))
            if mirrored:
                store(facts, 3, _asymmetry(F, sums, diagonal, rows, cols, upper, mirror, mirrored, eps))

        if symmetric:
            _factor_one(F, work, nnz, pointer, index, row_pointer, row_col, row_place, together,
                        low_pointer, low_value, low_at)  # fmt: skip
        else:
            _factor_both(F, work, other, nnz, pointer, index, row_pointer, row_col, row_place, together,
                         low_pointer, low_value, low_at, high_pointer, high_value, high_at)  # fmt: skip
        positive = splat(sums, np.inf)
        if definite:
            for j in range(n):
                positive = smallest(positive, real_part(load(F, at_D + j)))
        store(facts, 4, positive)

        for lane in range(min(WIDTH, items - start)):
            top = get(facts, 0, lane)
            norms[start + lane, 0] = top
            # What an item gets depends on it alone: not on whether others called for sums of columns.
            same = mirrored and get(facts, 5, lane) <= 0
            norms[start + lane, 1] = top if same else get(facts, 1, lane)
            verdict = 0
            if not top < np.inf:
                verdict |= BAD
            if get(facts, 2, lane) > margin * eps * top:
                verdict |= DOMINANT
            if mirrored and not get(facts, 3, lane) <= 0:
                verdict |= UNSYMMETRIC
            if definite and not get(facts, 4, lane) > 0:
                verdict |= INDEFINITE
            verdicts[start + lane] = verdict


# Neither of the next two calls anything for each column: that would count references to every array.


@njit(**OPTIONS)
def _factor_one(
    F, work, nnz, pointer, index, row_pointer, row_col, row_place, together,
    low_pointer, low_value, low_at,
):  # fmt: skip
    """A = L D L^T, column by column; `work` is zero before and after."""
    at_L, n = nnz, len(pointer) - 1
    at_D = at_L + len(index)
    at_R = at_D + n
    for j in range(n):
        d = zero(F)
        for e in range(low_pointer[j], low_pointer[j + 1]):
            if low_at[e] == j:
                d = load(F, low_value[e])
            else:
                store(work, low_at[e], load(F, low_value[e]))
        r = row_pointer[j]
        while r < row_pointer[j + 1]:
            # One, two or four earlier columns with the same rows from here on.
            size = together[r]
            p = row_place[r]
            length = pointer[row_col[r] + 1] - p
            entry = load(F, at_L + p)
            m = mul(entry, load(F, at_D + row_col[r]))
            d = fms(d, entry, m)
            if size == 1:
                for q in range(1, length):
                    i = index[np.uint64(p + q)]
                    store(work, i, fms(load(work, i), load(F, at_L + p + q), m))
            else:
                p1 = row_place[r + 1]
                entry1 = load(F, at_L + p1)
                m1 = mul(entry1, load(F, at_D + row_col[r + 1]))
                d = fms(d, entry1, m1)
                if size == 2:
                    for q in range(1, length):
                        i = index[np.uint64(p + q)]
                        s = fms(load(work, i), load(F, at_L + p + q), m)
                        store(work, i, fms(s, load(F, at_L + p1 + q), m1))
                else:
                    p2, p3 = row_place[r + 2], row_place[r + 3]
                    entry2, entry3 = load(F, at_L + p2), load(F, at_L + p3)
                    m2 = mul(entry2, load(F, at_D + row_col[r + 2]))
                    m3 = mul(entry3, load(F, at_D + row_col[r + 3]))
                    d = fms(fms(d, entry2, m2), entry3, m3)
                    for q in range(1, length):
                        i = index[np.uint64(p + q)]
                        s = fms(load(work, i), load(F, at_L + p + q), m)
                        s = fms(s, load(F, at_L + p1 + q), m1)
                        s = fms(s, load(F, at_L + p2 + q), m2)
                        store(work, i, fms(s, load(F, at_L + p3 + q), m3))
            r += size
        inverse = reciprocal(d)
        store(F, at_D + j, d)
        store(F, at_R + j, inverse)
        for q in range(pointer[j], pointer[j + 1]):
            i = index[q]
            store(F, at_L + q, mul(load(work, i), inverse))
            store(work, i, zero(F))


@njit(**OPTIONS)
def _factor_both(
    F, work, other, nnz, pointer, index, row_pointer, row_col, row_place, together,
    low_pointer, low_value, low_at, high_pointer, high_value, high_at,
):  # fmt: skip
    """A = L U, column by column of L and row by row of U."""
    at_L, n = nnz, len(pointer) - 1
    at_U = at_L + len(index)
    at_D = at_U + len(index)
    at_R = at_D + n
    for j in range(n):
        d = zero(F)
        for e in range(low_pointer[j], low_pointer[j + 1]):
            if low_at[e] == j:
                d = load(F, low_value[e])
            else:
                store(work, low_at[e], load(F, low_value[e]))
        for e in range(high_pointer[j], high_pointer[j + 1]):
            store(other, high_at[e], load(F, high_value[e]))
        r = row_pointer[j]
        while r < row_pointer[j + 1]:
            p = row_place[r]
            length = pointer[row_col[r] + 1] - p
            lower, right = load(F, at_L + p), load(F, at_U + p)
            d = fms(d, lower, right)
            if together[r] == 1:
                for q in range(1, length):
                    i = index[np.uint64(p + q)]
                    store(work, i, fms(load(work, i), load(F, at_L + p + q), right))
                    store(other, i, fms(load(other, i), load(F, at_U + p + q), lower))
                r += 1
            else:  # two, or the first two of four
                p1 = row_place[r + 1]
                lower1, right1 = load(F, at_L + p1), load(F, at_U + p1)
                d = fms(d, lower1, right1)
                for q in range(1, length):
                    i = index[np.uint64(p + q)]
                    s = fms(load(work, i), load(F, at_L + p + q), right)
                    store(work, i, fms(s, load(F, at_L + p1 + q), right1))
                    s = fms(load(other, i), load(F, at_U + p + q), lower)
                    store(other, i, fms(s, load(F, at_U + p1 + q), lower1))
                r += 2
        inverse = reciprocal(d)
        store(F, at_D + j, d)
        store(F, at_R + j, inverse)
        for q in range(pointer[j], pointer[j + 1]):
            i = index[q]
            store(F, at_L + q, mul(load(work, i), inverse))
            store(F, at_U + q, load(other, i))
            store(work, i, zero(F))
            store(other, i, zero(F))


@njit(**OPTIONS)
def _same(F, facts, upper, mirror, mirrored):
    """Whether mirrored entries are the very same, in all lanes; NaN is not."""
    worst = zero(facts)
    for e in range(len(upper)):
        a, b = load(F, upper[e]), load(F, mirror[e])
        if mirrored == 2:
            b = conjugate(b)
        worst = largest(worst, absolute(sub(a, b)))
    store(facts, 5, worst)
    for lane in range(WIDTH):
        if not get(facts, 5, lane) <= 0:
            return False
    return True


@njit(**OPTIONS)
def _norm_of_columns(F, sums, cols):
    for j in range(len(sums)):
        store(sums, j, zero(sums))
    for e in range(len(cols)):
        store(sums, cols[e], add(load(sums, cols[e]), absolute(load(F, e))))
    norm = zero(sums)
    for j in range(len(sums)):
        norm = largest(norm, load(sums, j))
    return norm


@njit(**OPTIONS)
def _asymmetry(F, sums, diagonal, rows, cols, upper, mirror, mirrored, eps):
    """By how much the worst pair exceeds what rounding in an assembly explains; <= 0 if none does."""
    for i in range(len(diagonal)):
        if diagonal[i] >= 0:
            store(sums, i, root(absolute(load(F, diagonal[i]))))
        else:
            store(sums, i, zero(sums))
    tolerance = splat(sums, _ROUNDINGS * eps)
    worst = zero(sums)
    for e in range(len(upper)):
        a, b = load(F, upper[e]), load(F, mirror[e])
        if mirrored == 2:
            b = conjugate(b)
        bound = mul(load(sums, rows[upper[e]]), load(sums, cols[upper[e]]))
        bound = largest(bound, absolute(a))
        worst = largest(worst, sub(absolute(sub(a, b)), mul(tolerance, bound)))
    return worst
