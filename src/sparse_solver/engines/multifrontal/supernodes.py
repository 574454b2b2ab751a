"""From columns to fronts: supernodes, which rows they have, and where every number goes.

References
----------
C. Ashcraft and R. Grimes, The influence of relaxed supernode partitions on the multifrontal method,
ACM Trans. Math. Softw. 15 (1989). J. W. H. Liu, The multifrontal method for sparse matrix solution,
SIAM Review 34 (1992). T. A. Davis, Direct Methods for Sparse Linear Systems (2006), chapter 4.
"""

from __future__ import annotations

from ..compiler import Int32s, entry
from .blocks import block_start

__all__ = ["amalgamate", "entries", "front_rows", "outside", "relative_rows"]


@entry
def amalgamate(n: int, parent, count, node, into, width, below, up, first, following):
    """Join columns of equal structure, then children with parents where few zeros are stored.

    Parameters
    ----------
    parent, count : of the postordered columns
    node : int array (n), filled
        The supernode of each column, numbered from the leaves up.
    into, width, below, up, first, following : int arrays (n), filled or used
        Columns and rows below of each supernode, and its parent.

    Returns
    -------
    int
        The number of supernodes.
    """
    s = -1
    for j in range(n):
        if j == 0 or parent[j - 1] != j or count[j - 1] != count[j] + 1:
            s += 1
            width[s] = 0
        node[j] = s
        width[s] += 1
        below[s] = count[j] - 1
    total = s + 1
    for s in range(total):
        first[s] = -1
        into[s] = s
        up[s] = -1
    for j in range(n):
        if parent[j] >= 0 and node[parent[j]] != node[j]:
            up[node[j]] = node[parent[j]]
    for s in range(total - 1):
        if up[s] >= 0:
            following[s] = first[up[s]]  # the last child comes first
            first[up[s]] = s
    zeros = count  # not needed any more; its head serves as the number of zeros stored
    for s in range(total):
        zeros[s] = 0
    for s in range(total):
        c = first[s]
        while c >= 0:
            w = width[c] + width[s]
            m = w + below[s]
            z = zeros[c] + zeros[s] + width[c] * (width[s] + below[s] - below[c])
            size = w * m - w * (w - 1) // 2
            if w <= 16:
                share = 0.5
            elif w <= 48:
                share = 0.2
            else:
                share = 0.05
            if w <= 4 or z <= share * size:
                into[c] = s
                width[s] = w
                zeros[s] = z
            c = following[c]
    # Number the survivors; those joined follow their parent's fate, which is known from the top down.
    kept = 0
    for s in range(total):
        if into[s] == s:
            first[s] = kept
            kept += 1
    for s in range(total - 1, -1, -1):
        if into[s] != s:
            into[s] = into[into[s]]
    for s in range(total):
        if into[s] == s:
            t = first[s]
            width[t], below[t] = width[s], below[s]
            following[t] = -1 if up[s] < 0 else first[into[up[s]]]
    for t in range(kept):
        up[t] = following[t]
    for j in range(n):
        node[j] = first[into[node[j]]]
    return kept


@entry
def front_rows(
    n: int, fronts: int, indptr, indices, order, place, node, up, start, rows: Int32s, filled, mark
):
    """The rows below each supernode's own, ascending: rows[start[s]:start[s + 1]].

    Row i belongs to every supernode on the paths from its nonzeros up to its own.
    """
    for s in range(fronts):
        filled[s] = start[s]
        mark[s] = -1
    for i in range(n):
        own = node[i]
        mark[own] = i
        old = order[i]
        for p in range(indptr[old], indptr[old + 1]):
            j = place[indices[p]]
            if j >= i:
                continue
            s = node[j]
            while mark[s] != i:
                mark[s] = i
                rows[filled[s]] = i
                filled[s] += 1
                s = up[s]


@entry
def relative_rows(fronts: int, column, up, start, rows: Int32s, relative: Int32s):
    """Where each row of a front is in its parent's front."""
    for s in range(fronts):
        p = up[s]
        if p < 0:
            continue
        c0, c1 = column[p], column[p + 1]
        q = start[p]
        for t in range(start[s], start[s + 1]):
            i = rows[t]
            if i < c1:
                relative[t] = i - c0
            else:
                while rows[q] < i:
                    q += 1
                relative[t] = c1 - c0 + q - start[p]


@entry
def entries(
    fronts: int,
    indptr,
    indices,
    order,
    place,
    column,
    start,
    rows: Int32s,
    block,
    position,
    begin,
    source,
    target,
):
    """Which of A's nonzeros go where in each panel: the lower triangle in the order of elimination.

    source[begin[s]:begin[s + 1]] are places in A's nonzeros, target those in the panel, by columns.
    By symmetry it is row j of A that lists column j: the factorisation conjugates what it takes.
    """
    count = 0
    for s in range(fronts):
        begin[s] = count
        c0, c1, b = column[s], column[s + 1], block[s]
        m = c1 - c0 + start[s + 1] - start[s]
        for j in range(c0, c1):
            position[j] = j - c0
        for t in range(start[s], start[s + 1]):
            position[rows[t]] = c1 - c0 + t - start[s]
        for j in range(c0, c1):
            k = (j - c0) // b
            head = block_start(k, b, m) + (j - c0 - k * b) * (m - k * b) - k * b
            old = order[j]
            for p in range(indptr[old], indptr[old + 1]):
                i = place[indices[p]]
                if i >= j:
                    source[count] = p
                    target[count] = head + position[i]
                    count += 1
    begin[fronts] = count
    return count


@entry
def outside(fronts: int, top: int, column, up, start, rows: Int32s, root, reach: Int32s):
    """reach: rows, but for those above all subtrees places from n on, one for each row that a subtree's
    root, or a front above, has there. Returns n and the number of these places.
    """
    extra = column[fronts]
    for s in range(top - 1, -1, -1):
        root[s] = s if up[s] < 0 or up[s] >= top else root[up[s]]
    first = column[top]
    for s in range(fronts):
        if up[s] >= top:  # known before its descendants are visited below
            for t in range(start[s], start[s + 1]):
                reach[t] = extra
                extra += 1
    for s in range(top):
        if up[s] >= top:
            continue
        q = start[root[s]]
        for t in range(start[s], start[s + 1]):
            if rows[t] < first:
                reach[t] = rows[t]
            else:
                while rows[q] < rows[t]:
                    q += 1
                reach[t] = reach[q]
    return extra
