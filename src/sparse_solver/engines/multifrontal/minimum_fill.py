"""A bottom-up ordering: eliminate next what would fill in least, as far as can be told cheaply.

The graph left after some eliminations is kept as a quotient graph: an eliminated unknown becomes an
*element*, which stands for the clique of its neighbours, so that the graph never outgrows A. Unknowns
with the same neighbours are eliminated together (they are one *supervariable*), elements that a newer
one covers are dropped, and the number of neighbours is bounded from above instead of counted. All of
that is the approximate minimum degree algorithm; the choice is by fill instead of degree, which costs
the same and does much better on meshes.

References
----------
P. R. Amestoy, T. A. Davis, I. S. Duff, An approximate minimum degree ordering algorithm, SIAM J. Matrix
Anal. Appl. 17 (1996). E. Rothberg, S. C. Eisenstat, Node selection strategies for bottom-up sparse
matrix ordering, SIAM J. Matrix Anal. Appl. 19 (1998).
"""

from __future__ import annotations

import numpy as np

from ..compiler import entry, function
from .memory import move

__all__ = ["minimum_fill"]

_BITS = 5  # of a score's mantissa that choose its bucket: scores within 3 % of each other are equal
_LATE = 64 << _BITS  # the bucket of those that are not to be eliminated here


def minimum_fill(
    starts: np.ndarray, neighbours: np.ndarray, late: np.ndarray | None = None
) -> tuple[np.ndarray, float | None]:
    """Order the unknowns of a symmetric graph in CSR without its diagonal.

    Those where `late` is not 0 are to be eliminated afterwards: they count as neighbours, but are not
    in the order.

    Returns
    -------
    order : array
        The k-th unknown to eliminate.
    flops : float or None
        Multiplications and additions of the factorisation, counted on the way: never too few, and a
        few too many where unknowns eliminated together were counted in another order. None where some
        are late, or so full that they were put last unseen.
    """
    n = len(starts) - 1
    if late is None:
        late = np.zeros(n, np.int64)
    graph = np.empty(len(neighbours) + n, np.int64)  # room for the newest element
    graph[: len(neighbours)] = neighbours
    begin, size = starts[:-1].astype(np.int64), np.diff(starts).astype(np.int64)
    pivot = np.empty(n, np.int64)
    crowd = max(16, int(10 * n**0.5))  # unknowns with more neighbours go last
    work, head = np.empty(10 * n, np.int64), np.full(_LATE + 1, -1)
    unseen = bool((size > crowd).any())
    flops = _eliminate(n, len(graph), crowd, graph, begin, size, pivot, work, head, late)
    early = np.flatnonzero(late == 0)
    known = len(early) == n and not unseen
    return early[np.argsort(pivot[early], kind="stable")], float(flops) if known else None


@function
def _bucket(score):
    """Buckets grow with the score: as fine as a number of _BITS binary digits."""
    if score < 1 << _BITS:
        return max(score, 0)
    shift = 0
    while score >> shift >= 2 << _BITS:
        shift += 1
    return (shift << _BITS) + (score >> shift)


@function
def _take_out(i, bucket, head, following, previous):
    before, after = previous[i], following[i]
    if before >= 0:
        following[before] = after
    else:
        head[bucket[i]] = after
    if after >= 0:
        previous[after] = before


@function
def _put_in(i, place, bucket, head, following, previous):
    bucket[i] = place
    following[i] = head[place]
    previous[i] = -1
    if head[place] >= 0:
        previous[head[place]] = i
    head[place] = i


@function
def _claim(graph, first, last, stop, weight, bucket, head, following, previous):
    """Add those of graph[first:last] that are not in it yet to the newest element, whose list ends at
    `stop`; its new end.
    """
    for t in range(first, last):
        i = graph[t]
        if weight[i] > 0:
            weight[i] = -weight[i]
            _take_out(i, bucket, head, following, previous)
            graph[stop] = i
            stop += 1
    return stop


@function
def _pack(n, graph, begin, size, end):
    """Move the lists that are still in use to the front; the end of the last one."""
    for i in range(n):
        if size[i] > 0:  # leave word at the head of the list whose it is
            first = begin[i]
            begin[i] = graph[first]
            graph[first] = -i - 1
    at = put = 0
    while at < end:
        if graph[at] >= 0:
            at += 1
            continue
        i = -graph[at] - 1
        graph[put] = begin[i]
        begin[i] = put
        for t in range(1, size[i]):
            graph[put + t] = graph[at + t]
        at += size[i]
        put += size[i]
    return put


@function
def _join_twins(a, graph, begin, size, elements, weight, into, seen, following, now, late):
    """Join those in the chain from a on that have equal lists; the next unused mark."""
    while a >= 0 and following[a] >= 0:
        for u in range(begin[a] + 1, begin[a] + size[a]):
            seen[graph[u]] = now
        before, b = a, following[a]
        while b >= 0:
            same = size[a] == size[b] and elements[a] == elements[b]
            same = same and (late[a] == 0) == (late[b] == 0)
            u = begin[b] + 1
            while same and u < begin[b] + size[b]:
                same = seen[graph[u]] == now
                u += 1
            after = following[b]
            if same:
                into[b] = a
                weight[a] += weight[b]
                weight[b] = 0
                size[b] = 0
                following[before] = after
            else:
                before = b
            b = after
        now += 1
        a = following[a]
    return now


@entry
def _eliminate(n: int, room: int, crowd: int, graph, begin, size, pivot, work, head, late):
    """pivot[i]: the step at which unknown i is eliminated; supervariables share one. Returns the flops.

    The list of i, graph[begin[i]:begin[i] + size[i]], starts with its `elements[i]` elements and goes
    on with the neighbours that no element covers; that of an element holds its unknowns. Unknowns with
    more than `crowd` neighbours come last. Those that are late stay, and have no step.
    """
    elements, weight, degree, seen = work, move(work, n), move(work, 2 * n), move(work, 3 * n)
    into, bucket, following = move(work, 4 * n), move(work, 5 * n), move(work, 6 * n)
    previous, chain, key = move(work, 7 * n), move(work, 8 * n), move(work, 9 * n)
    for i in range(n):
        elements[i] = 0
        weight[i] = 1  # unknowns in a supervariable; 0 where it was joined to another
        seen[i] = 1  # 0 for elements that are no more
        into[i] = -1
        pivot[i] = -1
        chain[i] = -1
        degree[i] = size[i]
    flops, end = 0, room - n
    left, stay, step, lowest, now = n, 0, 0, 0, 2
    for i in range(n):
        if late[i] != 0:
            stay += 1
            _put_in(i, _LATE, bucket, head, following, previous)
        elif size[i] <= crowd:
            _put_in(i, _bucket(size[i] * (size[i] + 7) // 2), bucket, head, following, previous)
        else:  # its list would be walked through at nearly every step
            weight[i] = 0
            size[i] = 0
            pivot[i] = n
            left -= 1
    while left > stay:
        while head[lowest] < 0:
            lowest += 1
        me = head[lowest]
        _take_out(me, bucket, head, following, previous)
        # The new element: the neighbours of me, those its elements cover included.
        own = weight[me]
        left -= own
        weight[me] = -own  # negative: in the element, or the element itself
        if elements[me] == 0:
            start = begin[me]
            stop = _claim(
                graph, start, start + size[me], start, weight, bucket, head, following, previous
            )
        else:
            if end + left > room:
                end = _pack(n, graph, begin, size, end)
            start = stop = end
            for t in range(elements[me] + 1):
                e = graph[begin[me] + t] if t < elements[me] else me
                first = begin[e] + (elements[me] if e == me else 0)
                last = begin[e] + size[e]
                stop = _claim(graph, first, last, stop, weight, bucket, head, following, previous)
                if e != me:
                    size[e] = 0
                    seen[e] = 0
            end = stop
        begin[me], size[me] = start, stop - start
        pivot[me] = step
        step += 1
        reach = 0
        for t in range(start, stop):
            reach -= weight[graph[t]]
        # How much of every other element is outside the new one: seen[e] - now.
        for t in range(start, stop):
            i = graph[t]
            for u in range(begin[i], begin[i] + elements[i]):
                e = graph[u]
                if seen[e] >= now:
                    seen[e] += weight[i]
                elif seen[e] != 0:
                    seen[e] = degree[e] + now + weight[i]
        # Tidy the list of each neighbour, and sum up what it sees outside the new element.
        for t in range(start, stop):
            i = graph[t]
            w = -weight[i]
            first = put = begin[i]
            outside = covered = mark = 0
            last = first + size[i]
            for u in range(first, first + elements[i]):
                e = graph[u]
                if seen[e] == 0:
                    continue
                out = seen[e] - now
                if out > 0:
                    outside += out
                    covered += out * (2 * (degree[e] - w) - out - 1)
                    graph[put] = e
                    put += 1
                    mark += e
                else:  # the new element covers it
                    seen[e] = 0
                    size[e] = 0
            kept = put
            for u in range(first + elements[i], last):
                j = graph[u]
                if weight[j] > 0:
                    outside += weight[j]
                    graph[put] = j
                    put += 1
                    mark += j
            if outside == 0 and late[i] == 0:  # nothing but the new element: eliminated with it
                into[i] = me
                own += w
                reach -= w
                left -= w
                weight[i] = 0
                size[i] = 0
                continue
            graph[put] = graph[kept]
            graph[kept] = graph[first]
            graph[first] = me
            elements[i] = kept + 1 - first
            size[i] = put + 1 - first
            degree[i] = min(degree[i], outside)
            bucket[i] = covered
            key[i] = mark % n
            following[i] = chain[key[i]]
            chain[key[i]] = i
        now += n  # beyond everything in seen
        # Join neighbours that cannot be told apart.
        for t in range(start, stop):
            i = graph[t]
            if weight[i] == 0 or chain[key[i]] < 0:
                continue
            a = chain[key[i]]
            chain[key[i]] = -1
            now = _join_twins(a, graph, begin, size, elements, weight, into, seen, following, now, late)
        # New scores, and the unknowns joined to others leave the element's list.
        put = start
        for t in range(start, stop):
            i = graph[t]
            w = -weight[i]
            if w == 0:
                continue
            weight[i] = w
            graph[put] = i
            put += 1
            rest = reach - w
            d = min(degree[i] + rest, left - w)
            degree[i] = d
            fill = d * (d - 1) - rest * (rest - 1) - bucket[i]
            place = _bucket(fill // (w + 1) + 4 * d) if late[i] == 0 else _LATE
            _put_in(i, place, bucket, head, following, previous)
            lowest = min(lowest, place)
        size[me] = put - start
        weight[me] = own
        degree[me] = reach
        for t in range(reach + 1, reach + own + 1):
            flops += t * t
    for i in range(n):
        j = i
        while pivot[j] < 0 and late[j] == 0:
            j = into[j]
        pivot[i] = pivot[j]
    return flops
