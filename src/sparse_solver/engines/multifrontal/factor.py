"""The numeric factorisation: fronts, from the leaves of the tree to its roots.

A front is the dense matrix of a supernode's columns and of the rows they reach:

    [ F11       ]   own columns       F11 = L11 L11^H
    [ F21   F22 ]   rows below        L21 = F21 L11^-H,   U = F22 - L21 L21^H

[L11; L21] is the panel, which stays; the update matrix U is added to the parent's front. F22 holds
nothing but the children's updates, so U is computed first and they are added to it: no zeroing.

References
----------
I. S. Duff and J. K. Reid, The multifrontal solution of indefinite sparse symmetric linear systems,
ACM Trans. Math. Softw. 9 (1983). J. W. H. Liu, The multifrontal method for sparse matrix solution,
SIAM Review 34 (1992).
"""

from __future__ import annotations

from ..compiler import Numbers, entry, function
from .blocks import block_start, update_width
from .calls import GEMM, HERK, PANEL, TRSM, UPDATE, call_kernel, gemm, herk, trsm
from .fronts import unpack, update_place
from .memory import fetch_min, load, move
from .run import ABORT, BAD, draw, go_on, tasks_at
from .scalars import is_real, one_of
from .schedule import ACROSS, ASSEMBLE, BELOW, CHUNK, DIAGONAL, SUBTREE, UPDATING
from .strips import ROOM

__all__ = ["factorize"]

_SMALL = 160  # rows of a front up to which our own kernels are faster than calls of BLAS
_MEDIUM = 700  # likewise for the update matrix alone, of real numbers
_PANEL = 64  # columns factored by our own kernels between calls


@function
def _search(relative, low, high, value):
    """First place in relative[low:high], ascending, that is at least `value`."""
    while low < high:
        middle = (low + high) // 2
        if relative[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@function
def _extend_add(F, c, U, D, ldd, shift, c0, c1):
    """Add those columns of c's update matrix U that fall on columns c0:c1 of the parent's front.

    D is where column c0 and row `shift` of that front lie.
    """
    begin, end = F.start[c], F.start[c + 1]
    r = end - begin
    b = update_width(r)
    first, last = _search(F.relative, begin, end, c0), _search(F.relative, begin, end, c1)
    for j in range(first - begin, last - begin):
        k = j // b
        u = move(U, block_start(k, b, r) + (j - k * b) * (r - k * b) - k * b)
        to = move(D, (F.relative[begin + j] - c0) * ldd - shift)
        if F.relative[end - 1] - F.relative[begin + j] == r - 1 - j:  # no gaps: a vector operation
            to = move(to, F.relative[begin + j] - j)
            for i in range(j, r):
                to[i] += u[i]
        else:
            rel = move(F.relative, begin)
            for i in range(j, r):
                to[rel[i]] += u[i]


@function
def _assemble(F, s, j, values, L, arena, kept, lane_size, lane):
    """Block column j of the panel of s: A's entries and the children's updates."""
    w = F.column[s + 1] - F.column[s]
    m, b = w + F.start[s + 1] - F.start[s], F.block[s]
    c0 = j * b
    c1 = min(c0 + b, w)
    A = move(L, F.panel[s])
    d0 = block_start(j, b, m)
    d1 = d0 + (c1 - c0) * (m - c0)
    for i in range(d0, d1):
        A[i] = 0
    e0, e1 = F.begin[s], F.begin[s + 1]
    if c1 - c0 < w:
        e0, e1 = _search(F.target, e0, e1, d0), _search(F.target, e0, e1, d1)
    for e in range(e0, e1):
        A[F.target[e]] = values[F.source[e]].conjugate()
    for p in range(F.child_begin[s], F.child_begin[s + 1]):
        c = F.child[p]
        U = move(arena, update_place(F, c, kept, lane_size, lane))
        _extend_add(F, c, U, move(A, d0), m - c0, c0, c0, c1)


@function
def _outer(C, ldc, B, ldb, rows, columns, k, beta, machine):
    """The lower trapezoid of C (rows x columns) = beta C - B B1^H, B1 being the first rows of B."""
    one = one_of(B)
    herk(machine[HERK], (76, 78, columns, k, -one.real, B, ldb, beta.real, C, ldc))
    if rows > columns:
        rest, B2, C2 = rows - columns, move(B, columns), move(C, columns)
        gemm(machine[GEMM], (78, 67, rest, columns, k, -one, B2, ldb, B, ldb, beta, C2, ldc))


@function
def _update(F, s, j, L, arena, kept, lane_size, lane, room, machine):
    """Block column j of the update matrix of s: -L21 L21^H, then the children's."""
    w = F.column[s + 1] - F.column[s]
    r = F.start[s + 1] - F.start[s]
    m, b = w + r, F.block[s]
    ub = update_width(r)
    c0 = j * ub
    c1 = min(c0 + ub, r)
    one = one_of(L)
    U = move(arena, update_place(F, s, kept, lane_size, lane) + block_start(j, ub, r))
    for k in range(0, w, b):
        kb = min(b, w - k)
        B = move(L, F.panel[s] + block_start(k // b, b, m) + w - k + c0)
        beta = one if k > 0 else one - one
        if m <= (_MEDIUM if is_real(L[0]) else _SMALL):
            P = move(room, lane * ROOM)
            call_kernel(machine[UPDATE], (U, r - c0, B, m - k, r - c0, c1 - c0, kb, k > 0, P, machine))
        else:
            _outer(U, r - c0, B, m - k, r - c0, c1 - c0, kb, beta, machine)
    for p in range(F.child_begin[s], F.child_begin[s + 1]):
        c = F.child[p]
        V = move(arena, update_place(F, c, kept, lane_size, lane))
        _extend_add(F, c, V, U, r - c0, w + c0, w + c0, w + c1)


@function
def _factor_panel(A, m, w, machine):
    """Factor the panel A (m x w, one block); 0 or 1 + the bad column."""
    if m <= _SMALL:
        return call_kernel(machine[PANEL], (A, m, m, w, machine))
    one = one_of(A)
    for k in range(0, w, _PANEL):
        kb = min(_PANEL, w - k)
        D = move(A, k * (m + 1))
        bad = call_kernel(machine[PANEL], (D, m, m - k, kb, machine))
        if bad:
            return k + bad
        if w > k + kb:
            B, C = move(D, kb), move(D, kb * (m + 1))
            gemm(machine[GEMM], (78, 67, m - k - kb, w - k - kb, kb, -one, B, m, B, m, one, C, m))
    return 0


@function
def _subtree(F, t, values, L, arena, kept, lane_size, lane, room, machine, state):
    """All fronts of a task; stops where one that comes earlier has failed."""
    for s in range(F.bounds[t], F.bounds[t + 1]):
        if load(state, BAD) <= F.column[s] or load(state, ABORT) != 0:
            return
        w = F.column[s + 1] - F.column[s]
        r = F.start[s + 1] - F.start[s]
        for j in range(-(-w // F.block[s])):  # just one
            _assemble(F, s, j, values, L, arena, kept, lane_size, lane)
        bad = _factor_panel(move(L, F.panel[s]), w + r, w, machine)
        if bad:
            fetch_min(state, BAD, F.column[s] + bad - 1)
            return
        for j in range(-(-r // update_width(r))):
            _update(F, s, j, L, arena, kept, lane_size, lane, room, machine)


@function
def _tile(F, kind, s, j, k, values, L, arena, kept, lane_size, lane, room, machine, state):
    """A step of a front above all subtrees, on block column j."""
    if kind == UPDATING:
        _update(F, s, j, L, arena, kept, lane_size, lane, room, machine)
        return
    w = F.column[s + 1] - F.column[s]
    m, b = w + F.start[s + 1] - F.start[s], F.block[s]
    c0 = j * b
    c1 = min(c0 + b, w)
    D, ldd = move(L, F.panel[s] + block_start(j, b, m)), m - c0
    if kind == ASSEMBLE:
        _assemble(F, s, j, values, L, arena, kept, lane_size, lane)
    elif kind == DIAGONAL:
        bad = call_kernel(machine[PANEL], (D, ldd, c1 - c0, c1 - c0, machine))
        if bad:
            fetch_min(state, BAD, F.column[s] + c0 + bad - 1)
        return
    one = one_of(L)
    if kind == BELOW:  # from row k below the diagonal block on
        B, rows = move(D, c1 - c0 + k), min(CHUNK, m - c1 - k)
        trsm(machine[TRSM], (82, 76, 67, 78, rows, c1 - c0, one, D, ldd, B, ldd))
    elif kind == ACROSS:  # from block column j to block column k
        d0 = k * b
        B, width = move(D, d0 - c0), min(b, w - d0)
        C = move(L, F.panel[s] + block_start(k, b, m))
        _outer(C, m - d0, B, ldd, m - d0, width, c1 - c0, one, machine)


@entry
def factorize(
    table,
    graph,
    values: Numbers,
    L: Numbers,
    arena: Numbers,
    kept: int,
    lane_size: int,
    lane: int,
    room: Numbers,
    machine,
    state,
):
    """Take part in a factorisation as thread `lane`, until no task is left.

    Parameters
    ----------
    table : array
        See `fronts`.
    graph : array
        See `run`.
    values : array (nnz,)
    L : array
        The panels, overwritten.
    arena : array
        Update matrices that are kept to the end, then each lane's stacks: `kept` and `lane_size`
        numbers.
    room : array
        Of ROOM numbers for each lane.
    machine, state : arrays
        See `machine` and `run`.
    """
    F, G = unpack(table), tasks_at(graph)
    task = -1
    while True:
        # What became ready first is what others wait for most: the next diagonal block comes before
        # the rest of an update from the last, which keeps the other threads busy meanwhile.
        if task < 0:
            task = draw(state, G, machine)
        if task < 0 or load(state, ABORT) != 0:
            return
        kind, s = G.what[4 * task], G.what[4 * task + 1]
        if kind == SUBTREE:
            _subtree(F, s, values, L, arena, kept, lane_size, lane, room, machine, state)
        elif load(state, BAD) > F.column[s]:
            j, k = G.what[4 * task + 2], G.what[4 * task + 3]
            _tile(F, kind, s, j, k, values, L, arena, kept, lane_size, lane, room, machine, state)
        task = go_on(state, G, task)
