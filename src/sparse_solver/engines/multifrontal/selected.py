"""The selected inverse as a run of tasks: fronts above all subtrees one by one, then the subtrees."""

from __future__ import annotations

import numpy as np

from ..compiler import Numbers, entry, function
from .blocks import block_start, update_width
from .calls import INVERSE_BLOCK, call_kernel
from .calls import OVER as DIVIDE
from .fronts import unpack
from .inverse import below_front, gather, inverse_front
from .memory import load, move
from .run import ABORT, draw, finish, tasks_at
from .schedule import Tasks

__all__ = ["ROWS", "inverse_tasks", "selected_inverse"]

ROWS = 512  # of a task that divides by a diagonal block
SUBTREE, OVER, BELOW, DIAGONAL, GATHER, JOIN = range(6)


def inverse_tasks(
    bounds: np.ndarray,
    width: np.ndarray,
    below: np.ndarray,
    up: np.ndarray,
    block: np.ndarray,
    reused: list[tuple[int, int]],
) -> Tasks:
    """The graph of tasks.

    `reused` holds (s, t): in the factorisation, task t took a place in the arena that front s had given
    up. Backwards, the children of s must wait for the subtrees of t.
    """
    tasks, top = Tasks(), int(bounds[-1])
    task_of = np.searchsorted(bounds, np.arange(top), side="right") - 1
    children: dict[int, list[int]] = {}
    for s in np.flatnonzero(up >= top).tolist():
        children.setdefault(int(up[s]), []).append(s)
    subtree: dict[int, int] = {}
    gathered: dict[int, list[int]] = {t: [] for t in range(len(bounds) - 1)}
    pending = {t: 0 for t in gathered}
    for s in np.flatnonzero(up[:top] >= top).tolist():
        pending[int(task_of[s])] += 1
    latest = tasks.add(JOIN, 0)
    for t, roots in pending.items():
        if roots == 0:
            subtree[t] = tasks.add(SUBTREE, t, needs=(latest,))
    waits: dict[int, list[int]] = {}
    for s, t in reused:
        waits.setdefault(s, []).append(t)
    for s in range(len(up) - 1, top - 1, -1):
        w, r, b = int(width[s]), int(below[s]), int(block[s])
        m, outer = w + r, -(-r // int(update_width(r)))
        for j in range(-(-w // b) - 1, -1, -1):
            rows = m - min((j + 1) * b, w)
            parts = [tasks.add(OVER, s, j, c, (latest,)) for c in range(0, rows, ROWS)]
            latest = tasks.add(JOIN, s, needs=(latest, *parts))
            inner = -(-w // b) - 1 - j
            parts = [tasks.add(BELOW, s, j, i, (latest,)) for i in range(inner + outer)]
            latest = tasks.add(DIAGONAL, s, j, needs=(latest, *parts))
        before = {subtree[t] for t in waits.get(s, ())}
        free = tasks.add(JOIN, s, needs=(latest, *sorted(before)))
        parts = []
        for c in children.get(s, ()):
            # A single block is mirrored as a whole and so gathered as a whole.
            mine = [
                tasks.add(GATHER, c, k, needs=(free,))
                for k in range(-(-int(below[c]) // int(update_width(below[c]))))
            ]
            parts += mine
            if c < top:
                t = int(task_of[c])
                gathered[t] += [*mine, free]
                pending[t] -= 1
                if pending[t] == 0:
                    subtree[t] = tasks.add(SUBTREE, t, needs=tuple(sorted(set(gathered[t]))))
        latest = tasks.add(JOIN, s, needs=(free, *parts))
    return tasks


@function
def _collect(F, s, Z, mirror, out):
    """Hand out what the panel of s holds of A's nonzeros."""
    for e in range(F.begin[s], F.begin[s + 1]):
        z, p = Z[F.panel[s] + F.target[e]], F.source[e]
        out[mirror[p]] = z
        out[p] = z.conjugate()


@function
def _subtree(F, t, L, Z, Y, arena, kept, lane_size, lane, mirror, out, machine, state):
    for s in range(F.bounds[t + 1] - 1, F.bounds[t] - 1, -1):
        if load(state, ABORT) != 0:
            return
        inverse_front(F, s, L, Z, Y, arena, kept, lane_size, lane, machine)
        _collect(F, s, Z, mirror, out)
        # All children at once, before a descendant takes the place of Z22.
        for p in range(F.child_begin[s], F.child_begin[s + 1]):
            c = F.child[p]
            r = F.start[c + 1] - F.start[c]
            for j in range(-(-r // update_width(r))):
                gather(F, c, j, Z, arena, kept, lane_size, lane)


@entry
def selected_inverse(
    table,
    graph,
    L: Numbers,
    Z: Numbers,
    Y: Numbers,
    room: int,
    shared: Numbers,
    arena: Numbers,
    kept: int,
    lane_size: int,
    mirror,
    out: Numbers,
    lane: int,
    machine,
    state,
):
    """Take part as thread `lane`.

    Z like L, overwritten; Y (for each lane, room for the numbers below the diagonal block of a front in
    a subtree), shared (rows of the tallest front times its block), mirror and out (nnz,) on A's
    nonzeros.
    """
    F, G, own = unpack(table), tasks_at(graph), move(Y, lane * room)
    while True:
        task = draw(state, G, machine)
        if task < 0:
            return
        kind, s = G.what[4 * task], G.what[4 * task + 1]
        j, i = G.what[4 * task + 2], G.what[4 * task + 3]
        if kind == SUBTREE:
            _subtree(F, s, L, Z, own, arena, kept, lane_size, lane, mirror, out, machine, state)
        elif kind == GATHER:
            gather(F, s, j, Z, arena, kept, lane_size, lane)
        elif kind == BELOW:
            below_front(F, s, j, i, L, Z, shared, arena, kept, lane_size, lane, machine)
        elif kind != JOIN:
            w = F.column[s + 1] - F.column[s]
            m, b = w + F.start[s + 1] - F.start[s], F.block[s]
            width = min(b, w - j * b)
            ldl = m - j * b
            rest = ldl - width
            D = move(L, F.panel[s] + block_start(j, b, m))
            if kind == OVER:
                rows = min(ROWS, rest - i)
                for c in range(width):
                    y, a = move(shared, c * rest + i), move(D, c * ldl + width + i)
                    for p in range(rows):
                        y[p] = a[p]
                call_kernel(machine[DIVIDE], (D, ldl, width, move(shared, i), rest, rows, machine))
            else:
                X = move(Z, F.panel[s] + block_start(j, b, m))
                block = D, ldl, width, shared, rest, rest, move(X, width), X, ldl, machine
                call_kernel(machine[INVERSE_BLOCK], block)
                if j == 0:
                    _collect(F, s, Z, mirror, out)
        finish(state, G, task)
