"""Forward and backward substitution over the tree.

Subtrees run side by side, and so do the fronts above them, each by block columns on pieces of rows.
What a front adds to rows above all subtrees it adds to rows of its own, behind those of X
(`Fronts.reach`); its parent sums them up, child by child, and so in a fixed order. On the way back
the same rows hold what is known above, so that what a piece reads and writes is contiguous.

Rows of X are padded to whole vectors (`rows`). While a front is worked on, the next one is asked for.

Backwards, everything is conjugated on entry and on exit: L^H x = y is L^T conj(x) = conj(y).
"""

from __future__ import annotations

import numpy as np

from ..compiler import Numbers, entry, function
from .blocks import block_start
from .calls import (
    BACKWARDS,
    DOWN,
    FORWARDS,
    FRONT_DOWN,
    FRONT_UP,
    TIMES,
    TRANSPOSED_TIMES,
    UP,
    call_kernel,
)  # fmt: skip
from .fronts import unpack
from .memory import load, move, prefetch
from .rows import add_row, put_row, take_conjugate, take_row
from .run import ABORT, draw, finish, tasks_at
from .scalars import is_real
from .solve_tasks import ASSEMBLE, BACK, CHUNK, DIAGONAL, SUBTREE, UPDATE

__all__ = ["substitute"]

_LARGE = 20000  # numbers in a panel from which calls of BLAS pay
_MOST = 512  # numbers asked for ahead; the processor follows longer streams by itself


@function
def _take(order, c0, c1, b, ldb, X, k, width):
    """Rows c0:c1 of X from b in the user's numbering."""
    for i in range(c0, c1):
        if k == 1:
            X[i] = b[order[i] * ldb]
        else:
            take_row(move(X, i * width), move(b, order[i] * ldb), k)


@function
def _take_conjugate(c0, c1, given, ldg, X, k, width):
    """Rows c0:c1 of X from what is given in the order of elimination; ldg is 0 where X holds it."""
    if ldg > 0 and k > 1:
        for i in range(c0, c1):
            take_conjugate(move(X, i * width), move(given, i * ldg), k)
    elif ldg > 0:
        for i in range(c0, c1):
            X[i] = given[i * ldg].conjugate()
    elif not is_real(X[0]):
        for i in range(c0 * width, c1 * width):
            X[i] = X[i].conjugate()


@function
def _announce(F, s, L, X, width):
    """Have the panel of a front and its rows of X come to the cache."""
    w, size = F.column[s + 1] - F.column[s], F.panel[s + 1] - F.panel[s]
    prefetch(move(L, F.panel[s]), min(size, _MOST), 0)
    prefetch(move(X, F.column[s] * width), min(w * width, _MOST), 1)


@function
def _announce_rows(F, s, out, ldo, k):
    """The same for rows in the user's numbering, to be written."""
    for i in range(F.column[s], min(F.column[s] + 16, F.column[s + 1])):
        prefetch(move(out, F.order[i] * ldo), k, 1)


@function
def _put(order, c0, c1, X, out, ldo, k, width):
    """Rows c0:c1 of X, conjugated, to out in the user's numbering."""
    for i in range(c0, c1):
        if k == 1:
            out[order[i] * ldo] = X[i].conjugate()
        else:
            put_row(move(out, order[i] * ldo), move(X, i * width), k)


@function
def _add(X, row, y, k):
    """Add k numbers to a row of X."""
    if k == 1:
        X[row] += y[0]
    else:
        add_row(move(X, row * k), y, k)


@function
def _copy(to, source, k):
    """Copy k numbers."""
    if k == 1:
        to[0] = source[0]
    else:
        take_row(to, source, k)


@function
def _forward_front(F, s, L, X, Y, k, machine):
    w = F.column[s + 1] - F.column[s]
    r = F.start[s + 1] - F.start[s]
    A, x = move(L, F.panel[s]), move(X, F.column[s] * k)
    reach = move(F.reach, F.start[s])
    if k == 1:
        for p in range(w):
            Y[p] = x[p]
        for p in range(w, w + r):
            Y[p] = 0
        call_kernel(machine[DOWN], (A, w + r, w + r, w, Y, machine))
        for p in range(w):
            x[p] = Y[p]
        y = move(Y, w)
        for p in range(r):
            X[reach[p]] += y[p]
        return
    if (w + r) * w < _LARGE:
        call_kernel(machine[FRONT_DOWN], (A, w + r, w, r, x, X, reach, k, machine))
        return
    call_kernel(machine[FORWARDS], (A, w + r, w, x, k, machine))
    if r > 0:
        call_kernel(machine[TIMES], (move(A, w), w + r, r, w, x, Y, 0, k, machine))
    for p in range(r):
        _add(X, np.int64(reach[p]), move(Y, p * k), k)


@function
def _backward_front(F, s, L, X, Y, k, machine):
    w = F.column[s + 1] - F.column[s]
    r = F.start[s + 1] - F.start[s]
    A, x = move(L, F.panel[s]), move(X, F.column[s] * k)
    rows = move(F.rows, F.start[s])
    if k == 1:
        y = move(Y, w)
        for p in range(r):
            y[p] = X[rows[p]]
        for p in range(w):
            Y[p] = x[p]
        call_kernel(machine[UP], (A, w + r, w + r, w, Y, machine))
        for p in range(w):
            x[p] = Y[p]
        return
    if (w + r) * w < _LARGE:
        call_kernel(machine[FRONT_UP], (A, w + r, w, r, x, X, rows, k, machine))
        return
    for p in range(r):
        _copy(move(Y, p * k), move(X, np.int64(rows[p]) * k), k)
    if r > 0:
        call_kernel(machine[TRANSPOSED_TIMES], (move(A, w), w + r, r, w, Y, x, k, machine))
    call_kernel(machine[BACKWARDS], (A, w + r, w, x, k, machine))


@function
def _rows_at(F, s, p, w):
    """The row of X for row p of a front above all subtrees: those below it are its own, behind all."""
    return F.column[s] + p if p < w else F.reach[F.start[s]] + p - w


@function
def _assemble(F, s, b, ldb, X, k, width):
    """Right-hand sides of a front above all subtrees, and what its children add."""
    w, r = F.column[s + 1] - F.column[s], F.start[s + 1] - F.start[s]
    _take(F.order, F.column[s], F.column[s + 1], b, ldb, X, k, width)
    if r > 0:
        first = _rows_at(F, s, w, w)
        for i in range(first * width, (first + r) * width):
            X[i] = 0
    for t in range(F.child_begin[s], F.child_begin[s + 1]):
        c = F.child[t]
        for p in range(F.start[c], F.start[c + 1]):
            to = _rows_at(F, s, np.int64(F.relative[p]), w)
            _add(X, to, move(X, np.int64(F.reach[p]) * width), width)


@function
def _gather(F, s, X, width):
    """Rows below a front above all subtrees, to rows of its own."""
    for t in range(F.start[s], F.start[s + 1]):
        row, to = np.int64(F.rows[t]), np.int64(F.reach[t])
        _copy(move(X, to * width), move(X, row * width), width)


@function
def _clear_extra(F, t, X, k):
    """Zero the rows where subtrees of task t add to rows above."""
    for s in range(F.bounds[t], F.bounds[t + 1]):
        if F.up[s] >= F.top and F.start[s + 1] > F.start[s]:
            first = np.int64(F.reach[F.start[s]])
            for i in range(first * k, (first + F.start[s + 1] - F.start[s]) * k):
                X[i] = 0


@function
def _forward_subtree(F, t, L, b, ldb, X, Y, k, width, machine, state):
    s0, s1 = F.bounds[t], F.bounds[t + 1]
    _take(F.order, F.column[s0], F.column[s1], b, ldb, X, k, width)
    _clear_extra(F, t, X, width)
    for front in range(s0, s1):
        if load(state, ABORT) != 0:
            return
        if front + 1 < s1:
            _announce(F, front + 1, L, X, width)
        _forward_front(F, front, L, X, Y, width, machine)


@function
def _backward_subtree(F, t, L, given, ldg, X, out, ldo, Y, k, width, machine, state):
    s0, s1 = F.bounds[t], F.bounds[t + 1]
    for front in range(s1 - 1, s0 - 1, -1):
        if load(state, ABORT) != 0:
            return
        if front > s0:
            _announce(F, front - 1, L, X, width)
            _announce_rows(F, front - 1, out, ldo, k)
        c0, c1 = F.column[front], F.column[front + 1]
        _take_conjugate(c0, c1, given, ldg, X, k, width)
        _backward_front(F, front, L, X, Y, width, machine)
        _put(F.order, c0, c1, X, out, ldo, k, width)


@function
def _block_column(F, kind, s, j, q, L, X, out, ldo, k, width, machine):
    """A task on block column j of a front above all subtrees, and on its piece q of rows."""
    w = F.column[s + 1] - F.column[s]
    m, nb = w + F.start[s + 1] - F.start[s], F.block[s]
    c0 = j * nb
    c1 = min(c0 + nb, w)
    D, ldd, row = move(L, F.panel[s] + block_start(j, nb, m)), m - c0, F.column[s] + c0
    x = move(X, row * width)
    if kind == DIAGONAL:
        call_kernel(machine[FORWARDS], (D, ldd, c1 - c0, x, width, machine))
        return
    if kind == BACK + DIAGONAL:
        call_kernel(machine[BACKWARDS], (D, ldd, c1 - c0, x, width, machine))
        _put(F.order, row, row + c1 - c0, X, out, ldo, k, width)
        return
    p, p1 = max(c1, q * CHUNK), min(m, (q + 1) * CHUNK)
    while p < p1:  # those among the front's columns, and those below
        rows = (w if p < w < p1 else p1) - p
        M, y = move(D, p - c0), move(X, _rows_at(F, s, p, w) * width)
        if kind == UPDATE:
            call_kernel(machine[TIMES], (M, ldd, rows, c1 - c0, x, y, 1, width, machine))
        else:
            call_kernel(machine[TRANSPOSED_TIMES], (M, ldd, rows, c1 - c0, y, x, width, machine))
        p += rows


@entry
def substitute(
    table,
    graph,
    L: Numbers,
    b: Numbers,
    ldb: int,
    held: int,
    X: Numbers,
    out: Numbers,
    ldo: int,
    buffers: Numbers,
    height: int,
    k: int,
    width: int,
    lane: int,
    machine,
    state,
):
    """The sweeps that are in the graph; take part as thread `lane`.

    Forwards X = L^-1 P b for b (n rows of k, ldb apart) in the user's numbering. Backwards out =
    P^T L^-H X (n rows of k, ldo apart), also in the user's numbering; if X is not `held` it is first
    taken from b, in the order of elimination. X has rows of `width` numbers: n, and those that
    `Fronts.reach` names; buffers (lanes, height).
    """
    F, G, Y = unpack(table), tasks_at(graph), move(buffers, lane * height)
    ldg = 0 if held != 0 else ldb
    while True:
        task = draw(state, G, machine)
        if task < 0:
            return
        kind, s = G.what[4 * task], G.what[4 * task + 1]
        j, q = G.what[4 * task + 2], G.what[4 * task + 3]
        if kind == SUBTREE:
            _forward_subtree(F, s, L, b, ldb, X, Y, k, width, machine, state)
        elif kind == ASSEMBLE:
            _assemble(F, s, b, ldb, X, k, width)
        elif kind == BACK + SUBTREE:
            _backward_subtree(F, s, L, b, ldg, X, out, ldo, Y, k, width, machine, state)
        elif kind == BACK + ASSEMBLE:
            _take_conjugate(F.column[s], F.column[s + 1], b, ldg, X, k, width)
            _gather(F, s, X, width)
        else:
            _block_column(F, kind, s, j, q, L, X, out, ldo, k, width, machine)
        finish(state, G, task)
