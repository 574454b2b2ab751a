"""Nested dissection: a separator last, and so on in the parts that it leaves.

References
----------
A. George, Nested dissection of a regular finite element mesh, SIAM J. Numer. Anal. 10 (1973).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...matrix.threads import share
from .coarsening import room_for
from .elimination import ints
from .separation import MORE, WORK, count_sides, cut_out, separate
from .twins import compressed

__all__ = ["Dissection"]

_SMALL = 5000  # unknowns of parts that one thread takes to the end
_ROOM = 3  # coarser graphs take so many times what the finest takes
_LAST = 1 << 30  # the stage after the first separator's
_SEEDS = 1 << 30


class _Part(NamedTuple):
    graph: np.ndarray  # the numbers of a `Graph`
    names: np.ndarray  # of its nodes in the whole graph
    path: int  # its way down the tree, in binary digits after a leading 1
    unknowns: int  # that the nodes stand for


_NOTHING = np.empty(0, np.int64)


class Dissection:
    """A dissection of a symmetric graph in CSR without its diagonal, under way.

    The parts at any moment are disjoint and no edge joins them. What becomes of one depends on nothing
    but itself and its way down the tree, whatever the number of threads.
    """

    def __init__(self, starts: np.ndarray, neighbours: np.ndarray) -> None:
        graph, self._onto = compressed(starts, neighbours)
        n = int(self._onto.max(initial=-1)) + 1
        self._stage = np.zeros(n, np.int64)
        self._parts = [_Part(graph, np.arange(n), 1, len(starts) - 1)]
        self._whole: list[_Part] = []
        self._rooms: list[np.ndarray] = []
        self._graphs: list[np.ndarray] = []

    def begin(self) -> None:
        """Make four parts."""
        for _ in range(2):
            self._parts = [smaller for part in self._parts for smaller in self._divide(part)]

    def finish(self, leaf: int, threads: int) -> tuple[np.ndarray, np.ndarray]:
        """Divide the parts until none has more than `leaf` unknowns.

        Returns
        -------
        stage : (n,)
            When each unknown is to be eliminated: 0 inside the smallest parts, more in separators.
        group : (n,)
            0 to 3, four groups of parts of nearly equal size, for stage 0.
        """
        while self._parts:
            parts = sorted(self._parts, key=lambda part: -part.unknowns)
            self._parts = []
            share(lambda k: self._finish(parts[k], leaf), len(parts), threads)  # noqa: B023
        group, sizes = np.zeros(len(self._stage), np.int64), [0] * 4
        for part in sorted(self._whole, key=lambda part: (-part.unknowns, part.path)):
            least = sizes.index(min(sizes))
            sizes[least] += part.unknowns
            group[part.names] = least
        return self._stage[self._onto], group[self._onto]

    def _finish(self, part: _Part, leaf: int) -> None:
        """Divide a part; a small one to the end."""
        mine = [part]
        while mine:
            part = mine.pop()
            smaller = self._divide(part) if part.unknowns > leaf else [part]
            if max(len(other.names) for other in smaller) == len(part.names):  # nothing to separate
                self._whole.append(part._replace(graph=_NOTHING))
            else:
                (mine if part.unknowns <= _SMALL else self._parts).extend(smaller)

    def _divide(self, part: _Part) -> list[_Part]:
        """The two parts that a separator leaves."""
        graph, names, path, _ = part
        n = len(names)
        if n < 2:
            return [part]
        size = _ROOM * room_for(n, int(graph[4 * n]))
        room = _take(self._rooms, size + WORK * n + MORE)
        separate(n, path % _SEEDS, graph, room, size, room[size:])
        self._rooms.append(room)
        found = ints(5)
        count_sides(n, graph, found)
        self._stage[names[graph[2 * n : 3 * n] == 2]] = _LAST - path.bit_length()
        smaller = []
        for side in (0, 1):
            count = int(found[side])
            inside = _take(self._graphs, room_for(count, int(found[3 + side])))
            below = ints(count)
            cut_out(n, graph, names, side, count, inside, below)
            smaller.append(_Part(inside, below, 2 * path + side, int(inside[:count].sum())))
        self._graphs.append(graph)
        return smaller


def _take(left: list[np.ndarray], size: int) -> np.ndarray:
    """Room that another part left, if that is enough: the system takes its time over fresh pages."""
    try:
        room = left.pop()
    except IndexError:
        return ints(size)
    return room if len(room) >= size else ints(size)
