"""Who works on what: subtrees as tasks of similar size, and tiles of the few large fronts above them.

The partition depends on the structure alone, not on the number of threads, so that the same numbers
come out whoever does the work.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import numpy as np

from ..compiler import Floats, entry
from .blocks import block_width, stored, update_width
from .run import Graph

__all__ = ["CHUNK", "Arena", "Tasks", "divide", "factor_tasks", "stacks"]

_PARTS = 12  # subtrees to aim at: with more, more work is left to fronts that wait for each other
_LEAST_WORK = 4e6  # flops below which nothing is divided
_MOST_TOPS = 200
# Update matrices may take as much, in numbers, without waiting for each other: this share of the
# factor's size, and up to all of it where that is little. What waits is what threads could share best.
_SHARE, _LITTLE = 0.25, 1 << 24

CHUNK = 256  # rows of a tile below the diagonal
SUBTREE, ASSEMBLE, DIAGONAL, BELOW, ACROSS, UPDATING, JOIN = range(7)


@entry
def subtree_work(fronts: int, width, below, up, own: Floats, whole: Floats):
    """Flops of each front's partial factorisation, and of each subtree's."""
    for s in range(fronts):
        w, m = float(width[s]), float(width[s] + below[s])
        own[s] = w * m * m - w * w * m + w * w * w / 3 + 100.0
        whole[s] = 0.0
    for s in range(fronts):
        whole[s] += own[s]
        if up[s] >= 0:
            whole[up[s]] += whole[s]


def divide(
    width: np.ndarray, below: np.ndarray, up: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(sequence, bounds, work): the supernodes, task by task and then those above all tasks; task t
    has supernodes bounds[t]:bounds[t + 1] of the new sequence. And the flops of the subtree below each.
    """
    count = len(up)
    own, whole = np.empty(count), np.empty(count)
    subtree_work(count, width, below, up, own, whole)
    total = float(own.sum())
    everything = np.arange(count)
    if total < _LEAST_WORK:
        return everything, np.array([0, count]), whole
    children: dict[int, list[int]] = {}
    limit = max(total / _PARTS, _LEAST_WORK / 8)
    heavy = np.flatnonzero(whole > limit)
    for s in heavy[up[heavy] >= 0].tolist():
        children.setdefault(int(up[s]), []).append(s)
    heap = [(-whole[s], s) for s in heavy[up[heavy] < 0].tolist()]
    heapq.heapify(heap)
    top: list[int] = []
    while heap and len(top) < _MOST_TOPS:
        _, s = heapq.heappop(heap)
        top.append(s)
        for c in children.get(s, ()):
            heapq.heappush(heap, (-whole[c], c))
    is_top = np.zeros(count + 1, bool)
    is_top[top] = True
    # Roots of what remains, ascending; a subtree is contiguous and ends with its root. Neighbours
    # share a task while they are small and no front above them comes in between.
    heads = np.flatnonzero(~is_top[:count] & ((up < 0) | is_top[up]))
    if not len(heads):  # a dense matrix: no subtree is below the large fronts
        return everything, np.zeros(1, np.int64), whole
    tops_before = np.cumsum(is_top)[heads]
    ends: list[int] = []
    task, filled, between = 0, 0.0, 0
    for s, tops in zip(heads.tolist(), tops_before.tolist(), strict=True):
        if ends and (tops > between or filled + whole[s] > limit):
            task, filled = task + 1, 0.0
        filled, between = filled + whole[s], tops
        ends.append(task)
    owner = np.minimum(np.searchsorted(heads, everything), len(heads) - 1)
    task_of = np.where(is_top[:count], task + 1, np.array(ends)[owner])
    sequence = np.argsort(task_of, kind="stable")
    return sequence, np.searchsorted(task_of[sequence], np.arange(task + 2)), whole


@entry
def stacks(tasks: int, fronts: int, bounds, up, below, offset, depth, children):
    """Where each front's update matrix lies while a task runs: on one of two stacks, by the parity of
    its depth, so that a parent's is written while its children's are still there, and nothing moves.

    offset[s] >= 0 counts from the bottom, ~offset[s] from the top. Roots of the subtrees and fronts
    above them get no place here. Returns the size of the largest task's two stacks.
    """
    top = bounds[tasks]
    need = 0
    for s in range(fronts - 1, -1, -1):
        depth[s] = 0 if up[s] < 0 else 1 - depth[up[s]]
        children[s] = 0
    for t in range(tasks):
        bottom, high = 0, 0
        for s in range(bounds[t], bounds[t + 1]):
            if up[s] >= 0 and up[s] < top:
                size = stored(below[s], update_width(below[s]), below[s])
                children[up[s]] += size
                if depth[s] == 0:
                    offset[s] = bottom
                    bottom += size
                else:
                    high += size
                    offset[s] = ~high
            need = max(need, bottom + high)
            if depth[s] == 0:  # its children, on top of the other stack, are used up
                high -= children[s]
            else:
                bottom -= children[s]
    return need


@dataclass
class Tasks:
    """A directed graph of tasks, each a kind and three numbers."""

    what: list[tuple[int, int, int, int]] = field(default_factory=list)
    before: list[int] = field(default_factory=list)
    after: list[list[int]] = field(default_factory=list)

    def add(self, kind: int, s: int, j: int = 0, k: int = 0, needs: tuple[int, ...] = ()) -> int:
        """A new task, to run when those it `needs` are done."""
        t = len(self.what)
        self.what.append((kind, s, j, k))
        self.before.append(len(needs))
        self.after.append([])
        for other in needs:
            self.after[other].append(t)
        return t

    def arrays(self) -> Graph:
        """For compiled code."""
        begin = np.zeros(len(self.after) + 1, np.int64)
        np.cumsum([len(a) for a in self.after], out=begin[1:])
        flat = np.array([t for a in self.after for t in a], np.int64)
        return Graph(
            np.array(self.what, np.int64).reshape(-1), np.array(self.before, np.int64), begin, flat
        )


class Arena:
    """Places for update matrices that outlive a task. A place is used again after the tasks that
    gave it up, which therefore must come before those that take it.
    """

    def __init__(self, budget: float) -> None:
        self.size, self.budget = 0, budget
        self._free: list[tuple[int, int, frozenset[int]]] = []  # (place, size, given up by)

    def take(self, size: int) -> tuple[int, frozenset[int]]:
        if size == 0:
            return 0, frozenset()
        fits = [f for f in self._free if f[1] >= size]
        if not fits or self.size + size <= self.budget:
            place = self.size
            self.size += size
            return place, frozenset()
        best = min(fits, key=lambda f: f[1])
        self._free.remove(best)
        place, room, given = best
        if room > size:
            self._free.append((place + size, room - size, given))
        return place, given

    def give(self, place: int, size: int, task: int) -> None:
        given = {task}
        if size == 0:
            return
        for other in list(self._free):  # join with neighbours
            if other[0] + other[1] == place or place + size == other[0]:
                self._free.remove(other)
                place, size = min(place, other[0]), size + other[1]
                given |= other[2]
        self._free.append((place, size, frozenset(given)))


def factor_tasks(
    sequence: np.ndarray,
    bounds: np.ndarray,
    width: np.ndarray,
    below: np.ndarray,
    up: np.ndarray,
    offset: np.ndarray,
    factor_size: int,
) -> tuple[Tasks, int, list[tuple[int, int]]]:
    """(tasks, size, reused): the graph of the factorisation, the size of the arena it needs beside
    the stacks, and (s, u) for each unit u that takes a place which front s has given up: a front, or ~t
    for the subtrees of task t.

    Subtrees, then each front above them: assembled, factored and passed on by block columns.
    `offset` of subtrees' roots and of the fronts above is filled. The order is a postorder, in which
    few update matrices live at once.
    """
    tasks, first = Tasks(), int(bounds[-1])
    arena = Arena(max(_SHARE * factor_size, min(factor_size, _LITTLE)))
    reused: list[tuple[int, int]] = []
    children: dict[int, list[int]] = {}
    last: dict[int, list[int]] = {}  # by front above: the tasks after which it can be assembled

    def size_of(s: int) -> int:
        return stored(below[s], update_width(below[s]), below[s])

    def place(s: int) -> frozenset[int]:
        offset[s], waits = arena.take(size_of(s))
        children.setdefault(int(up[s]), []).append(s)
        return waits

    units = [(int(sequence[bounds[t + 1] - 1]), t, -1) for t in range(len(bounds) - 1)]
    units += [(int(sequence[s]), -1, s) for s in range(first, len(up))]
    for _, t, s in sorted(units):
        if t >= 0:
            members = np.arange(bounds[t], bounds[t + 1])
            roots = members[(up[members] < 0) | (up[members] >= first)].tolist()
            waits = frozenset().union(*(place(root) for root in roots if up[root] >= 0))
            task = tasks.add(SUBTREE, t, needs=tuple(sorted(waits)))
            reused += [(tasks.what[w][1], ~t) for w in waits]  # what gives up places is a front's JOIN
            for root in roots:
                last.setdefault(int(up[root]), []).append(task)
            continue
        w, r = int(width[s]), int(below[s])
        m, nb = w + r, block_width(w + r)
        blocks = range(-(-w // nb))
        ready = tasks.add(JOIN, s, needs=tuple(sorted(set(last.get(s, ())))))
        latest = [tasks.add(ASSEMBLE, s, j, needs=(ready,)) for j in blocks]
        for k in blocks:
            diagonal = tasks.add(DIAGONAL, s, k, needs=(latest[k],))
            rows = m - min((k + 1) * nb, w)
            parts = [tasks.add(BELOW, s, k, c, (diagonal,)) for c in range(0, rows, CHUNK)]
            solved = tasks.add(JOIN, s, needs=(*parts, diagonal))
            for j in range(k + 1, len(blocks)):
                latest[j] = tasks.add(ACROSS, s, k, j, (solved, latest[j]))
        if up[s] >= 0:
            waits = place(s)
            reused += [(tasks.what[w][1], s) for w in waits]
            free = tasks.add(JOIN, s, needs=(solved, *sorted(waits)))
            updates = [
                tasks.add(UPDATING, s, j, needs=(free,)) for j in range(-(-r // update_width(r)))
            ]
            solved = tasks.add(JOIN, s, needs=(*updates, free))
            last.setdefault(int(up[s]), []).append(solved)
        for c in children.get(s, ()):
            arena.give(int(offset[c]), size_of(c), solved)
    return tasks, arena.size, reused
