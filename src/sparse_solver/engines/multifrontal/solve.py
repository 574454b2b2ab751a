"""Forward and backward substitution over the tree.

Subtrees run side by side. What one of them adds to rows above all subtrees it adds to rows of its
own, behind those of X (`Fronts.reach`), which are summed in a fixed order. The fronts above follow one
by one, each by block columns, whose rows are shared out.

Backwards, everything is conjugated on entry and on exit: L^H x = y is L^T conj(x) = conj(y).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .blocks import block_start
from .dense import INNER, OPTIONS
from .memory import at, move
from .run import draw, finish
from .schedule import Tasks
from .substitute import backwards, forwards, times, transposed_times

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


def backward_tasks(bounds: np.ndarray, width: np.ndarray, below: np.ndarray, block: np.ndarray) -> Tasks:
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


@njit(**INNER)
def _take(order, c0, c1, b, X, k, conjugate):  # type: ignore[no-untyped-def]
    """Rows c0:c1 of X from b in the user's numbering, or from b as it is if `order` is empty."""
    for i in range(c0, c1):
        x = move(X, i * k)
        row = at(b, (order[i] if len(order) else i) * k)
        if conjugate:
            for c in range(k):
                x[c] = row[c].conjugate()
        else:
            for c in range(k):
                x[c] = row[c]


@njit(**INNER)
def _put(order, c0, c1, X, out, k):  # type: ignore[no-untyped-def]
    for i in range(c0, c1):
        x = move(X, i * k)
        row = at(out, order[i] * k)
        for c in range(k):
            row[c] = x[c].conjugate()


@njit(**INNER)
def _row(F, s, w, p):  # type: ignore[no-untyped-def]
    """The row of the matrix at place p of a front above all subtrees."""
    return F.column[s] + p if p < w else np.int64(F.rows[F.start[s] + p - w])


@njit(**INNER)
def _forward_front(F, s, L, X, Y, k, blas, one, step):  # type: ignore[no-untyped-def]
    w = F.column[s + 1] - F.column[s]
    r = F.start[s + 1] - F.start[s]
    A, x = at(L, F.panel[s]), move(X, F.column[s] * k)
    forwards(A, w + r, w, x, k, blas, one, step)
    if r > 0:
        times(move(A, w), w + r, r, w, x, Y, k, blas, one, step)
    reach = at(F.reach, F.start[s])
    if k == 1:
        for p in range(r):
            X[reach[p]] += Y[p]
        return
    for p in range(r):
        to, y = move(X, np.int64(reach[p]) * k), move(Y, p * k)
        for c in range(k):
            to[c] += y[c]


@njit(**INNER)
def _backward_front(F, s, L, X, Y, k, blas, one, step):  # type: ignore[no-untyped-def]
    w = F.column[s + 1] - F.column[s]
    r = F.start[s + 1] - F.start[s]
    A, x = at(L, F.panel[s]), move(X, F.column[s] * k)
    rows = at(F.rows, F.start[s])
    if k == 1:
        for p in range(r):
            Y[p] = X[rows[p]]
    else:
        for p in range(r):
            y, row = move(Y, p * k), move(X, np.int64(rows[p]) * k)
            for c in range(k):
                y[c] = row[c]
    if r > 0:
        transposed_times(move(A, w), w + r, r, w, Y, x, k, blas, one, step)
    backwards(A, w + r, w, x, k, blas, one, step)


@njit(**INNER)
def _gather_above(F, order, b, X, k):  # type: ignore[no-untyped-def]
    """Right-hand sides above all subtrees, and what the subtrees add to them."""
    top = F.bounds[len(F.bounds) - 1]
    n = F.column[len(F.column) - 1]
    _take(order, F.column[top], n, b, X, k, False)
    extra = n
    for s in range(top):
        if F.up[s] >= top:
            for t in range(F.start[s], F.start[s + 1]):
                x, y = move(X, np.int64(F.rows[t]) * k), move(X, extra * k)
                for c in range(k):
                    x[c] += y[c]
                extra += 1


@njit(**INNER)
def _clear_extra(F, t, X, k):  # type: ignore[no-untyped-def]
    """Zero the rows where subtrees of task t add to rows above."""
    top = F.bounds[len(F.bounds) - 1]
    for s in range(F.bounds[t], F.bounds[t + 1]):
        if F.up[s] >= top and F.start[s + 1] > F.start[s]:
            first = np.int64(F.reach[F.start[s]])
            for i in range(first * k, (first + F.start[s + 1] - F.start[s]) * k):
                X[i] = 0


@njit(**OPTIONS)
def forward(F, order, what, before, begin, after, L, b, X_, buffers, lane, k, blas, step, yielding, state):  # type: ignore[no-untyped-def]
    """X = L^-1 P b; take part as thread `lane`.

    b (n k) in the user's numbering, X ((n + extra) k), buffers (lanes, rows of the largest front k).
    """
    one = L.dtype.type(1)
    X, Y = at(X_, 0), at(buffers, lane * buffers.shape[1])
    while True:
        task = draw(state, len(what), yielding)
        if task < 0:
            return
        kind, s, j, first = what[task, 0], what[task, 1], what[task, 2], what[task, 3]
        if kind == SUBTREE:
            s0, s1 = F.bounds[s], F.bounds[s + 1]
            _take(order, F.column[s0], F.column[s1], b, X, k, False)
            _clear_extra(F, s, X, k)
            for front in range(s0, s1):
                _forward_front(F, front, L, X, Y, k, blas, one, step)
        elif kind == GATHER:
            _gather_above(F, order, b, X, k)
        elif kind == DIAGONAL or kind == BELOW:
            w = F.column[s + 1] - F.column[s]
            m, nb = w + F.start[s + 1] - F.start[s], F.block[s]
            c0 = j * nb
            c1 = min(c0 + nb, w)
            D = at(L, F.panel[s] + block_start(j, nb, m))
            x = move(X, (F.column[s] + c0) * k)
            if kind == DIAGONAL:
                forwards(D, m - c0, c1 - c0, x, k, blas, one, step)
            else:
                p0 = c1 + first
                rows = min(CHUNK, m - p0)
                times(move(D, p0 - c0), m - c0, rows, c1 - c0, x, Y, k, blas, one, step)
                for p in range(rows):
                    to, y = move(X, _row(F, s, w, p0 + p) * k), move(Y, p * k)
                    for c in range(k):
                        to[c] += y[c]
        finish(state, task, before, begin, after)


@njit(**OPTIONS)
def backward(F, order, what, before, begin, after, L, given, X_, out, buffers, partial, lane, k, blas, step, yielding, state):  # type: ignore[no-untyped-def]
    """out = P^T L^-H given; take part as thread `lane`.

    given (n k) in the order of elimination; it may be X itself. out (n k) in the user's numbering,
    partial (numbers of a block times k, for each chunk of rows).
    """
    one = L.dtype.type(1)
    X, Y = at(X_, 0), at(buffers, lane * buffers.shape[1])
    nothing = order[:0]
    while True:
        task = draw(state, len(what), yielding)
        if task < 0:
            return
        kind, s, j, first = what[task, 0], what[task, 1], what[task, 2], what[task, 3]
        if kind == SUBTREE:
            s0, s1 = F.bounds[s], F.bounds[s + 1]
            _take(nothing, F.column[s0], F.column[s1], given, X, k, True)
            for front in range(s1 - 1, s0 - 1, -1):
                _backward_front(F, front, L, X, Y, k, blas, one, step)
            _put(order, F.column[s0], F.column[s1], X, out, k)
        elif kind == GATHER:
            top = F.bounds[len(F.bounds) - 1]
            _take(nothing, F.column[top], F.column[len(F.column) - 1], given, X, k, True)
        else:
            w = F.column[s + 1] - F.column[s]
            m, nb = w + F.start[s + 1] - F.start[s], F.block[s]
            c0 = j * nb
            c1 = min(c0 + nb, w)
            D = at(L, F.panel[s] + block_start(j, nb, m))
            x = move(X, (F.column[s] + c0) * k)
            size = nb * k
            if kind == BELOW:
                p0 = c1 + first
                rows = min(CHUNK, m - p0)
                for p in range(rows):
                    y, row = move(Y, p * k), move(X, _row(F, s, w, p0 + p) * k)
                    for c in range(k):
                        y[c] = row[c]
                sums = at(partial, first // CHUNK * size)
                for i in range((c1 - c0) * k):
                    sums[i] = 0
                transposed_times(move(D, p0 - c0), m - c0, rows, c1 - c0, Y, sums, k, blas, one, step)
            else:
                for chunk in range(-(-(m - c1) // CHUNK)):
                    sums = at(partial, chunk * size)
                    for i in range((c1 - c0) * k):
                        x[i] += sums[i]
                backwards(D, m - c0, c1 - c0, x, k, blas, one, step)
                first_row = F.column[s] + c0
                _put(order, first_row, first_row + c1 - c0, X, out, k)
        finish(state, task, before, begin, after)
