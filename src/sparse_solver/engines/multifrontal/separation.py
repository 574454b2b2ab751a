"""One separator of a graph, and the graphs that it leaves.

It is guessed on the coarsest of coarser and coarser graphs and carried over to finer ones [Karypis and
Kumar 1998]; the best layer of nodes at one distance from a far one competes with it.

References
----------
G. Karypis, V. Kumar, A fast and high quality multilevel scheme for partitioning irregular graphs, SIAM
J. Sci. Comput. 20 (1998).
"""

from __future__ import annotations

from ..compiler import entry, function
from .coarsening import MOST_LEVELS, Levels, coarsen, graph_at, level
from .memory import move
from .separators import SCRATCH, by_layers, cost, grow, improve, weigh

__all__ = ["MORE", "WORK", "count_sides", "cut_out", "separate"]

_COARSEST = 60  # nodes of the graph on which separators are guessed
_GUESSES = 4
WORK, MORE = SCRATCH + 1, 4 + 2 * MOST_LEVELS  # numbers that `separate` works with, per node and else


@function
def _remember(g, best):
    for v in range(g.n):
        best[v] = g.side[v]


@function
def _recall(g, best):
    for v in range(g.n):
        g.side[v] = best[v]


@function
def _guess(g, sums, best, work, state):
    """The best of several separators of a small graph."""
    least = 0.0
    for k in range(_GUESSES):
        grow(g, work, state)
        weigh(g, sums)
        improve(g, sums, work)
        if k == 0 or cost(sums) < least:
            least = cost(sums)
            _remember(g, best)
    _recall(g, best)
    weigh(g, sums)


@function
def _refine(graphs, k, sums, work):
    """Carry the separator of graph k over to the finer ones."""
    while k > 0:
        coarse = level(graphs, k)
        k -= 1
        g = level(graphs, k)
        for v in range(g.n):
            g.side[v] = coarse.side[g.onto[v]]
        improve(g, sums, work)


@entry
def separate(n: int, seed: int, first, room, size: int, work):
    """Say of each node of a graph on which side of a good separator it is."""
    sums, state, where = work, move(work, 3), move(work, 4)
    best = move(where, 2 * MOST_LEVELS)
    work = move(best, n)
    state[0] = seed
    where[0] = n
    graphs = Levels(first, room, size, where)  # type: ignore[arg-type]
    g, total = graph_at(first, n), 0
    for v in range(n):
        total += g.weights[v]
    bottom = coarsen(graphs, _COARSEST, max(1, 3 * total // (2 * _COARSEST)), work, state)
    _guess(level(graphs, bottom), sums, best, work, state)
    _refine(graphs, bottom, sums, work)
    least = cost(sums)
    _remember(g, best)
    if by_layers(g, sums, work, state):
        improve(g, sums, work)
        if cost(sums) <= least:
            return
    _recall(g, best)


@entry
def count_sides(n: int, graph, found):
    """Nodes on each side, then edges inside each."""
    g = graph_at(graph, n)
    for k in range(5):
        found[k] = 0
    for v in range(n):
        own = g.side[v]
        found[own] += 1
        if own < 2:
            for t in range(g.starts[v], g.starts[v + 1]):
                if g.side[g.links[2 * t]] == own:
                    found[3 + own] += 1


@entry
def cut_out(n: int, graph, names, which: int, count: int, part, part_names):
    """The graph inside one side; the nodes' names in the whole graph come along."""
    g, p = graph_at(graph, n), graph_at(part, count)
    k = at = 0
    for v in range(n):
        if g.side[v] == which:
            g.onto[v] = k
            part_names[k] = names[v]
            p.weights[k] = g.weights[v]
            k += 1
    for v in range(n):
        if g.side[v] != which:
            continue
        p.starts[g.onto[v]] = at
        for t in range(g.starts[v], g.starts[v + 1]):
            u = g.links[2 * t]
            if g.side[u] == which:
                p.links[2 * at], p.links[2 * at + 1] = g.onto[u], g.links[2 * t + 1]
                at += 1
    p.starts[count] = at
