"""The selected inverse as a run of the tasks that `inverse_tasks` makes."""

from __future__ import annotations

from ..compiler import Numbers, entry, function
from .blocks import block_start, update_width
from .calls import GEMM, INVERSE_BLOCK, INVERTED, PRODUCT, call_kernel, gemm
from .calls import OVER as DIVIDE
from .fronts import unpack
from .inverse import below_front, gather, inverse_front
from .inverse_tasks import BELOW, COLLECT, DIAGONAL, GATHER, INVERT, OVER, PIECE, ROWS, SQUARE, SUBTREE
from .memory import load, move, prefetch
from .product import LOWER, TRANSPOSED
from .run import ABORT, draw, finish, tasks_at
from .scalars import is_real, one_of
from .strips import ROOM

__all__ = ["selected_inverse"]

_AHEAD = 1024  # numbers asked for ahead; the processor follows longer streams by itself


@function
def _above(F, s, Z):
    """The panel of Z of a front above all subtrees."""
    return move(Z, F.panel[s] - F.panel[F.top])


@function
def _collect(F, s, X, mirror, out):
    """Hand out what X, the panel of Z of front s, holds of A's nonzeros."""
    for e in range(F.begin[s], F.begin[s + 1]):
        z, p = X[F.target[e]], F.source[e]
        out[mirror[p]] = z
        out[p] = z.conjugate()


@function
def _subtree(F, t, L, X, Y, arena, kept, lane_size, lane, mirror, out, room, machine, state):
    for s in range(F.bounds[t + 1] - 1, F.bounds[t] - 1, -1):
        if load(state, ABORT) != 0:
            return
        if s > F.bounds[t]:  # the next panel of L comes to the cache meanwhile
            prefetch(move(L, F.panel[s - 1]), min(F.panel[s] - F.panel[s - 1], _AHEAD), 0)
        inverse_front(F, s, L, X, Y, arena, kept, lane_size, lane, room, machine)
        _collect(F, s, X, mirror, out)
        # All children at once, before a descendant takes the place of Z22.
        for p in range(F.child_begin[s], F.child_begin[s + 1]):
            c = F.child[p]
            r = F.start[c + 1] - F.start[c]
            for j in range(-(-r // update_width(r))):
                gather(F, c, j, X, arena, kept, lane_size, lane)


@function
def _block(F, kind, s, j, c, L, X, Y, room, machine):
    """A step of block column j of a front above all subtrees, but for the rows below in Z.

    Y has the rows below the diagonal block.
    """
    w = F.column[s + 1] - F.column[s]
    m, b = w + F.start[s + 1] - F.start[s], F.block[s]
    width = min(b, w - j * b)
    ldl = m - j * b
    rest = ldl - width
    first = block_start(j, b, m)
    D, X = move(L, F.panel[s] + first), move(X, first)
    if kind == INVERT:
        call_kernel(machine[INVERTED], (D, ldl, width, X, ldl, machine))
    elif kind == OVER:
        rows, a = min(ROWS, rest - c), move(D, width + c)
        call_kernel(machine[DIVIDE], (a, ldl, X, ldl, width, move(Y, c), rest, rows, room, machine))
    elif kind == SQUARE:
        call_kernel(machine[INVERSE_BLOCK], (X, ldl, width, Y, rest, 0, X, room, machine))
    elif rest > 0:  # the block's columns from c on less Y^H Z21
        one = one_of(L)
        z, to = move(X, c * ldl + width), move(X, c * (ldl + 1))
        y, columns = move(Y, c * rest), min(PIECE, width - c)
        if is_real(L[0]):
            rows = width - c
            call_kernel(
                machine[PRODUCT],
                (to, ldl, y, rest, TRANSPOSED, z, ldl, rows, columns, rest, True, LOWER, room),
            )
        else:
            gemm(machine[GEMM], (67, 78, width - c, columns, rest, -one, y, rest, z, ldl, one, to, ldl))


@entry
def selected_inverse(
    table,
    graph,
    L: Numbers,
    Z: Numbers,
    own: Numbers,
    size: int,
    place,
    shared: Numbers,
    arena: Numbers,
    kept: int,
    lane_size: int,
    mirror,
    out: Numbers,
    lane: int,
    rooms: Numbers,
    machine,
    state,
):
    """Take part as thread `lane`.

    Z: panels of the fronts above all subtrees, like L; own: for each lane, `size` for a panel of a
    front in a subtree and as much for its Y; shared: for the numbers below a block of each front above,
    at its `place`; mirror and out (nnz,): on A's nonzeros.

    In a subtree a panel of Z is needed until it is collected and the children have their part of it, so
    that one place serves for all, and stays in the cache.
    """
    F, G, X = unpack(table), tasks_at(graph), move(own, 2 * lane * size)
    room = move(rooms, lane * ROOM)
    while True:
        task = draw(state, G, machine)
        if task < 0:
            return
        kind, s = G.what[4 * task], G.what[4 * task + 1]
        j, i = G.what[4 * task + 2], G.what[4 * task + 3]
        if kind == SUBTREE:
            Y = move(X, size)
            _subtree(F, s, L, X, Y, arena, kept, lane_size, lane, mirror, out, room, machine, state)
        elif kind == GATHER:
            gather(F, s, j, _above(F, F.up[s], Z), arena, kept, lane_size, lane)
        elif kind == COLLECT:
            _collect(F, s, _above(F, s, Z), mirror, out)
        elif kind == BELOW:
            y = move(shared, place[s - F.top])
            below_front(F, s, j, i, L, _above(F, s, Z), y, arena, kept, lane_size, lane, room, machine)
        elif INVERT <= kind <= DIAGONAL:
            _block(F, kind, s, j, i, L, _above(F, s, Z), move(shared, place[s - F.top]), room, machine)
        finish(state, G, task)
