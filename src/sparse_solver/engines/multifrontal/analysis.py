"""The symbolic factorisation, put together: ordering, tree, fronts, tasks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from . import schedule, supernodes
from .blocks import block_width
from .elimination import Elimination, ints, places
from .fronts import Fronts, address_table
from .inverse_tasks import inverse_tasks
from .run import Graph
from .solve_tasks import solve_tasks

__all__ = ["Analysis", "analyse"]


@dataclass(frozen=True, eq=False)
class Analysis:
    """Everything about a structure that the numeric phases need.

    Attributes
    ----------
    fronts : Fronts
    kept, lane : int
        Numbers in the arena: kept to the end, and on each thread's stacks.
    factor_tasks, solve_tasks, forward_tasks, backward_tasks, inverse_tasks : Graph
    y_place, y_room : array, int
        Where the inverse keeps Y for each front above all subtrees, and the numbers in all.
    extended : int
        Rows of right-hand sides, those included that fronts keep for rows above all subtrees.
    nnz_factor, flops
    """

    fronts: Fronts
    kept: int
    lane: int
    factor_tasks: Graph
    solve_tasks: Graph
    forward_tasks: Graph
    backward_tasks: Graph
    inverse_tasks: Graph
    y_place: np.ndarray
    y_room: int
    extended: int
    nnz_factor: int
    flops: float

    @cached_property
    def table(self) -> np.ndarray:
        """The fronts, as compiled code reads them."""
        return address_table(self.fronts)

    @cached_property
    def tallest(self) -> int:
        """Rows of the largest front."""
        return int((np.diff(self.fronts.column) + np.diff(self.fronts.start)).max(initial=0))

    @cached_property
    def roomiest(self) -> int:
        """Numbers in the largest panel of a front in a subtree."""
        return int(np.diff(self.fronts.panel)[: self.fronts.bounds[-1]].max(initial=0))

    @cached_property
    def diagonal(self) -> np.ndarray:
        """Where the diagonal of L is in the panels, (n,)."""
        F = self.fronts
        s = np.repeat(np.arange(len(F.up)), np.diff(F.column))
        m, b = (np.diff(F.column) + np.diff(F.start))[s], F.block[s]
        j = np.arange(len(s)) - F.column[s]
        k = j // b
        return F.panel[s] + b * (k * m - b * (k * (k - 1) // 2)) + (j - k * b) * (m - k * b + 1)

    @property
    def size(self) -> int:
        """Numbers stored in the panels."""
        return int(self.fronts.panel[-1])

    @property
    def size_above(self) -> int:
        """The same for fronts above the subtrees."""
        return self.size - int(self.fronts.panel[self.fronts.bounds[-1]])


def _pointers(counts: np.ndarray) -> np.ndarray:
    out = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=out[1:])
    return out


def analyse(indptr: np.ndarray, indices: np.ndarray, forest: Elimination) -> Analysis:
    """Plan the factorisation of a symmetric structure.

    Parameters
    ----------
    indptr, indices : CSR of both triangles, diagonal included
    forest : Elimination
        By an ordering of its unknowns; refined here to one in which the columns of a front are
        neighbours.
    """
    order, parent, count = forest.order, forest.parent, forest.counts.copy()
    n = len(order)
    work = ints(2, n)
    node, into, width, below, up = ints(n), ints(n), ints(n), ints(n), ints(n)
    fronts = supernodes.amalgamate(n, parent, count, node, into, width, below, up, work[0], work[1])
    width, below, up = width[:fronts], below[:fronts], up[:fronts]
    sequence, bounds, work_below = schedule.divide(width, below, up)
    rank = ints(fronts)
    rank[sequence] = np.arange(fronts)
    width, below, up, work_below = width[sequence], below[sequence], up[sequence], work_below[sequence]
    up = np.where(up >= 0, rank[up], -1)
    node = rank[node]
    by_node = np.argsort(node, kind="stable")
    order, node = order[by_node], node[by_node]
    place = places(order)

    column, start = _pointers(width), _pointers(below)
    rows, relative = np.empty(start[-1], np.int32), np.empty(start[-1], np.int32)
    supernodes.front_rows(
        n, fronts, indptr, indices, order, place, node, up, start, rows, work[0], work[1]
    )
    supernodes.relative_rows(fronts, column, up, start, rows, relative)
    reach, top = np.empty(start[-1], np.int32), int(bounds[-1])
    extended = supernodes.outside(fronts, top, column, up, start, rows, work[0], reach)
    m = width + below
    block = np.maximum(width, 1)
    block[bounds[-1] :] = [block_width(rows) for rows in m[bounds[-1] :].tolist()]
    panel = _pointers(_stored(width, block, m))
    begin, source, target = ints(fronts + 1), ints(len(indices)), ints(len(indices))
    scatter = column, start, rows, block, work[0], begin, source, target
    lower = supernodes.entries(fronts, indptr, indices, order, place, *scatter)
    offset = ints(fronts)
    lane = schedule.stacks(len(bounds) - 1, fronts, bounds, up, below, offset, work[0], work[1])
    tasks, kept, reused = schedule.factor_tasks(
        sequence, bounds, width, below, up, offset, int(panel[-1])
    )
    inverse, y_place, y_room = inverse_tasks(
        bounds, width, below, up, block, work_below, reused, int(panel[-1])
    )
    child = np.flatnonzero(up >= 0)
    child_begin = _pointers(np.bincount(up[child], minlength=fronts))
    child = child[np.argsort(up[child], kind="stable")]
    where = column, start, up, child_begin, child, panel, block, begin, source[:lower], target[:lower]
    arrays = (*where, bounds, offset, order, rows, relative, reach)
    fields = [np.ascontiguousarray(array) for array in arrays]
    sizes = bounds, width, below, up, block
    return Analysis(
        Fronts(*fields, n, fronts, int(bounds[-1])),  # type: ignore[call-arg, arg-type]
        kept,
        int(lane),
        tasks.arrays(),
        solve_tasks(*sizes).arrays(),
        solve_tasks(*sizes, backwards=False).arrays(),
        solve_tasks(*sizes, forwards=False).arrays(),
        inverse.arrays(),
        y_place,
        int(y_room),
        int(extended),
        int((width * (width + 1) // 2 + width * below).sum()),
        float(work_below[up < 0].sum()),
    )


def _stored(w: np.ndarray, b: np.ndarray, m: np.ndarray) -> np.ndarray:
    """`blocks.stored` for arrays."""
    j = w // b
    return b * (j * m - b * (j * (j - 1) // 2)) + (w - j * b) * (m - j * b)
