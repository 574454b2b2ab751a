"""The compiled loops that answer at A's nonzeros: gradients, and entries of the inverse."""

from __future__ import annotations

import numpy as np
from numba import njit

from .lanes import (
    absolute,
    conjugate,
    fma,
    fms,
    from_real,
    get,
    largest,
    load,
    mul,
    splat,
    store,
    sub,
    zero,
)
from .layout import BAD, OPTIONS, WIDTH
from .moving import gather, put_eight, scatter

__all__ = ["inverse", "outer"]


@njit(**OPTIONS)
def outer(y, x, out, i, j, first, last, items, n, columns):
    """-y_i conj(x_j) at the nonzeros (i, j), summed over columns, for blocks `first` to `last`; all
    arrays flat: y and x of (items, n, columns), out of (items, nnz).
    """
    if columns > 1:
        _outer_of_columns(y, x, out, i, j, first * WIDTH, min(last * WIDTH, items), n, columns)
        return
    nnz = len(i)
    left, right = np.empty((n, WIDTH), out.dtype), np.empty((n, WIDTH), out.dtype)
    T = np.empty((WIDTH, WIDTH), out.dtype)
    for g in range(first, last):
        start = g * WIDTH
        count = min(WIDTH, items - start)
        gather(left, y, start * n, n, 1, n, count)
        gather(right, x, start * n, n, 1, n, count)
        for begin in range(0, nnz, WIDTH):
            e = max(0, min(begin, nnz - WIDTH))  # the last eight overlap those before
            for k in range(min(WIDTH, nnz)):
                # Unsigned, lest numba ask of each whether it counts from the end.
                p, q = i[np.uint64(e + k)], j[np.uint64(e + k)]
                store(T, k, fms(zero(out), load(left, p), conjugate(load(right, q))))
            if count == WIDTH and nnz >= WIDTH:
                put_eight(T, 0, out, start * nnz + e, nnz)
            else:
                scatter(T, out, start * nnz + e, nnz, 1, min(WIDTH, nnz), count)


@njit(**OPTIONS)
def _outer_of_columns(y, x, out, i, j, first, last, n, columns):
    nnz = len(i)
    for item in range(first, last):
        base = item * n * columns
        for e in range(nnz):
            p, q = np.uint64(base + i[e] * columns), np.uint64(base + j[e] * columns)
            s = y[p] * np.conj(x[q])
            for c in range(1, columns):
                s += y[p + np.uint64(c)] * np.conj(x[q + np.uint64(c)])
            out[np.uint64(item * nnz + e)] = -s


@njit(**OPTIONS)
def inverse(
    blocks, verdicts, real, out, first, last, tolerance,
    n, nnz, symmetric, rows, cols, mate, pointer, index,
    low_pointer, low_value, low_at, high_pointer, high_value, high_at,
):  # fmt: skip
    """(A^-1)_ji at the nonzeros (i, j) of blocks `first` to `last`, into out (items * nnz,).

    mate : the nonzero at (j, i) for each (i, j); read if `symmetric`
    verdicts : BAD is added where rows of A times columns of the inverse, or the other way round, miss
        one by more than `tolerance` times the sum of absolute values
    """
    items, nL = len(verdicts), len(index)
    Z_low = np.zeros((nL, WIDTH), blocks.dtype)
    Z_high = Z_low if symmetric else np.zeros((nL, WIDTH), blocks.dtype)
    T = np.zeros((nnz, WIDTH), blocks.dtype)
    columns = np.zeros((4, n, WIDTH), blocks.dtype)
    sizes = np.zeros((n, WIDTH), real.dtype)
    facts = np.zeros((1, WIDTH), real.dtype)
    mark, place = np.full(n, -1, np.int64), np.zeros(n, np.int64)
    for g in range(first, last):
        F = blocks[g]
        Z = columns[0]  # the diagonal of (L U)^-1
        _backwards(F, Z, Z_low, Z_high, columns[1], columns[2], columns[3], mark, n, nnz, symmetric,
                   pointer, index)  # fmt: skip

        # Z_ba at the place of (a, b), for the nonzeros (a, b) of A in the order of elimination
        for j in range(n):
            for q in range(pointer[j], pointer[j + 1]):
                place[index[q]] = q
            for e in range(low_pointer[j], low_pointer[j + 1]):
                at = low_at[e]
                t = load(Z, j) if at == j else load(Z_low, place[at])
                store(T, low_value[e], t)
                if symmetric:
                    store(T, mate[low_value[e]], t)
            if not symmetric:
                for e in range(high_pointer[j], high_pointer[j + 1]):
                    store(T, high_value[e], load(Z_high, place[high_at[e]]))

        store(facts, 0, _misses(F, T, columns[0], sizes, rows, n, nnz, tolerance))
        miss = _misses(F, T, columns[0], sizes, cols, n, nnz, tolerance)
        store(facts, 0, largest(load(facts, 0), miss))
        start = g * WIDTH
        for lane in range(min(WIDTH, items - start)):
            if not get(facts, 0, lane) <= 0:
                verdicts[start + lane] |= BAD
        scatter(T, out, start * nnz, nnz, 1, nnz, min(WIDTH, items - start))


@njit(**OPTIONS)
def _backwards(F, Z, Z_low, Z_high, w, row, col, mark, n, nnz, symmetric, pointer, index):
    """Z = (L U)^-1 at the places of L and U, transposed, and on the diagonal (Takahashi, Fagan and
    Chin 1973). From Z L = U^-1 and U Z = L^-1, for pivots i from the last, with w = U_i: / d_i,

        Z_ij = -sum_k w_k Z_kj      Z_ki = -sum_j Z_kj L_ji      Z_ii = 1 / d_i - sum_k w_k Z_ki

    over j and k in column i of L, whose places row i of U has too.
    """
    nL = len(index)
    at_L = nnz
    at_U = nnz if symmetric else nnz + nL
    at_R = at_U + nL + n
    mark[:] = -1
    for i in range(n - 1, -1, -1):
        begin, end = pointer[i], pointer[i + 1]
        reciprocal = load(F, at_R + i)
        for q in range(begin, end):
            j = index[q]
            mark[j] = q
            # With A = A^T, U = D L^T: w is column i of L.
            store(w, j, load(F, at_U + q) if symmetric else mul(load(F, at_U + q), reciprocal))
            store(row, j, zero(F))
            store(col, j, zero(F))
        diagonal = reciprocal
        for q in range(begin, end):
            j = index[q]
            wj, own = load(w, j), load(Z, j)
            sum_row = fma(load(row, j), own, wj)
            if symmetric:
                for s in range(pointer[j], pointer[j + 1]):
                    k = index[s]
                    if mark[k] >= 0:
                        Zjk = load(Z_low, s)
                        sum_row = fma(sum_row, Zjk, load(w, k))
                        store(row, k, fma(load(row, k), Zjk, wj))
            else:
                lj = load(F, at_L + q)
                sum_col = fma(load(col, j), own, lj)
                for s in range(pointer[j], pointer[j + 1]):
                    k = index[s]
                    if mark[k] >= 0:
                        Zjk, Zkj = load(Z_low, s), load(Z_high, s)
                        sum_row = fma(sum_row, Zkj, load(w, k))
                        store(row, k, fma(load(row, k), Zjk, wj))
                        sum_col = fma(sum_col, Zjk, load(F, at_L + mark[k]))
                        store(col, k, fma(load(col, k), Zkj, lj))
                store(col, j, sum_col)
            store(row, j, sum_row)
        for q in range(begin, end):
            j = index[q]
            minus_row = sub(zero(F), load(row, j))
            store(Z_low, q, minus_row)
            if not symmetric:
                store(Z_high, q, sub(zero(F), load(col, j)))
            diagonal = fms(diagonal, load(w, j), load(Z_high, q))
        store(Z, i, diagonal)
        for q in range(begin, end):
            mark[index[q]] = -1


@njit(**OPTIONS)
def _misses(F, T, sums, sizes, lines, n, nnz, tolerance):
    """By how much the worst sum of A_ij T_ij over a line misses one, beyond what is tolerated."""
    for i in range(n):
        store(sums, i, from_real(sums, splat(sizes, -1.0)))
        store(sizes, i, zero(sizes))
    for e in range(nnz):
        i = lines[e]
        a, t = load(F, e), load(T, e)
        store(sums, i, fma(load(sums, i), a, t))
        store(sizes, i, fma(load(sizes, i), absolute(a), absolute(t)))
    worst = zero(sizes)
    for i in range(n):
        bound = mul(splat(sizes, tolerance), load(sizes, i))
        worst = largest(worst, sub(absolute(load(sums, i)), bound))
    return worst
