"""How a dense lower triangle or trapezoid is stored: by block columns, without what lies above them.

Column block J of width b starts at its own diagonal row: of a matrix with m rows it has m - J b rows,
one contiguous column after the other. Fronts inside a subtree have one block.
"""

from __future__ import annotations

from ..compiler import function
from .memory import move

__all__ = ["block_start", "block_width", "column", "stored", "update_width"]


@function
def block_start(j, b, m):
    """Where block column j begins."""
    return b * (j * m - b * (j * (j - 1) // 2))


@function
def column(M, j, b, m):
    """Column j of M, of m rows: element i is that in row i."""
    if j < b:  # the only block of most fronts, and no division
        return move(M, j * m)
    k = j // b
    return move(M, block_start(k, b, m) + (j - k * b) * (m - k * b) - k * b)


@function
def stored(w, b, m):
    """Numbers stored for w columns of m rows in blocks of b."""
    j = w // b
    return block_start(j, b, m) + (w - j * b) * (m - j * b)


@function
def block_width(m):
    """Columns of a block in the panel of a front of m rows that several threads share."""
    return 64 if m < 400 else 128 if m < 3000 else 256


@function
def update_width(r):
    """Columns of a block in an update matrix of r rows."""
    return max(r, 1) if r <= 320 else 160
