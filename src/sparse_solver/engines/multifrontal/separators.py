"""Small sets of nodes that separate a graph into two halves: first guesses, and better ones from them.

References
----------
C. M. Fiduccia, R. M. Mattheyses, A linear-time heuristic for improving network partitions, 19th Design
Automation Conference (1982). A. George, J. W. H. Liu, An automatic nested dissection algorithm for
irregular finite element problems, SIAM J. Numer. Anal. 15 (1978).
"""

from __future__ import annotations

from typing import NamedTuple

from ..compiler import Value, function
from .coarsening import random
from .memory import move

__all__ = ["SCRATCH", "by_layers", "cost", "grow", "improve", "weigh"]

SCRATCH = 7  # numbers for each node that the functions here work with
_MOST = 65  # percent of the graph's weight on one side
_SKEW = 1.0  # what it costs to be uneven
_PASSES = 20
_PATIENCE = 1000  # moves without a better separator


class _Heap(NamedTuple):
    """Nodes by their gains, the largest first."""

    size: Value  # a pointer to it
    nodes: Value
    place: Value  # of each node that is in
    gain: Value


@function
def _put(h, k, v):
    h.nodes[k] = v
    h.place[v] = k


@function
def _rise(h, k):
    v = h.nodes[k]
    while k > 0:
        parent = (k - 1) // 2
        u = h.nodes[parent]
        if h.gain[u] >= h.gain[v]:
            break
        _put(h, k, u)
        k = parent
    _put(h, k, v)


@function
def _push(h, v):
    k = h.size[0]
    h.size[0] = k + 1
    h.nodes[k] = v
    _rise(h, k)


@function
def _pop(h):
    """Take out the first."""
    first, size = h.nodes[0], h.size[0] - 1
    h.size[0] = size
    h.place[first] = -1
    if size > 0:
        v, k = h.nodes[size], 0
        while 2 * k + 1 < size:
            child = 2 * k + 1
            if child + 1 < size and h.gain[h.nodes[child + 1]] > h.gain[h.nodes[child]]:
                child += 1
            u = h.nodes[child]
            if h.gain[v] >= h.gain[u]:
                break
            _put(h, k, u)
            k = child
        _put(h, k, v)
    return first


@function
def weigh(g, sums):
    """The weights of both sides and of the separator."""
    for k in range(3):
        sums[k] = 0
    for v in range(g.n):
        sums[g.side[v]] += g.weights[v]


@function
def cost(sums):
    """The separator's weight, more where it does not halve the graph."""
    gap = float(sums[0] - sums[1]) / float(sums[0] + sums[1] + sums[2])
    return float(sums[2]) * (1.0 + _SKEW * gap * gap)


@function
def _gain(g, v, other):
    """What the separator loses in weight when v leaves it and neighbours on the other side come in."""
    gain = g.weights[v]
    for t in range(g.starts[v], g.starts[v + 1]):
        u = g.links[2 * t]
        if g.side[u] == other:
            gain -= g.weights[u]
    return gain


@function
def _move(g, h, v, to, sums, pulled, count):
    """Move v from the separator to a side, and its neighbours on the other into the separator."""
    other = 1 - to
    g.side[v] = to
    sums[2] -= g.weights[v]
    sums[to] += g.weights[v]
    for t in range(g.starts[v], g.starts[v + 1]):
        j = g.links[2 * t]
        if g.side[j] != other:
            continue
        w = gain = g.weights[j]
        g.side[j] = 2
        sums[other] -= w
        sums[2] += w
        pulled[count] = j
        count += 1
        for s in range(g.starts[j], g.starts[j + 1]):
            u = g.links[2 * s]
            if g.side[u] == other:
                gain -= g.weights[u]
            elif g.side[u] == 2:
                h.gain[u] += w
                if h.place[u] >= 0:
                    _rise(h, h.place[u])
        h.gain[j] = gain
        _push(h, j)
    return count


@function
def improve(g, sums, work):
    """Sweep the separator to one side and to the other, and keep the best on the way.

    In a sweep nodes go from the separator to one side only, the one that costs least first, also when
    all cost something: so it gets from one good place to the next. sums are kept right.
    """
    n = g.n
    moves, ends, pulled = move(work, 3 * n), move(work, 4 * n), move(work, 5 * n)
    h = _Heap(move(work, 6 * n), work, move(work, n), move(work, 2 * n))
    most = (sums[0] + sums[1] + sums[2]) * _MOST // 100
    to, idle = (0 if sums[0] <= sums[1] else 1), 0
    for _ in range(_PASSES):
        h.size[0] = 0
        for v in range(n):
            if g.side[v] == 2:
                h.gain[v] = _gain(g, v, 1 - to)
                _push(h, v)
        best, count, kept, pulls = cost(sums), 0, 0, 0
        while h.size[0] > 0 and count - kept < _PATIENCE:
            v = _pop(h)
            if sums[to] + g.weights[v] > most:
                continue
            pulls = _move(g, h, v, to, sums, pulled, pulls)
            moves[count], ends[count] = v, pulls
            count += 1
            if cost(sums) < best:
                best, kept = cost(sums), count
        while count > kept:  # take back what came after the best
            count -= 1
            v = moves[count]
            for t in range(ends[count - 1] if count > 0 else 0, ends[count]):
                g.side[pulled[t]] = 1 - to
                sums[1 - to] += g.weights[pulled[t]]
                sums[2] -= g.weights[pulled[t]]
            g.side[v] = 2
            sums[to] -= g.weights[v]
            sums[2] += g.weights[v]
        idle = idle + 1 if kept == 0 else 0
        if idle == 2:
            break
        to = 1 - to


@function
def grow(g, queue, state):
    """Half of the graph, breadth first from any node, and the nodes around it."""
    total = reached = head = tail = 0
    for v in range(g.n):
        g.side[v] = 1
        total += g.weights[v]
    root = random(state, g.n)
    while 2 * reached < total:
        if head == tail:  # the next component
            while g.side[root] != 1:
                root = root + 1 if root + 1 < g.n else 0
            g.side[root] = 2
            queue[tail] = root
            tail += 1
        v = queue[head]
        head += 1
        g.side[v] = 0
        reached += g.weights[v]
        for t in range(g.starts[v], g.starts[v + 1]):
            u = g.links[2 * t]
            if g.side[u] == 1:
                g.side[u] = 2
                queue[tail] = u
                tail += 1


@function
def _layers(g, root, queue, ends):
    """Nodes by their distance from root; the number of layers, layer k being those before ends[k]."""
    for v in range(g.n):
        g.side[v] = 1
    queue[0] = root
    g.side[root] = 0
    head, tail, count = 0, 1, 0
    while head < tail:
        stop = tail
        while head < stop:
            v = queue[head]
            head += 1
            for t in range(g.starts[v], g.starts[v + 1]):
                u = g.links[2 * t]
                if g.side[u] == 1:
                    g.side[u] = 0
                    queue[tail] = u
                    tail += 1
        ends[count] = stop
        count += 1
    return count


@function
def by_layers(g, sums, work, state):
    """The cheapest layer of nodes at one distance from a far node; False if there is none.

    On grids whose stencil is a cross these are diagonal, and smaller than any that is parallel to an
    axis.
    """
    queue, ends = work, move(work, g.n)
    layers = 0
    root = random(state, g.n)
    while True:
        count = _layers(g, root, queue, ends)
        if ends[count - 1] < g.n or count < 3:
            return False
        if count <= layers:
            break
        layers = count
        root = queue[g.n - 1]
    weigh(g, sums)
    total = sums[0] + sums[1] + sums[2]
    before = first = 0
    chosen, least = -1, 0.0
    for k in range(count):
        layer = 0
        for t in range(first, ends[k]):
            layer += g.weights[queue[t]]
        sums[0], sums[1], sums[2] = before, total - before - layer, layer
        even = max(sums[0], sums[1]) <= total * _MOST // 100
        if even and (chosen < 0 or cost(sums) < least):
            chosen, least = k, cost(sums)
        before += layer
        first = ends[k]
    if chosen < 0:
        return False
    first = 0
    for k in range(count):
        for t in range(first, ends[k]):
            g.side[queue[t]] = 0 if k < chosen else (2 if k == chosen else 1)
        first = ends[k]
    weigh(g, sums)
    return True
