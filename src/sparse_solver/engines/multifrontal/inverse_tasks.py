"""The selected inverse as a graph of tasks: fronts above all subtrees, from the roots down; subtrees.

Fronts that do not lie on one way to a root are worked on side by side, so a way that has room for one
thread at a time leaves the others something to do. Each holds its Y (see `inverse`) in a place that
others take up later, as update matrices do while A is factored.
"""

from __future__ import annotations

import heapq

import numpy as np

from .blocks import update_width
from .schedule import Arena, Tasks

__all__ = [
    "BELOW", "COLLECT", "DIAGONAL", "GATHER", "INVERT", "OVER", "PIECE", "ROWS", "SQUARE",
    "SUBTREE", "inverse_tasks",
]  # fmt: skip

ROWS = 512  # of a task that divides by a diagonal block
PIECE = 64  # columns of a task on a diagonal block
_SHARE = 0.125  # of the factor's size: places for Y may take as much without waiting for each other
_Step = tuple[str, int]  # ("front", s), ("children", s) for what s hands to them, ("subtree", t)
SUBTREE, BELOW, INVERT, OVER, SQUARE, DIAGONAL, COLLECT, GATHER, JOIN = range(9)


def inverse_tasks(
    bounds: np.ndarray,
    width: np.ndarray,
    below: np.ndarray,
    up: np.ndarray,
    block: np.ndarray,
    work: np.ndarray,
    reused: list[tuple[int, int]],
    factor_size: int,
) -> tuple[Tasks, np.ndarray, int]:
    """(tasks, place, room): the graph, where the Y of each front above all subtrees lies, and the room
    for them all.

    `work` is that of the subtree below each front. `reused` holds (s, u): in the factorisation, u took
    a place in the arena that front s had given up, for a front u or a subtree of task ~u. Backwards,
    s can hand down to its children after u has no more use for that place.
    """
    top = int(bounds[-1])
    task_of = np.searchsorted(bounds, np.arange(top), side="right") - 1
    children: dict[int, list[int]] = {s: [] for s in range(top, len(up))}
    before: dict[_Step, set[_Step]] = {("subtree", t): set() for t in range(len(bounds) - 1)}
    size = dict.fromkeys(before, 0.0)
    for s in children:
        before["front", s], before["children", s] = set(), {("front", s)}
        size["children", s] = np.inf
    for s, u in reused:
        before["children", s].add(("children", u) if u >= 0 else ("subtree", ~u))
    for c in np.flatnonzero((up < 0) | (up >= top)).tolist():
        step, s = ("front", c) if c >= top else ("subtree", int(task_of[c])), int(up[c])
        size[step] = size.get(step, 0.0) + float(work[c])
        if s >= 0:
            children[s].append(c)
            before[step].add(("children", s))
    tasks, arena = Tasks(), Arena(_SHARE * factor_size)
    place = np.zeros(len(up) - top, np.int64)
    done: dict[_Step, int] = {}
    for step in _largest_first(before, size):
        kind, s = step
        needs = tuple(sorted(done[other] for other in before[step]))
        if kind == "subtree":
            done[step] = tasks.add(SUBTREE, s, needs=needs)
        elif kind == "front":
            w, r, b = int(width[s]), int(below[s]), int(block[s])
            room = (w + r) * min(w, b)
            place[s - top], given = arena.take(room)
            done[step] = _front(tasks, s, w, r, b, tuple(sorted({*needs, *given})))
            arena.give(int(place[s - top]), room, done[step])
        else:
            free = tasks.add(JOIN, s, needs=needs)
            # A single block is mirrored as a whole and so gathered as a whole.
            blocks = {c: range(-(-int(below[c]) // int(update_width(below[c])))) for c in children[s]}
            parts = [tasks.add(GATHER, c, k, needs=(free,)) for c in blocks for k in blocks[c]]
            done[step] = tasks.add(JOIN, s, needs=(free, *parts))
    return tasks, place, arena.size


def _front(tasks: Tasks, s: int, w: int, r: int, b: int, needs: tuple[int, ...]) -> int:
    """The tasks of a front, block column by block column from the last; the one that ends them."""
    m, outer = w + r, -(-r // int(update_width(r)))
    latest = tasks.add(JOIN, s, needs=needs)
    blocks = range(-(-w // b))
    inverted = [tasks.add(INVERT, s, j, needs=(latest,)) for j in blocks]
    for j in reversed(blocks):
        c1 = min((j + 1) * b, w)
        needs = latest, inverted[j]
        parts = [tasks.add(OVER, s, j, c, needs) for c in range(0, m - c1, ROWS)]
        latest = tasks.add(JOIN, s, needs=(*needs, *parts))
        parts = [tasks.add(SQUARE, s, j, needs=(latest,))]
        parts += [tasks.add(BELOW, s, j, i, (latest,)) for i in range(len(blocks) - 1 - j + outer)]
        latest = tasks.add(JOIN, s, needs=(latest, *parts))
        parts = [tasks.add(DIAGONAL, s, j, c, (latest,)) for c in range(0, c1 - j * b, PIECE)]
        latest = tasks.add(JOIN, s, needs=(latest, *parts))
    tasks.add(COLLECT, s, needs=(latest,))
    return latest


def _largest_first(before: dict[_Step, set[_Step]], size: dict[_Step, float]) -> list[_Step]:
    """All steps, each after those `before` it; of those that could come next, the largest."""
    after: dict[_Step, list[_Step]] = {step: [] for step in before}
    waits = {step: len(others) for step, others in before.items()}
    for step, others in before.items():
        for other in others:
            after[other].append(step)
    heap = [(-size[step], step) for step, count in waits.items() if count == 0]
    heapq.heapify(heap)
    order = []
    while heap:
        _, step = heapq.heappop(heap)
        order.append(step)
        for other in after[step]:
            waits[other] -= 1
            if waits[other] == 0:
                heapq.heappush(heap, (-size[other], other))
    return order
