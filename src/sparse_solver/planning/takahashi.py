"""Compiled loops over triangular factors: the selected inverse, tangents, a reverse sweep.

All run in double precision over the arrays of `engines.triangles.Triangles`; each holds A's
structure after elimination, in which L_ji != 0 and U_ik != 0 imply a place for (j, k). That closure
is why every loop below finds what it needs. Imported only when needed, for numba takes a while.

References
----------
K. Takahashi, J. Fagan and M.-S. Chin, Formation of a sparse bus impedance matrix, 8th PICA
conference (1973). A. M. Erisman and W. F. Tinney, On computing certain elements of the inverse of a
sparse matrix, CACM 18 (1975) 177-179. S. P. Smith, Differentiation of the Cholesky algorithm,
J. Comput. Graph. Stat. 4 (1995) 134-147.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = [
    "elimination",
    "inverse",
    "inverse_tangent",
    "locate",
    "lower_solve",
    "lu_tangent",
    "reverse",
    "upper_solve",
]


@njit(cache=True, nogil=True)
def locate(rows, cols, row_place, col_place, block, lp, li, up, uj, n):  # type: ignore[no-untyped-def]
    """Where each position (i, j) of A lies in the arrays (L | U | d | nothing), or -1.

    "Nothing" is for places outside the diagonal blocks, where the transposed inverse is zero.
    """
    where = np.empty(len(rows), np.int64)
    nl, nu = len(li), len(uj)
    for e in range(len(rows)):
        a, b = row_place[rows[e]], col_place[cols[e]]
        if a == b:
            where[e] = nl + nu + a
            continue
        if a > b:
            low, high, index, wanted, base = lp[b], lp[b + 1], li, a, 0
        else:
            low, high, index, wanted, base = up[a], up[a + 1], uj, b, nl
        end = high
        while low < high:
            middle = (low + high) // 2
            if index[middle] < wanted:
                low = middle + 1
            else:
                high = middle
        if low < end and index[low] == wanted:
            where[e] = base + low
        elif len(block) and block[a] != block[b]:
            where[e] = nl + nu + n
        else:
            where[e] = -1
    return where


@njit(cache=True, nogil=True)
def elimination(indptr, index):  # type: ignore[no-untyped-def]
    """Structure (lp, li) of L for a symmetric structure given by its rows, without pivoting.

    Row i of L is the part of the elimination tree met on the way up from the k with A_ik != 0 to i
    (J. W. H. Liu, SIAM J. Matrix Anal. Appl. 11 (1990) 134-172).
    """
    n = len(indptr) - 1
    parent, ancestor = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    for i in range(n):
        for t in range(indptr[i], indptr[i + 1]):
            k = index[t]
            while k < i and k != -1:
                above = ancestor[k]
                ancestor[k] = i
                if above == -1:
                    parent[k] = i
                k = above if above != i else -1
    lp, seen = np.zeros(n + 1, np.int64), np.full(n, -1, np.int64)
    li = np.empty(0, np.int64)
    for filling in range(2):
        if filling:
            for j in range(n):
                lp[j + 1] += lp[j]
            li = np.empty(lp[n], np.int64)
            end = lp.copy()
            seen[:] = -1
        for i in range(n):
            seen[i] = i
            for t in range(indptr[i], indptr[i + 1]):
                k = index[t]
                while k < i and seen[k] != i:
                    seen[k] = i
                    if filling:
                        li[end[k]] = i
                        end[k] += 1
                    else:
                        lp[k + 1] += 1
                    k = parent[k]
    return lp, li


@njit(cache=True, nogil=True)
def inverse(d, lp, li, lx, up, uj, ux, z):  # type: ignore[no-untyped-def]
    """Z = (L U)^-1 at the transposed places of L and U, into z (as `locate` numbers them).

    From Z L = U^-1 and U Z = L^-1, for pivots i from the last to the first, with w = U_i: / d_i,

        Z_ij = -sum_k w_k Z_kj      Z_ki = -sum_j Z_kj L_ji      Z_ii = 1 / d_i - sum_k w_k Z_ki

    over j with L_ji != 0 and k with U_ik != 0.
    """
    n, nl = len(d), len(li)
    zl, zu, zd = z[:nl], z[nl : nl + len(uj)], z[nl + len(uj) :]
    in_row, in_col = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    w, q = np.zeros(n, d.dtype), np.zeros(n, d.dtype)
    row, col = np.zeros(n, d.dtype), np.zeros(n, d.dtype)
    for i in range(n - 1, -1, -1):
        for s in range(up[i], up[i + 1]):
            k = uj[s]
            in_row[k], w[k], col[k] = i, ux[s] / d[i], 0
        for t in range(lp[i], lp[i + 1]):
            j = li[t]
            in_col[j], q[j], row[j] = i, lx[t], 0
        for t in range(lp[i], lp[i + 1]):
            j = li[t]
            total, factor = row[j], q[j]
            if in_row[j] == i:
                total += w[j] * zd[j]
                col[j] += zd[j] * factor
            for s in range(up[j], up[j + 1]):
                k = uj[s]
                if in_row[k] == i:
                    total += w[k] * zu[s]
                    col[k] += zu[s] * factor
            row[j] = total
        for s in range(up[i], up[i + 1]):
            k = uj[s]
            total, factor = col[k], w[k]
            for t in range(lp[k], lp[k + 1]):
                j = li[t]
                if in_col[j] == i:
                    total += zl[t] * q[j]
                    row[j] += zl[t] * factor
            col[k] = total
        diagonal = 1 / d[i]
        for s in range(up[i], up[i + 1]):
            zu[s] = -col[uj[s]]
            diagonal -= w[uj[s]] * zu[s]
        for t in range(lp[i], lp[i + 1]):
            zl[t] = -row[li[t]]
        zd[i] = diagonal


@njit(cache=True, nogil=True)
def lu_tangent(d, lp, li, lx, up, uj, ux, t_):  # type: ignore[no-untyped-def]
    """Overwrite dA in t_ (as `locate` numbers it) with dL, dU and dd.

    One elimination step of dA after the other: with S what is left of dA after steps before i,

        dU_ik = S_ik   dL_ji = (S_ji - L_ji dd_i) / d_i   S_jk -= dL_ji U_ik + L_ji dU_ik
    """
    n, nl = len(d), len(li)
    dl, du, dd = t_[:nl], t_[nl : nl + len(uj)], t_[nl + len(uj) :]
    in_row, in_col = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    u, v = np.zeros(n, d.dtype), np.zeros(n, d.dtype)
    q, m = np.zeros(n, d.dtype), np.zeros(n, d.dtype)
    for i in range(n):
        for s in range(up[i], up[i + 1]):
            k = uj[s]
            in_row[k], u[k], v[k] = i, ux[s], du[s]
        for t in range(lp[i], lp[i + 1]):
            j = li[t]
            dl[t] = (dl[t] - lx[t] * dd[i]) / d[i]
            in_col[j], q[j], m[j] = i, lx[t], dl[t]
        for t in range(lp[i], lp[i + 1]):
            j = li[t]
            if in_row[j] == i:
                dd[j] -= m[j] * u[j] + q[j] * v[j]
            for s in range(up[j], up[j + 1]):
                k = uj[s]
                if in_row[k] == i:
                    du[s] -= m[j] * u[k] + q[j] * v[k]
        for s in range(up[i], up[i + 1]):
            k = uj[s]
            for t in range(lp[k], lp[k + 1]):
                j = li[t]
                if in_col[j] == i:
                    dl[t] -= m[j] * u[k] + q[j] * v[k]


@njit(cache=True, nogil=True)
def inverse_tangent(d, lp, li, lx, up, uj, ux, t_, z, y):  # type: ignore[no-untyped-def]
    """dZ into y, from Z in z and (dL, dU, dd) in t_: the recursion of `inverse`, differentiated."""
    n, nl = len(d), len(li)
    nu = len(uj)
    dl, du, dd = t_[:nl], t_[nl : nl + nu], t_[nl + nu :]
    zl, zu, zd = z[:nl], z[nl : nl + nu], z[nl + nu :]
    yl, yu, yd = y[:nl], y[nl : nl + nu], y[nl + nu :]
    in_row, in_col = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    w, dw = np.zeros(n, d.dtype), np.zeros(n, d.dtype)
    q, m = np.zeros(n, d.dtype), np.zeros(n, d.dtype)
    row, col = np.zeros(n, d.dtype), np.zeros(n, d.dtype)
    for i in range(n - 1, -1, -1):
        for s in range(up[i], up[i + 1]):
            k = uj[s]
            in_row[k], w[k], col[k] = i, ux[s] / d[i], 0
            dw[k] = (du[s] - w[k] * dd[i]) / d[i]
        for t in range(lp[i], lp[i + 1]):
            j = li[t]
            in_col[j], q[j], m[j], row[j] = i, lx[t], dl[t], 0
        for t in range(lp[i], lp[i + 1]):
            j = li[t]
            if in_row[j] == i:
                row[j] += dw[j] * zd[j] + w[j] * yd[j]
                col[j] += yd[j] * q[j] + zd[j] * m[j]
            for s in range(up[j], up[j + 1]):
                k = uj[s]
                if in_row[k] == i:
                    row[j] += dw[k] * zu[s] + w[k] * yu[s]
                    col[k] += yu[s] * q[j] + zu[s] * m[j]
        for s in range(up[i], up[i + 1]):
            k = uj[s]
            for t in range(lp[k], lp[k + 1]):
                j = li[t]
                if in_col[j] == i:
                    row[j] += dw[k] * zl[t] + w[k] * yl[t]
                    col[k] += yl[t] * q[j] + zl[t] * m[j]
        diagonal = -dd[i] / (d[i] * d[i])
        for s in range(up[i], up[i + 1]):
            yu[s] = -col[uj[s]]
            diagonal -= dw[uj[s]] * zu[s] + w[uj[s]] * yu[s]
        for t in range(lp[i], lp[i + 1]):
            yl[t] = -row[li[t]]
        yd[i] = diagonal


@njit(cache=True, nogil=True)
def lower_solve(lp, li, lx, x):  # type: ignore[no-untyped-def]
    """x <- L^-1 x for x (n, k), L with unit diagonal."""
    for j in range(len(lp) - 1):
        for t in range(lp[j], lp[j + 1]):
            for c in range(x.shape[1]):
                x[li[t], c] -= lx[t] * x[j, c]


@njit(cache=True, nogil=True)
def upper_solve(lp, li, lx, x):  # type: ignore[no-untyped-def]
    """x <- L^-H x for x (n, k), L with unit diagonal."""
    for j in range(len(lp) - 2, -1, -1):
        for t in range(lp[j], lp[j + 1]):
            factor = np.conj(lx[t])
            for c in range(x.shape[1]):
                x[j, c] -= factor * x[li[t], c]


@njit(cache=True, nogil=True)
def reverse(lp, li, lx, ld, f, fd):  # type: ignore[no-untyped-def]
    """The Cholesky factorisation in reverse: the gradient of L (f below the diagonal, fd on it)
    becomes that of the lower triangle of A = L L^H. `lx`, `ld` are L, its diagonal real.

    For columns k from the last to the first, undoing S_ij -= L_ik conj(L_jk), L_ik = S_ik / L_kk and
    L_kk = sqrt(S_kk), with F the gradient of L where that is still to do and of S where it is done:

        F_ik -= F_ij L_jk,  F_jk -= conj(F_ij) L_ik      for i >= j in column k
        F_kk -= sum_i Re(conj(F_ik) L_ik) / L_kk,  F_ik /= L_kk,  F_kk /= 2 L_kk
    """
    n = len(ld)
    inside = np.full(n, -1, np.int64)
    q, g = np.zeros(n, lx.dtype), np.zeros(n, lx.dtype)
    for k in range(n - 1, -1, -1):
        for t in range(lp[k], lp[k + 1]):
            inside[li[t]], q[li[t]], g[li[t]] = k, lx[t], f[t]
        for t in range(lp[k], lp[k + 1]):
            j = li[t]
            g[j] -= 2 * fd[j] * q[j]
            for s in range(lp[j], lp[j + 1]):
                i = li[s]
                if inside[i] == k:
                    g[i] -= f[s] * q[j]
                    g[j] -= np.conj(f[s]) * q[i]
        for t in range(lp[k], lp[k + 1]):
            i = li[t]
            f[t] = g[i] / ld[k]
            fd[k] -= (np.conj(f[t]) * q[i]).real
        fd[k] /= 2 * ld[k]
