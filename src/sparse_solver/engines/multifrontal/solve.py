"""Forward and backward substitution over the tree.

Subtrees run side by side. What one of them adds to rows above all subtrees it adds to rows of its
own, behind those of X (`Fronts.reach`), which are summed in a fixed order. The fronts above follow one
by one, each by block columns, whose rows are shared out.

Backwards, everything is conjugated on entry and on exit: L^H x = y is L^T conj(x) = conj(y).
"""

from __future__ import annotations

import numpy as np

from ..compiler import Numbers, entry, function
from .blocks import block_start
from .calls import BACKWARDS, DOWN, FORWARDS, TIMES, TRANSPOSED_TIMES, UP, call_kernel
from .fronts import unpack
from .memory import load, move
from .run import ABORT, draw, finish, tasks_at
from .schedule import Tasks

__all__ = ["backward", "backward_tasks", "forward", "forward_tasks"]

CHUNK = 512  # rows of a task below a diagonal block
SUBTREE, GATHER, DIAGONAL, BELOW, JOIN = range(5)


def _chunks(m: int, b: int, w: int, j: int) -> range:
    return range(0, m - min((j + 1) * b, w), CHUNK)


def forward_tasks(bounds: np.ndarray, width: np.ndarray, below: np.ndarray, block: np.ndarray) -> Tasks:
    """Subtrees, the sum of what they add above, then one front after the other."""
    tasks, top = Tasks(), int(bounds[-1])
    subtrees = [tasks.add(SUBTREE, t) for t in range(len(bounds) - 1)]
    latest = tasks.add(GATHER, 0, needs=tuple(subtrees))
    for s in range(top, len(width)):
        w, b = int(width[s]), int(block[s])
        m = w + int(below[s])
        for j in range(-(-w // b)):
            latest = tasks.add(DIAGONAL, s, j, needs=(latest,))
            parts = [tasks.add(BELOW, s, j, c, (latest,)) for c in _chunks(m, b, w, j)]
            latest = tasks.add(JOIN, s, needs=(latest, *parts))
    return tasks


def backward_tasks(
    bounds: np.ndarray, width: np.ndarray, below: np.ndarray, block: np.ndarray
) -> Tasks:
    """The same in the opposite order."""
    tasks, top = Tasks(), int(bounds[-1])
    latest = tasks.add(GATHER, 0)
    for s in range(len(width) - 1, top - 1, -1):
        w, b = int(width[s]), int(block[s])
        m = w + int(below[s])
        for j in range(-(-w // b) - 1, -1, -1):
            parts = [tasks.add(BELOW, s, j, c, (latest,)) for c in _chunks(m, b, w, j)]
            latest = tasks.add(DIAGONAL, s, j, needs=(latest, *parts))
    for t in range(len(bounds) - 1):
        tasks.add(SUBTREE, t, needs=(latest,))
    return tasks


@function
def _take(order, c0, c1, b, ldb, X, k):
    """Rows c0:c1 of X from b in the user's numbering."""
    for i in range(c0, c1):
        x, row = move(X, i * k), move(b, order[i] * ldb)
        for c in range(k):
            x[c] = row[c]


@function
def _take_conjugate(c0, c1, b, ldb, X, k):
    """Rows c0:c1 of X from b in the order of elimination; b may be X."""
    for i in range(c0, c1):
        x, row = move(X, i * k), move(b, i * ldb)
        for c in range(k):
            x[c] = row[c].conjugate()


@function
def _put(order, c0, c1, X, out, ldo, k):
    """Rows c0:c1 of X, conjugated, to out in the user's numbering."""
    for i in range(c0, c1):
        x, row = move(X, i * k), move(out, order[i] * ldo)
        for c in range(k):
            row[c] = x[c].conjugate()


@function
def _row(F, s, w, p):
    """The row of the matrix at place p of a front above all subtrees."""
    return F.column[s] + p if p < w else np.int64(F.rows[F.start[s] + p - w])


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
    call_kernel(machine[FORWARDS], (A, w + r, w, x, k, machine))
    if r == 0:
        return
    call_kernel(machine[TIMES], (move(A, w), w + r, r, w, x, Y, k, machine))
    for p in range(r):
        to, y = move(X, np.int64(reach[p]) * k), move(Y, p * k)
        for c in range(k):
            to[c] += y[c]


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
    for p in range(r):
        y, row = move(Y, p * k), move(X, np.int64(rows[p]) * k)
        for c in range(k):
            y[c] = row[c]
    if r > 0:
        call_kernel(machine[TRANSPOSED_TIMES], (move(A, w), w + r, r, w, Y, x, k, machine))
    call_kernel(machine[BACKWARDS], (A, w + r, w, x, k, machine))


@function
def _gather_above(F, b, ldb, X, k):
    """Right-hand sides above all subtrees, and what the subtrees add to them."""
    _take(F.order, F.column[F.top], F.n, b, ldb, X, k)
    extra = F.n
    for s in range(F.top):
        if F.up[s] >= F.top:
            for t in range(F.start[s], F.start[s + 1]):
                x, y = move(X, np.int64(F.rows[t]) * k), move(X, extra * k)
                for c in range(k):
                    x[c] += y[c]
                extra += 1


@function
def _clear_extra(F, t, X, k):
    """Zero the rows where subtrees of task t add to rows above."""
    for s in range(F.bounds[t], F.bounds[t + 1]):
        if F.up[s] >= F.top and F.start[s + 1] > F.start[s]:
            first = np.int64(F.reach[F.start[s]])
            for i in range(first * k, (first + F.start[s + 1] - F.start[s]) * k):
                X[i] = 0


@entry
def forward(
    table,
    graph,
    L: Numbers,
    b: Numbers,
    ldb: int,
    X: Numbers,
    buffers: Numbers,
    height: int,
    k: int,
    lane: int,
    machine,
    state,
):
    """X = L^-1 P b; take part as thread `lane`.

    b (n rows of k, ldb apart) in the user's numbering, X ((n + extra) k), buffers (lanes, rows of the
    tallest front times k).
    """
    F, G, Y = unpack(table), tasks_at(graph), move(buffers, lane * height)
    while True:
        task = draw(state, G, machine)
        if task < 0:
            return
        kind, s = G.what[4 * task], G.what[4 * task + 1]
        j, first = G.what[4 * task + 2], G.what[4 * task + 3]
        if kind == SUBTREE:
            s0, s1 = F.bounds[s], F.bounds[s + 1]
            _take(F.order, F.column[s0], F.column[s1], b, ldb, X, k)
            _clear_extra(F, s, X, k)
            for front in range(s0, s1):
                if load(state, ABORT) != 0:
                    return
                _forward_front(F, front, L, X, Y, k, machine)
        elif kind == GATHER:
            _gather_above(F, b, ldb, X, k)
        elif kind != JOIN:
            w = F.column[s + 1] - F.column[s]
            m, nb = w + F.start[s + 1] - F.start[s], F.block[s]
            c0 = j * nb
            c1 = min(c0 + nb, w)
            D = move(L, F.panel[s] + block_start(j, nb, m))
            x = move(X, (F.column[s] + c0) * k)
            if kind == DIAGONAL:
                call_kernel(machine[FORWARDS], (D, m - c0, c1 - c0, x, k, machine))
            else:
                p0 = c1 + first
                rows = min(CHUNK, m - p0)
                call_kernel(machine[TIMES], (move(D, p0 - c0), m - c0, rows, c1 - c0, x, Y, k, machine))
                for p in range(rows):
                    to, y = move(X, _row(F, s, w, p0 + p) * k), move(Y, p * k)
                    for c in range(k):
                        to[c] += y[c]
        finish(state, G, task)


@entry
def backward(
    table,
    graph,
    L: Numbers,
    given: Numbers,
    ldg: int,
    X: Numbers,
    out: Numbers,
    ldo: int,
    buffers: Numbers,
    height: int,
    partial: Numbers,
    k: int,
    lane: int,
    machine,
    state,
):
    """out = P^T L^-H given; take part as thread `lane`.

    given (n rows of k, ldg apart) in the order of elimination; it may be X itself. out (n rows of k,
    ldo apart) in the user's numbering, partial (numbers of a block times k, for each chunk of rows).
    """
    F, G, Y = unpack(table), tasks_at(graph), move(buffers, lane * height)
    while True:
        task = draw(state, G, machine)
        if task < 0:
            return
        kind, s = G.what[4 * task], G.what[4 * task + 1]
        j, first = G.what[4 * task + 2], G.what[4 * task + 3]
        if kind == SUBTREE:
            s0, s1 = F.bounds[s], F.bounds[s + 1]
            _take_conjugate(F.column[s0], F.column[s1], given, ldg, X, k)
            for front in range(s1 - 1, s0 - 1, -1):
                if load(state, ABORT) != 0:
                    return
                _backward_front(F, front, L, X, Y, k, machine)
            _put(F.order, F.column[s0], F.column[s1], X, out, ldo, k)
        elif kind == GATHER:
            _take_conjugate(F.column[F.top], F.n, given, ldg, X, k)
        elif kind != JOIN:
            w = F.column[s + 1] - F.column[s]
            m, nb = w + F.start[s + 1] - F.start[s], F.block[s]
            c0 = j * nb
            c1 = min(c0 + nb, w)
            D = move(L, F.panel[s] + block_start(j, nb, m))
            row = F.column[s] + c0
            x, size = move(X, row * k), (c1 - c0) * k
            if kind == BELOW:
                p0 = c1 + first
                rows = min(CHUNK, m - p0)
                for p in range(rows):
                    y, source = move(Y, p * k), move(X, _row(F, s, w, p0 + p) * k)
                    for c in range(k):
                        y[c] = source[c]
                part = move(partial, first // CHUNK * nb * k)
                for i in range(size):
                    part[i] = 0
                below = move(D, p0 - c0), m - c0, rows, c1 - c0, Y, part, k, machine
                call_kernel(machine[TRANSPOSED_TIMES], below)
            else:
                for chunk in range(-(-(m - c1) // CHUNK)):
                    part = move(partial, chunk * nb * k)
                    for i in range(size):
                        x[i] += part[i]
                call_kernel(machine[BACKWARDS], (D, m - c0, c1 - c0, x, k, machine))
                _put(F.order, row, row + c1 - c0, X, out, ldo, k)
        finish(state, G, task)
