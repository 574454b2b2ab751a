"""The compiled loops that solve with blocks of eight factored matrices, refine and judge."""

from __future__ import annotations

import numpy as np
from numba import njit

from .lanes import (
    absolute,
    add,
    fma,
    fms,
    from_real,
    get,
    largest,
    load,
    mul,
    put,
    reciprocal,
    root,
    size,
    smallest,
    splat,
    store,
    zero,
)
from .layout import BAD, DOMINANT, OPTIONS, WIDTH
from .moving import gather, scatter

__all__ = ["solve", "suspect"]

_STEPS = 3  # of refinement
_GOOD, _OPEN, _LOST = 0, 1, 2  # an item while it is refined


@njit(**OPTIONS)
def _places(mode, n, nnz, nL):
    """Where L, U and the reciprocals of the pivots begin in a block; 0 is for A = A^T, without U."""
    at_L = nnz
    at_U = nnz if mode == 0 else nnz + nL
    return at_L, at_U, at_U + nL + n


@njit(**OPTIONS)
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


@njit(**OPTIONS)
def _permuted(F, rhs, x, w, mode, n, at_L, at_U, at_R, row_order, col_order, pointer, index):
    """A x = rhs, or A^T x = rhs if mode is 2, in the numbering of A; w is for work."""
    source, target = (col_order, row_order) if mode == 2 else (row_order, col_order)
    for j in range(n):
        store(w, j, load(rhs, source[j]))
    _substitute(F, w, mode, n, at_L, at_U, at_R, pointer, index)
    for j in range(n):
        store(x, target[j], load(w, j))


@njit(**OPTIONS)
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


@njit(**OPTIONS)
def _bounds(F, x, b, r, facts, mode, n, cols, begin, diagonal):
    """r = b - A x, its largest size (row 0 of `facts`), and the largest (row 1) and the smallest
    |a_ii x_i| (row 2): lower bounds of both denominators, which settle nearly every solve.
    """
    top, reach, least = zero(facts), zero(facts), splat(facts, np.inf)
    if mode == 2:
        for i in range(n):
            store(r, i, load(b, i))
        for i in range(n):
            xi = load(x, i)
            for e in range(begin[i], begin[i + 1]):
                store(r, cols[e], fms(load(r, cols[e]), load(F, e), xi))
    for i in range(n):
        if mode != 2:
            s = load(b, i)
            for e in range(begin[i], begin[i + 1]):
                s = fms(s, load(F, e), load(x, cols[e]))
            store(r, i, s)
        top = largest(top, size(load(r, i)))
        reached = zero(facts)
        if diagonal[i] >= 0:
            reached = mul(size(load(F, diagonal[i])), size(load(x, i)))
        reach, least = largest(reach, reached), smallest(least, reached)
    store(facts, 0, top)
    store(facts, 1, reach)
    store(facts, 2, least)


@njit(**OPTIONS)
def solve(
    blocks, norms, real, b, item_stride, row_stride, column_stride, x, columns, verdicts, errors,
    steps, first, last, mode, normwise, componentwise,
    n, nnz, row_order, col_order, rows, cols, begin, diagonal, pointer, index,
):  # fmt: skip
    """Blocks `first` to `last` of A x = b, or A^T x = b if `mode` is 2; 0 is for A = A^T.

    b : flat, with strides; x : (items * n * columns,), (items, n, columns) in a row
    verdicts : (items,), BAD is added where x is not accurate
    errors, steps : (items,), normwise backward errors and steps of refinement
    """
    items = len(verdicts)
    work = np.zeros((5, n, WIDTH), blocks.dtype)
    rhs, r, y, z, w = work[0], work[1], work[2], work[3], work[4]
    sums = np.zeros((n, WIDTH), real.dtype)
    facts = np.zeros((4, WIDTH), real.dtype)
    at_L, at_U, at_R = _places(mode, n, nnz, len(index))
    side = 1 if mode == 2 else 0
    error, state = np.zeros(WIDTH), np.zeros(WIDTH, np.int64)
    for g in range(first, last):
        F = blocks[g]
        start = g * WIDTH
        count = min(WIDTH, items - start)
        for c in range(columns):
            at = start * item_stride + c * column_stride
            gather(rhs, b, at, item_stride, row_stride, n, count)
            _permuted(F, rhs, y, w, mode, n, at_L, at_U, at_R, row_order, col_order, pointer, index)
            _bounds(F, y, rhs, r, facts, mode, n, cols, begin, diagonal)
            sure = True
            for lane in range(count):
                top, reach = get(facts, 0, lane), get(facts, 1, lane)
                error[lane] = top / reach
                good = error[lane] <= normwise and reach < np.inf
                good = good and top <= componentwise * get(facts, 2, lane)
                state[lane] = _GOOD if good else _OPEN
                sure = sure and good
            for step in range(0 if sure else _STEPS + 1):
                if step == 0:
                    for i in range(n):
                        store(z, i, load(y, i))
                else:
                    _permuted(
                        F, r, z, w, mode, n, at_L, at_U, at_R, row_order, col_order, pointer, index
                    )
                    for i in range(n):
                        store(z, i, add(load(y, i), load(z, i)))
                _errors(F, z, rhs, r, sums, facts, norms, side, start, items, mode, n, rows, cols)
                # Each item is refined as long as that helps, and keeps what it has while others are.
                waiting = False
                for lane in range(count):
                    smaller = get(facts, 0, lane) + 0.0
                    accurate = smaller <= normwise and get(facts, 1, lane) <= componentwise
                    if step == 0 and state[lane] != _GOOD:
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
            scatter(y, x, start * n * columns + c, n * columns, columns, n, count)


@njit(**OPTIONS)
def suspect(
    blocks, norms, real, z, verdicts, first, last, mode, limit, normwise, n, nnz, row_order,
    col_order, rows, cols, begin, diagonal, pointer, index,
):  # fmt: skip
    """The probe: one solve with the random vector z, for blocks with items that are not dominant.
    BAD is added where the answer is huge, or not accurate enough to say.
    """
    items = len(verdicts)
    work = np.zeros((4, n, WIDTH), blocks.dtype)
    rhs, r, y, w = work[0], work[1], work[2], work[3]
    sums = np.zeros((n, WIDTH), real.dtype)
    weights = np.zeros((n, WIDTH), real.dtype)
    facts = np.zeros((4, WIDTH), real.dtype)
    at_L, at_U, at_R = _places(mode, n, nnz, len(index))
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
