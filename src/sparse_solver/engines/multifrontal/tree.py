"""The elimination tree of a matrix under an ordering, and how full each column of L will be.

The graph is that of A, both triangles, in the user's numbering; `order[k]` is the unknown eliminated
k-th and `place` its inverse.

References
----------
J. W. H. Liu, The role of elimination trees in sparse factorization, SIAM J. Matrix Anal. Appl. 11
(1990). J. R. Gilbert, E. G. Ng, B. W. Peyton, An efficient algorithm to compute row and column counts
for sparse Cholesky factorization, SIAM J. Matrix Anal. Appl. 15 (1994).
"""

from __future__ import annotations

from ..compiler import entry
from .memory import move

__all__ = ["column_counts", "elimination_tree", "postorder"]


@entry
def elimination_tree(n: int, indptr, indices, order, place, parent, ancestor):
    """parent[k]: the row of the first nonzero below the diagonal in column k of L; -1 for roots."""
    for k in range(n):
        parent[k] = -1
        ancestor[k] = -1
        i = order[k]
        for p in range(indptr[i], indptr[i + 1]):
            j = place[indices[p]]
            while j < k:
                up = ancestor[j]
                ancestor[j] = k  # the path is compressed on the way
                if up == -1:
                    parent[j] = k
                    break
                if up == k:
                    break
                j = up


@entry
def postorder(n: int, parent, first, following, stack, found):
    """found[k]: the k-th node when each subtree is numbered without a gap."""
    for k in range(n):
        first[k] = -1
    for k in range(n - 1, -1, -1):  # children end up in ascending order
        if parent[k] >= 0:
            following[k] = first[parent[k]]
            first[parent[k]] = k
    count = 0
    for root in range(n):
        if parent[root] >= 0:
            continue
        top = 0
        stack[0] = root
        while top >= 0:
            k = stack[top]
            child = first[k]
            if child >= 0:
                first[k] = following[child]
                top += 1
                stack[top] = child
            else:
                found[count] = k
                count += 1
                top -= 1


@entry
def column_counts(n: int, indptr, indices, order, place, parent, work, count):
    """Nonzeros of each column of L, diagonal included, for postordered columns.

    Column j gains row i where j is a leaf of i's row subtree; where two leaves' paths meet, the row
    was counted twice. work: (4, n).
    """
    earliest, highest, previous = work, move(work, n), move(work, 2 * n)
    ancestor = move(work, 3 * n)
    for k in range(n):
        earliest[k] = -1
        highest[k] = -1
        previous[k] = -1
        ancestor[k] = k
    for k in range(n):
        j = k
        count[k] = 1 if earliest[k] == -1 else 0  # a leaf of the tree starts its own count
        while j != -1 and earliest[j] == -1:
            earliest[j] = k
            j = parent[j]
    for j in range(n):
        if parent[j] != -1:
            count[parent[j]] -= 1
        node = order[j]
        for p in range(indptr[node], indptr[node + 1]):
            i = place[indices[p]]
            if i <= j or earliest[j] <= highest[i]:
                continue
            highest[i] = earliest[j]
            count[j] += 1
            last = previous[i]
            previous[i] = j
            if last == -1:
                continue
            meet = last
            while meet != ancestor[meet]:
                meet = ancestor[meet]
            while last != meet:
                up = ancestor[last]
                ancestor[last] = meet
                last = up
            count[meet] -= 1
        if parent[j] != -1:
            ancestor[j] = parent[j]
    for j in range(n):
        if parent[j] != -1:
            count[parent[j]] += count[j]
