"""Fill-reducing orderings, and the choice between them.

Minimum fill takes a fraction of the time of nested dissection, and tells how much work a matrix is.
Where that is little, and on graphs without much structure, it is the better one. On meshes in the
plane the first few separators save a quarter of the work; in space dissection to the end saves half of
it and more.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...matrix import Pattern
from ...matrix.threads import share
from .dissection import Dissection
from .elimination import Elimination, eliminate
from .minimum_fill import minimum_fill

__all__ = ["fill_reducing", "nested_dissection"]

_LIGHT = 3e3  # flops per unknown up to which dissection does not pay
_HEAVY = 2e4  # and from which it goes on to the end
_LEAF = 400  # unknowns of parts in which minimum fill is as good
_FEW = 8  # parts at least, where it does not go on to the end
_AHEAD = (
    20_000  # unknowns from which dissection begins before it is known to pay, given a thread for it
)


def fill_reducing(pattern: Pattern, threads: int = 1) -> Elimination:
    """The better of minimum fill and, where there is much to gain, nested dissection.

    The result does not depend on the number of threads.
    """
    n, indptr, indices = pattern.shape[0], pattern.indptr, pattern.cols.numpy()
    graph = _graph(pattern)
    ahead: list[Any] = [None, None]

    def start(k: int) -> None:
        ahead[k] = (minimum_fill, _begun)[k](*graph)

    share(start, 2 if threads > 1 and n >= _AHEAD else 1, threads)
    (order, flops), dissection = ahead
    if flops is None:
        flops = eliminate(indptr, indices, order).flops
    if flops > _LIGHT * n:
        leaf = _LEAF if flops > _HEAVY * n else max(_LEAF, n // _FEW)
        other = eliminate(indptr, indices, nested_dissection(*graph, leaf, threads, dissection))
        if other.flops < flops:
            return other
    return eliminate(indptr, indices, order)


def nested_dissection(
    starts: np.ndarray,
    neighbours: np.ndarray,
    leaf: int,
    threads: int,
    begun: Dissection | None = None,
) -> np.ndarray:
    """Separators last; unknowns between them by minimum fill, with the separators in view."""
    stage, group = (begun or _begun(starts, neighbours)).finish(leaf, threads)
    orders: list[Any] = [None] * 4

    def inside(k: int) -> None:
        late = np.where((stage == 0) & (group == k), 0, 1)
        orders[k], _ = minimum_fill(starts, neighbours, late)

    share(inside, 4, threads)
    separators = np.flatnonzero(stage)
    orders.append(separators[np.argsort(stage[separators], kind="stable")])
    return np.concatenate(orders)


def _begun(starts: np.ndarray, neighbours: np.ndarray) -> Dissection:
    dissection = Dissection(starts, neighbours)
    dissection.begin()
    return dissection


def _graph(pattern: Pattern) -> tuple[np.ndarray, np.ndarray]:
    """CSR without the diagonal."""
    n, rows, cols = pattern.shape[0], pattern.rows.numpy(), pattern.cols.numpy()
    apart = rows != cols
    starts = np.zeros(n + 1, np.int64)
    np.cumsum(np.bincount(rows[apart], minlength=n), out=starts[1:])
    return starts, cols[apart]
