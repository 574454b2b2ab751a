"""Nodes that have the same neighbours are one: three unknowns at every node of a mesh, for example.

References
----------
C. Ashcraft, Compressed graphs and the minimum degree algorithm, SIAM J. Sci. Comput. 16 (1995).
"""

from __future__ import annotations

import numpy as np

from ..compiler import entry, function
from .coarsening import add_link, graph_at, room_for
from .elimination import ints

__all__ = ["compressed"]


def compressed(starts: np.ndarray, neighbours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of a `Graph` whose nodes stand for those that look alike, and which for each."""
    n = len(starts) - 1
    room = 1 << n.bit_length()
    onto, work, newest = ints(n), ints(2, n), ints(room)
    count = _alike(n, room - 1, starts, neighbours, onto, newest, *work)
    graph = ints(room_for(count, len(neighbours)))
    edges = _merge(n, count, starts, neighbours, onto, graph, work[0])
    return graph[: room_for(count, edges)], onto


@function
def _mixed(i):
    """Digits that look random: on a grid the sums of neighbours themselves often coincide."""
    x = (i + 1) * 0x9E3779B97F4A7C1
    return (x >> 23) * 0x2545F4914F6CDD1


@entry
def _alike(n: int, mask: int, starts, neighbours, onto, newest, before, seen):
    """Number the nodes, neighbours with the same other neighbours alike; how many numbers there are."""
    for k in range(mask + 1):
        newest[k] = -1
    for i in range(n):
        seen[i] = -1
    count = 0
    for i in range(n):
        first, last = starts[i], starts[i + 1]
        key = _mixed(i)
        seen[i] = i
        for t in range(first, last):
            key += _mixed(neighbours[t])
            seen[neighbours[t]] = i
        key = (key >> 20) & mask
        j = newest[key]
        while j >= 0:
            same = seen[j] == i and starts[j + 1] - starts[j] == last - first
            t = starts[j]
            while same and t < starts[j + 1]:
                same = seen[neighbours[t]] == i
                t += 1
            if same:
                break
            j = before[j]
        if j >= 0:
            onto[i] = onto[j]
        else:
            onto[i] = count
            count += 1
            before[i] = newest[key]
            newest[key] = i
    return count


@entry
def _merge(n: int, count: int, starts, neighbours, onto, graph, place):
    """Fill in the smaller graph; the number of its edges."""
    g = graph_at(graph, count)
    for c in range(count):
        g.weights[c] = 0
        place[c] = -1
    at = 0
    for i in range(n):
        c = onto[i]
        g.weights[c] += 1
        if g.weights[c] > 1:
            continue  # its list has been read: they are numbered in the order of their first
        first = at
        g.starts[c] = at
        for t in range(starts[i], starts[i + 1]):
            d = onto[neighbours[t]]
            if d != c:
                at = add_link(g, first, at, d, 1, place)
    g.starts[count] = at
    return at
