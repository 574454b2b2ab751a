"""`Fronts`: what the numeric phases read of the symbolic one.

Compiled code takes it as one array of addresses: passing twenty arrays from function to function would
cost more to compile than everything that is done with them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..compiler import function
from .memory import int32_at, int64_at

__all__ = ["Fronts", "address_table", "unpack", "update_place"]


class Fronts(NamedTuple):
    """s is a supernode, t a task; arrays of int64 but for three of int32."""

    column: Any  # (s + 1,) first column
    start: Any  # (s + 1,) into rows, relative and reach
    up: Any  # (s,) parent or -1
    child_begin: Any  # (s + 1,) into child
    child: Any
    panel: Any  # (s + 1,) into the factor
    block: Any  # (s,) width of the panel's block columns
    begin: Any  # (s + 1,) into source and target
    source: Any  # places in A's nonzeros
    target: Any  # places in the panel
    bounds: Any  # (t + 1,) supernodes of each subtree task; the fronts above follow
    offset: Any  # (s,) of update matrices in the arena or, inside a subtree, on a stack
    order: Any  # (n,) the unknown eliminated k-th
    rows: Any  # int32
    relative: Any  # int32, places in the parent's front
    reach: Any  # int32, rows, or where a subtree adds to rows above it, see `solve`
    n: int
    supernodes: int
    top: int  # the first that is above all subtrees


def address_table(F: Fronts) -> np.ndarray:
    """Addresses and sizes, in the order of the fields; the arrays must be kept alive."""
    for name in F._fields[:-3]:
        array = getattr(F, name)
        wanted = np.int32 if name in ("rows", "relative", "reach") else np.int64
        assert array.dtype == wanted and array.flags.c_contiguous, name
    return np.array([*(a.ctypes.data for a in F[:-3]), *F[-3:]], np.int64)


@function
def unpack(table):
    """The same fields, as pointers."""
    return Fronts(
        int64_at(table[0]), int64_at(table[1]), int64_at(table[2]), int64_at(table[3]),
        int64_at(table[4]), int64_at(table[5]), int64_at(table[6]), int64_at(table[7]),
        int64_at(table[8]), int64_at(table[9]), int64_at(table[10]), int64_at(table[11]),
        int64_at(table[12]), int32_at(table[13]), int32_at(table[14]), int32_at(table[15]),
        table[16], table[17], table[18],
    )  # fmt: skip


@function
def update_place(F, s, kept, lane_size, lane):
    """Where in the arena the update matrix of s lies for the thread `lane`."""
    if s >= F.top or F.up[s] < 0 or F.up[s] >= F.top:
        return F.offset[s]
    base = kept + lane * lane_size
    return base + (F.offset[s] if F.offset[s] >= 0 else lane_size - ~F.offset[s])
