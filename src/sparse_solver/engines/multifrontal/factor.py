"""The numeric factorisation: fronts, from the leaves of the tree to its roots.

A front is the dense matrix of a supernode's columns and of the rows they reach:

    [ F11       ]   own columns       F11 = L11 L11^H
    [ F21   F22 ]   rows below        L21 = F21 L11^-H,   U = F22 - L21 L21^H

[L11; L21] is the panel, which stays; the update matrix U is added to the parent's front. F22 holds
nothing but the children's updates, so U is computed first and they are added to it: no zeroing.

References
----------
I. S. Duff and J. K. Reid, The multifrontal solution of indefinite sparse symmetric linear systems,
ACM Trans. Math. Softw. 9 (1983). J. W. H. Liu, The multifrontal method for sparse matrix solution,
SIAM Review 34 (1992).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from .blas import GEMM, HERK, TRSM, gemm, herk, trsm
from .blocks import block_start, update_width
from .dense import INNER, OPTIONS, panel, update
from .memory import at, fetch_min, load, move
from .run import ABORT, BAD, draw, finish
from .schedule import ACROSS, ASSEMBLE, BELOW, CHUNK, DIAGONAL, SUBTREE, UPDATE

__all__ = ["Fronts", "factorize"]

_SMALL = 160  # rows of a front up to which our own kernels are faster than calls of BLAS
_PANEL = 64  # columns factored by our own kernels between calls


class Fronts(NamedTuple):
    """What the numeric phases read of the symbolic one; s is a supernode, t a task."""

    column: np.ndarray  # (s + 1,) first column
    start: np.ndarray  # (s + 1,) into rows and relative
    rows: np.ndarray  # int32
    relative: np.ndarray  # int32, places in the parent's front
    reach: np.ndarray  # int32, rows, or where a subtree adds to rows above it, see `solve`
    up: np.ndarray  # (s,) parent or -1
    child_begin: np.ndarray  # (s + 1,) into child
    child: np.ndarray
    panel: np.ndarray  # (s + 1,) into the factor
    block: np.ndarray  # (s,) width of the panel's block columns
    begin: np.ndarray  # (s + 1,) into source and target
    source: np.ndarray  # places in A's nonzeros
    target: np.ndarray  # places in the panel
    bounds: np.ndarray  # (t + 1,) supernodes of each subtree task; the fronts above follow
    offset: np.ndarray  # (s,) of update matrices, in the arena or, inside a subtree, on a stack


@njit(**INNER)
def update_place(F, s, kept, lane_size, lane):  # type: ignore[no-untyped-def]
    """Where in the arena the update matrix of s lies for the thread `lane`."""
    top = F.bounds[len(F.bounds) - 1]
    if s >= top or F.up[s] < 0 or F.up[s] >= top:
        return F.offset[s]
    base = kept + lane * lane_size
    return base + (F.offset[s] if F.offset[s] >= 0 else lane_size - ~F.offset[s])


@njit(**INNER)
def _search(relative, low, high, value):  # type: ignore[no-untyped-def]
    """First place in relative[low:high], ascending, that is at least `value`."""
    while low < high:
        middle = (low + high) // 2
        if relative[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@njit(**INNER)
def _extend_add(F, c, U, D, ldd, shift, c0, c1):  # type: ignore[no-untyped-def]
    """Add those columns of c's update matrix U that fall on columns c0:c1 of the parent's front.

    D is where column c0 and row `shift` of that front lie.
    """
    begin, end = F.start[c], F.start[c + 1]
    r = end - begin
    b = update_width(r)
    first, last = _search(F.relative, begin, end, c0), _search(F.relative, begin, end, c1)
    for j in range(first - begin, last - begin):
        k = j // b
        u = move(U, block_start(k, b, r) + (j - k * b) * (r - k * b) - k * b)
        to = move(D, (F.relative[begin + j] - c0) * ldd - shift)
        if F.relative[end - 1] - F.relative[begin + j] == r - 1 - j:  # no gaps: a vector operation
            to = move(to, F.relative[begin + j] - j)
            for i in range(j, r):
                to[i] += u[i]
        else:
            rel = at(F.relative, begin)
            for i in range(j, r):
                to[rel[i]] += u[i]


@njit(**INNER)
def _assemble(F, s, values, L, arena, kept, lane_size, lane, c0, c1):  # type: ignore[no-untyped-def]
    """Block column c0:c1 of the panel of s: A's entries and the children's updates."""
    m = F.column[s + 1] - F.column[s] + F.start[s + 1] - F.start[s]
    b = F.block[s]
    A = at(L, F.panel[s])
    d0 = block_start(c0 // b, b, m)
    d1 = d0 + (c1 - c0) * (m - c0)
    for i in range(d0, d1):
        A[i] = 0
    e0, e1 = F.begin[s], F.begin[s + 1]
    if c1 - c0 < F.column[s + 1] - F.column[s]:
        e0, e1 = _search(F.target, e0, e1, d0), _search(F.target, e0, e1, d1)
    for e in range(e0, e1):
        A[F.target[e]] = values[F.source[e]].conjugate()
    for p in range(F.child_begin[s], F.child_begin[s + 1]):
        c = F.child[p]
        U = at(arena, update_place(F, c, kept, lane_size, lane))
        _extend_add(F, c, U, move(A, d0), m - c0, c0, c0, c1)


@njit(**INNER)
def _update(F, s, j, L, arena, kept, lane_size, lane, blas, one, step):  # type: ignore[no-untyped-def]
    """Block column j of the update matrix of s: -L21 L21^H, then the children's."""
    w = F.column[s + 1] - F.column[s]
    r = F.start[s + 1] - F.start[s]
    m, b = w + r, F.block[s]
    ub = update_width(r)
    c0 = j * ub
    c1 = min(c0 + ub, r)
    U = at(arena, update_place(F, s, kept, lane_size, lane) + block_start(j, ub, r))
    for k in range(0, w, b):
        kb = min(b, w - k)
        B = at(L, F.panel[s] + block_start(k // b, b, m) + w - k + c0)
        beta = one if k > 0 else one - one
        if m <= _SMALL:
            update(U, r, B, m, r, w, step, False)
        elif ub == r:
            herk(blas[HERK], (76, 78, r, kb, -one.real, B, m - k, beta.real, U, r))
        else:
            gemm(blas[GEMM], (78, 67, r - c0, c1 - c0, kb, -one, B, m - k, B, m - k, beta, U, r - c0))
    for p in range(F.child_begin[s], F.child_begin[s + 1]):
        c = F.child[p]
        V = at(arena, update_place(F, c, kept, lane_size, lane))
        _extend_add(F, c, V, U, r - c0, w + c0, w + c0, w + c1)


@njit(**INNER)
def _factor_panel(A, m, w, blas, one, step):  # type: ignore[no-untyped-def]
    """Factor the panel A (m x w, one block); 0 or 1 + the bad column."""
    if m <= _SMALL:
        return panel(A, m, m, w, step)
    for k in range(0, w, _PANEL):
        kb = min(_PANEL, w - k)
        D = move(A, k * (m + 1))
        bad = panel(D, m, m - k, kb, step)
        if bad:
            return k + bad
        if w > k + kb:
            B, C = move(D, kb), move(D, kb * (m + 1))
            gemm(blas[GEMM], (78, 67, m - k - kb, w - k - kb, kb, -one, B, m, B, m, one, C, m))
    return 0


@njit(**INNER)
def _subtree(F, t, values, L, arena, kept, lane_size, lane, blas, one, step, state):  # type: ignore[no-untyped-def]
    """All fronts of a task; stops where one that comes earlier has failed."""
    for s in range(F.bounds[t], F.bounds[t + 1]):
        if load(state, BAD) <= F.column[s] or load(state, ABORT) != 0:
            return
        w = F.column[s + 1] - F.column[s]
        r = F.start[s + 1] - F.start[s]
        _assemble(F, s, values, L, arena, kept, lane_size, lane, 0, w)
        bad = _factor_panel(at(L, F.panel[s]), w + r, w, blas, one, step)
        if bad:
            fetch_min(state, BAD, F.column[s] + bad - 1)
            return
        for j in range(-(-r // update_width(r))):
            _update(F, s, j, L, arena, kept, lane_size, lane, blas, one, step)


@njit(**INNER)
def _tile(F, kind, s, j, k, values, L, arena, kept, lane_size, lane, blas, one, step, state):  # type: ignore[no-untyped-def]
    """A step of a front above all subtrees, on block column j."""
    if kind == UPDATE:
        _update(F, s, j, L, arena, kept, lane_size, lane, blas, one, step)
        return
    w = F.column[s + 1] - F.column[s]
    m, b = w + F.start[s + 1] - F.start[s], F.block[s]
    c0 = j * b
    c1 = min(c0 + b, w)
    D, ldd = at(L, F.panel[s] + block_start(j, b, m)), m - c0
    if kind == ASSEMBLE:
        _assemble(F, s, values, L, arena, kept, lane_size, lane, c0, c1)
    elif kind == DIAGONAL:
        bad = panel(D, ldd, c1 - c0, c1 - c0, step)
        if bad:
            fetch_min(state, BAD, F.column[s] + c0 + bad - 1)
    elif kind == BELOW:  # from row k below the diagonal block on
        B, rows = move(D, c1 - c0 + k), min(CHUNK, m - c1 - k)
        trsm(blas[TRSM], (82, 76, 67, 78, rows, c1 - c0, one, D, ldd, B, ldd))
    elif kind == ACROSS:  # from block column j to block column k
        d0 = k * b
        B, width = move(D, d0 - c0), min(b, w - d0)
        C = at(L, F.panel[s] + block_start(k, b, m))
        gemm(blas[GEMM], (78, 67, m - d0, width, c1 - c0, -one, B, ldd, B, ldd, one, C, m - d0))


@njit(**OPTIONS)
def factorize(F, what, before, begin, after, values, L, arena, kept, lane_size, lane, blas, step, yielding, state):  # type: ignore[no-untyped-def]
    """Take part in a factorisation as thread `lane`, until no task is left.

    Parameters
    ----------
    F : Fronts
    what, before, begin, after : arrays
        The graph of tasks; `before` is counted down.
    values : array (nnz,)
    L : array
        The panels, overwritten.
    arena : array
        Update matrices that are kept to the end, then each lane's stacks.
    blas : array (4,) of addresses
    state : array
        See `run`.
    """
    one = L.dtype.type(1)
    while True:
        task = draw(state, len(what), yielding)
        if task < 0:
            return
        kind, s = what[task, 0], what[task, 1]
        if kind == SUBTREE:
            _subtree(F, s, values, L, arena, kept, lane_size, lane, blas, one, step, state)
        elif load(state, BAD) > F.column[s]:
            j, k = what[task, 2], what[task, 3]
            _tile(F, kind, s, j, k, values, L, arena, kept, lane_size, lane, blas, one, step, state)
        finish(state, task, before, begin, after)
