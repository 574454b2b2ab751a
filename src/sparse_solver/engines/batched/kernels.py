"""The compiled loops: factor, judge and solve blocks of eight matrices.

A block is a two-dimensional array of rows of eight numbers, one of each matrix: first A's nonzeros,
then L, then U (unless A = A^T), pivots and their reciprocals. Every loop below runs over rows, so
nothing depends on which matrices share a block.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .lanes import (
    absolute,
    add,
    conjugate,
    fma,
    fms,
    from_real,
    get,
    largest,
    load,
    mul,
    put,
    real_part,
    reciprocal,
    root,
    size,
    smallest,
    splat,
    store,
    sub,
    zero,
)
from .layout import BAD, DOMINANT, INDEFINITE, UNSYMMETRIC, WIDTH

__all__ = ["factor", "outer", "solve", "suspect"]

_STEPS = 3  # of refinement
_GOOD, _OPEN, _LOST = 0, 1, 2  # an item while it is refined
_ROUNDINGS = 8.0  # units of eps by which mirrored entries may differ

# numba's cache looks at this file alone: raise the number when lanes.py or layout.py changes.
_REVISION = 1
_options = {"nogil": True, "cache": True, "error_model": "numpy", "boundscheck": False}


@njit(**_options)
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
    work = np.zeros((n, WIDTH), blocks.dtype)
    other = np.zeros((n, WIDTH), blocks.dtype)
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


@njit(**_options)
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


@njit(**_options)
def _substitute(F, x, mode, n, at_L, at_U, at_R, pointer, index):
    """X becomes the solution of L D L^T (mode 0), L U (1) or U^T L^T (2)."""
    first, then = (at_U, at_L) if mode == 2 else (at_L, at_U)
    for k in range(n):
        xk = load(x, k)
        if mode == 2:
            xk = mul(xk, load(F, at_R + k))
            store(x, k, xk)
        for q in range(pointer[k], pointer[k + 1]):
            i = index[q]
            store(x, i, fms(load(x, i), load(F, first + q), xk))
    for k in range(n - 1, -1, -1):
        xk = load(x, k)
        if mode == 0:
            xk = mul(xk, load(F, at_R + k))
        for q in range(pointer[k], pointer[k + 1]):
            xk = fms(xk, load(F, then + q), load(x, index[q]))
        if mode == 1:
            xk = mul(xk, load(F, at_R + k))
        store(x, k, xk)


@njit(**_options)
def _permuted(F, rhs, x, w, mode, n, at_L, at_U, at_R, row_order, col_order, pointer, index):
    """A x = rhs, or A^T x = rhs if mode is 2, in the numbering of A; w is for work."""
    source, target = (col_order, row_order) if mode == 2 else (row_order, col_order)
    for j in range(n):
        store(w, j, load(rhs, source[j]))
    _substitute(F, w, mode, n, at_L, at_U, at_R, pointer, index)
    for j in range(n):
        store(x, target[j], load(w, j))


@njit(**_options)
def _errors(F, x, b, r, sums, facts, norms, side, start, items, mode, n, rows, cols):
    """r = b - A x, and into `facts` the normwise (row 0) and componentwise (row 1) backward errors,
    in the sizes |Re| + |Im|, which at most doubles them. NaN or infinity where they can't be told.
    """
    for i in range(n):
        store(r, i, load(b, i))
        store(sums, i, size(load(b, i)))
    top = zero(sums)
    for i in range(n):
        top = largest(top, size(load(x, i)))
    whole = zero(sums)
    for i in range(n):
        whole = largest(whole, load(sums, i))
    for e in range(len(rows)):
        i, j = (cols[e], rows[e]) if mode == 2 else (rows[e], cols[e])
        a, xj = load(F, e), load(x, j)
        store(r, i, fms(load(r, i), a, xj))
        store(sums, i, fma(load(sums, i), size(a), size(xj)))
    for lane in range(WIDTH):
        put(facts, 2, lane, norms[min(start + lane, items - 1), side])
    reach = fma(whole, load(facts, 2), top)
    store(facts, 2, reach)
    residual, part, most = zero(sums), zero(sums), zero(sums)
    for i in range(n):
        ri, si = size(load(r, i)), load(sums, i)
        residual = largest(residual, ri)
        most = largest(most, si)
        # No denominator, no residual: 0 = 0.
        part = largest(part, mul(ri, reciprocal(largest(si, splat(sums, np.finfo(sums.dtype).tiny)))))
    store(facts, 0, residual)
    store(facts, 1, part)
    store(facts, 3, most)
    for lane in range(WIDTH):
        over, under = get(facts, 0, lane), get(facts, 2, lane)
        error = np.inf
        if under < np.inf and get(facts, 3, lane) < np.inf:
            error = over / under if under > 0 else (0.0 if over == 0 else np.inf)
        put(facts, 0, lane, error)


@njit(**_options)
def solve(
    blocks, norms, real, b, item_stride, row_stride, column_stride, x, columns, verdicts, errors,
    steps, first, last, mode, normwise, componentwise,
    n, nnz, row_order, col_order, rows, cols, pointer, index,
):  # fmt: skip
    """Blocks `first` to `last` of A x = b, or A^T x = b if `mode` is 2; 0 is for A = A^T.

    b : flat, with strides; x : (items * n * columns,), (items, n, columns) in a row
    verdicts : (items,), BAD is added where x is not accurate
    errors, steps : (items,), normwise backward errors and steps of refinement
    """
    items = len(verdicts)
    rhs = np.zeros((n, WIDTH), blocks.dtype)
    y = np.zeros((n, WIDTH), blocks.dtype)
    z = np.zeros((n, WIDTH), blocks.dtype)
    r = np.zeros((n, WIDTH), blocks.dtype)
    w = np.zeros((n, WIDTH), blocks.dtype)
    sums = np.zeros((n, WIDTH), real.dtype)
    facts = np.zeros((4, WIDTH), real.dtype)
    nL = len(index)
    at_L = nnz
    at_U = nnz if mode == 0 else nnz + nL
    at_R = at_U + nL + n
    side = 1 if mode == 2 else 0
    error, state = np.zeros(WIDTH), np.zeros(WIDTH, np.int64)
    for g in range(first, last):
        F = blocks[g]
        start = g * WIDTH
        count = min(WIDTH, items - start)
        for c in range(columns):
            for lane in range(WIDTH):
                source = min(start + lane, items - 1) * item_stride + c * column_stride
                for i in range(n):
                    put(rhs, i, lane, b[source + i * row_stride])
            for i in range(n):
                store(r, i, load(rhs, i))
            for step in range(_STEPS + 1):
                _permuted(F, r, z, w, mode, n, at_L, at_U, at_R, row_order, col_order, pointer, index)
                if step == 0:
                    for i in range(n):
                        store(y, i, load(z, i))
                else:
                    for i in range(n):
                        store(z, i, add(load(y, i), load(z, i)))
                _errors(F, z, rhs, r, sums, facts, norms, side, start, items, mode, n, rows, cols)
                # Each item is refined as long as that helps, and keeps what it has while others are.
                waiting = False
                for lane in range(count):
                    smaller = get(facts, 0, lane) + 0.0
                    accurate = smaller <= normwise and get(facts, 1, lane) <= componentwise
                    if step == 0:
                        error[lane] = smaller
                        state[lane] = _GOOD if accurate else (_OPEN if smaller < np.inf else _LOST)
                    elif state[lane] == _OPEN:
                        steps[start + lane] = max(steps[start + lane], step)
                        if accurate or smaller <= max(error[lane] / 2, normwise):
                            for i in range(n):
                                put(y, i, lane, get(z, i, lane))
                            error[lane] = smaller
                            state[lane] = _GOOD if accurate else _OPEN
                        else:
                            state[lane] = _LOST
                    waiting = waiting or state[lane] == _OPEN
                if not waiting:
                    break
            for lane in range(count):
                errors[start + lane] = max(errors[start + lane], error[lane])
                if state[lane] != _GOOD:
                    verdicts[start + lane] |= BAD
                target = (start + lane) * n * columns + c
                for i in range(n):
                    x[target + i * columns] = get(y, i, lane)


@njit(**_options)
def suspect(
    blocks, norms, real, z, verdicts, first, last, mode, limit, normwise, n, nnz, row_order,
    col_order, rows, cols, pointer, index,
):  # fmt: skip
    """The probe: one solve with the random vector z, for blocks with items that are not dominant.
    BAD is added where the answer is huge, or not accurate enough to say.
    """
    items = len(verdicts)
    rhs = np.zeros((n, WIDTH), blocks.dtype)
    y = np.zeros((n, WIDTH), blocks.dtype)
    r = np.zeros((n, WIDTH), blocks.dtype)
    w = np.zeros((n, WIDTH), blocks.dtype)
    sums = np.zeros((n, WIDTH), real.dtype)
    weights = np.zeros((n, WIDTH), real.dtype)
    facts = np.zeros((4, WIDTH), real.dtype)
    nL = len(index)
    at_L = nnz
    at_U = nnz if mode == 0 else nnz + nL
    at_R = at_U + nL + n
    for g in range(first, last):
        start = g * WIDTH
        count = min(WIDTH, items - start)
        needed = False
        for lane in range(count):
            if not verdicts[start + lane] & DOMINANT:
                needed = True
        if not needed:
            continue
        F = blocks[g]
        for i in range(n):
            store(sums, i, zero(sums))
            store(weights, i, zero(sums))
        for e in range(nnz):
            store(sums, rows[e], add(load(sums, rows[e]), absolute(load(F, e))))
        for i in range(n):
            s = mul(load(sums, i), splat(sums, z[i]))
            store(rhs, i, from_real(rhs, s))
        for e in range(nnz):
            share = mul(absolute(load(F, e)), reciprocal(load(sums, rows[e])))
            store(weights, cols[e], add(load(weights, cols[e]), share))
        _permuted(F, rhs, y, w, mode, n, at_L, at_U, at_R, row_order, col_order, pointer, index)
        _errors(F, y, rhs, r, sums, facts, norms, 0, start, items, mode, n, rows, cols)
        square = zero(sums)
        for i in range(n):
            s = mul(load(weights, i), absolute(load(y, i)))
            square = fma(square, s, s)
        store(facts, 1, root(square))
        for lane in range(count):
            if not verdicts[start + lane] & DOMINANT:
                if not (get(facts, 0, lane) <= normwise and get(facts, 1, lane) < limit):
                    verdicts[start + lane] |= BAD


@njit(**_options)
def outer(y, x, out, i, j, first, last, n, columns):
    """-y_i conj(x_j) at the nonzeros (i, j), summed over columns, for items `first` to `last`; all
    arrays flat: y and x of (items, n, columns), out of (items, nnz).
    """
    nnz = len(i)
    for item in range(first, last):
        base = item * n * columns
        for e in range(nnz):
            # Unsigned, lest numba ask of each whether it counts from the end.
            p, q = np.uint64(base + i[e] * columns), np.uint64(base + j[e] * columns)
            s = y[p] * np.conj(x[q])
            for c in range(1, columns):
                s += y[p + np.uint64(c)] * np.conj(x[q + np.uint64(c)])
            out[np.uint64(item * nnz + e)] = -s
