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
    put,
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

__all__ = ["factor"]

_ROUNDINGS = 8.0  # units of eps by which mirrored entries may differ


@njit(**OPTIONS)
def factor(
    values, stride, blocks, norms, verdicts, real, first, last, eps, margin, mirrored, definite,
    n, nnz, symmetric, rows, cols, diagonal, upper, mirror,
    pointer, index, row_pointer, row_col, row_place,
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
    facts = np.zeros((5, WIDTH), real.dtype)
    nL = len(index)
    at_L = nnz
    at_U = nnz if symmetric else nnz + nL
    at_D = at_U + nL
    at_R = at_D + n
    for g in range(first, last):
        F = blocks[g]
        start = g * WIDTH
        for lane in range(WIDTH):
            source = min(start + lane, items - 1) * stride
            for e in range(nnz):
                put(F, e, lane, values[source + e])

        # |A| by rows and columns, and by how much the diagonal exceeds the rest of its row
        for j in range(n):
            store(sums, j, zero(sums))
        norm, least = zero(sums), splat(sums, np.inf)
        e = 0
        for i in range(n):
            row, own = zero(sums), zero(sums)
            while e < nnz and rows[e] == i:
                a = absolute(load(F, e))
                row = add(row, a)
                store(sums, cols[e], add(load(sums, cols[e]), a))
                if cols[e] == i:
                    own = a
                e += 1
            norm = largest(norm, row)
            least = smallest(least, sub(add(own, own), row))
        norm_of_columns = zero(sums)
        for j in range(n):
            norm_of_columns = largest(norm_of_columns, load(sums, j))
        store(facts, 0, norm)
        store(facts, 1, norm_of_columns)
        store(facts, 2, least)
        if mirrored:
            store(facts, 3, _asymmetry(F, sums, diagonal, rows, cols, upper, mirror, mirrored, eps))

        # A = L U, column by column of L and row by row of U
        positive = splat(sums, np.inf)
        for j in range(n):
            d = zero(F)
            for e in range(low_pointer[j], low_pointer[j + 1]):
                if low_at[e] == j:
                    d = load(F, low_value[e])
                else:
                    store(work, low_at[e], load(F, low_value[e]))
            if not symmetric:
                for e in range(high_pointer[j], high_pointer[j + 1]):
                    store(other, high_at[e], load(F, high_value[e]))
            for r in range(row_pointer[j], row_pointer[j + 1]):
                k = row_col[r]
                p = row_place[r]
                end = pointer[k + 1]
                if symmetric:
                    m = mul(load(F, at_L + p), load(F, at_D + k))
                    d = fms(d, load(F, at_L + p), m)
                    for q in range(p + 1, end):
                        i = index[q]
                        store(work, i, fms(load(work, i), load(F, at_L + q), m))
                else:
                    lower, right = load(F, at_L + p), load(F, at_U + p)
                    d = fms(d, lower, right)
                    for q in range(p + 1, end):
                        i = index[q]
                        store(work, i, fms(load(work, i), load(F, at_L + q), right))
                        store(other, i, fms(load(other, i), load(F, at_U + q), lower))
            inverse = reciprocal(d)
            store(F, at_D + j, d)
            store(F, at_R + j, inverse)
            for q in range(pointer[j], pointer[j + 1]):
                i = index[q]
                store(F, at_L + q, mul(load(work, i), inverse))
                store(work, i, zero(F))
                if not symmetric:
                    store(F, at_U + q, load(other, i))
                    store(other, i, zero(F))
        if definite:
            for j in range(n):
                positive = smallest(positive, real_part(load(F, at_D + j)))
        store(facts, 4, positive)

        for lane in range(min(WIDTH, items - start)):
            top = get(facts, 0, lane)
            norms[start + lane, 0] = top
            norms[start + lane, 1] = get(facts, 1, lane)
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
