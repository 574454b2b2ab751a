"""Graphs made smaller: neighbours that are tied strongly become one node, and so again.

References
----------
G. Karypis, V. Kumar, A fast and high quality multilevel scheme for partitioning irregular graphs, SIAM
J. Sci. Comput. 20 (1998).
"""

from __future__ import annotations

from typing import NamedTuple

from ..compiler import Value, function
from .memory import move

__all__ = ["Graph", "Levels", "add_link", "coarsen", "graph_at", "level", "random", "room_for"]

MOST_LEVELS = 100


class Graph(NamedTuple):
    """A graph with weights; both directions of every edge, no loops.

    Attributes
    ----------
    n : int
    weights : (n,)
    onto : (n,)
        The node of the next coarser graph that stands for each.
    side : (n,)
        0, 1, or 2 in the separator.
    starts : (n + 1,)
    links : (2 m,)
        From node i: links[2 t] is a neighbour, links[2 t + 1] how strongly they are tied, for t from
        starts[i] to starts[i + 1].
    """

    n: Value
    weights: Value
    onto: Value
    side: Value
    starts: Value
    links: Value


class Levels(NamedTuple):
    """A graph and coarser ones.

    Attributes
    ----------
    first : the numbers of the finest graph
    room, size : those of the others, one after another, and how many there is room for
    where : nodes of each, and where it begins in the room; the finest is number 0
    """

    first: Value
    room: Value
    size: Value
    where: Value


@function
def room_for(n: int, m: int) -> int:
    """Numbers of a graph with n nodes and m directed edges."""
    return 4 * n + 1 + 2 * m


@function
def graph_at(numbers, n):
    """The graph that these numbers hold."""
    onto = move(numbers, n)
    side = move(onto, n)
    starts = move(side, n)
    return Graph(n, numbers, onto, side, starts, move(starts, n + 1))


@function
def level(graphs, k):
    """Graph number k."""
    n = graphs.where[2 * k]
    if k == 0:
        return graph_at(graphs.first, n)
    return graph_at(move(graphs.room, graphs.where[2 * k + 1]), n)


@function
def random(state, below):
    """A number from 0 to below - 1; the same sequence for the same state everywhere."""
    state[0] = (state[0] * 1103515245 + 12345) & 0x7FFFFFFF
    return ((state[0] >> 8) * below) >> 23


@function
def _match(g, heaviest, mate, state):
    """Pair each node with one of those neighbours it is tied to most; how many nodes that leaves.

    mate[i] is i for those left alone. Fills in g.onto.
    """
    for i in range(g.n):
        mate[i] = -1
    count = 0
    for i in range(g.n):
        if mate[i] >= 0:
            continue
        found, most = i, 0
        first, last = g.starts[i], g.starts[i + 1]
        t = first + random(state, last - first)
        for _ in range(last - first):
            j, tie = g.links[2 * t], g.links[2 * t + 1]
            if tie > most and mate[j] < 0 and g.weights[i] + g.weights[j] <= heaviest:
                found, most = j, tie
            t = t + 1 if t + 1 < last else first
        mate[i] = found
        mate[found] = i
        g.onto[i] = count
        g.onto[found] = count
        count += 1
    return count


@function
def add_link(g, first, at, to, tie, place):
    """Tie a node, whose links are those from `first` up to `at`, to node `to`; where they end then.

    place[j], if not before `first`, is where the link to node j stands.
    """
    if place[to] >= first:
        g.links[2 * place[to] + 1] += tie
        return at
    place[to] = at
    g.links[2 * at], g.links[2 * at + 1] = to, tie
    return at + 1


@function
def _contract(g, mate, coarse, place):
    """Fill in `coarse`, the graph of the pairs; the number of its edges."""
    for i in range(coarse.n):
        place[i] = -1
    at = 0
    for i in range(g.n):
        if mate[i] < i:
            continue
        c, first = g.onto[i], at
        coarse.starts[c] = at
        coarse.weights[c] = g.weights[i] + (g.weights[mate[i]] if mate[i] > i else 0)
        for twice in range(2 if mate[i] > i else 1):
            u = i if twice == 0 else mate[i]
            for t in range(g.starts[u], g.starts[u + 1]):
                j, tie = g.onto[g.links[2 * t]], g.links[2 * t + 1]
                if j != c:
                    at = add_link(coarse, first, at, j, tie, place)
    coarse.starts[coarse.n] = at
    return at


@function
def coarsen(graphs, goal, heaviest, work, state):
    """Add coarser graphs until one has no more than `goal` nodes; its number.

    No node comes to weigh more than `heaviest`.
    """
    k = 0
    while k + 1 < MOST_LEVELS:
        g = level(graphs, k)
        if g.n <= goal:
            break
        count = _match(g, heaviest, work, state)
        begin = 0 if k == 0 else graphs.where[2 * k + 1] + room_for(g.n, g.starts[g.n])
        if 10 * count > 9 * g.n or begin + room_for(count, g.starts[g.n]) > graphs.size:
            break
        k += 1
        graphs.where[2 * k], graphs.where[2 * k + 1] = count, begin
        _contract(g, work, level(graphs, k), move(work, g.n))
    return k
