"""L by columns, out of the panels: for what reads a factor entry by entry."""

from __future__ import annotations

import numpy as np

from ..triangles import Triangles
from .numeric import Cholesky

__all__ = ["triangles"]


def triangles(factor: Cholesky) -> Triangles:
    """P A P^T = L L^H, column by column; zeros that amalgamation stored included."""
    F, diagonal = factor.analysis.fronts, factor.analysis.diagonal
    width, below = np.diff(F.column), np.diff(F.start)
    front = np.repeat(np.arange(len(width)), width)  # of each column
    first = np.arange(F.n) - F.column[front]  # its place in the front
    count = (width + below)[front] - first
    lp = np.zeros(F.n + 1, np.int64)
    np.cumsum(count, out=lp[1:])
    # From its diagonal down, a column lies in one piece in the panel.
    step = np.arange(lp[-1]) - np.repeat(lp[:-1], count)
    values = factor.panels[np.repeat(diagonal, count) + step]
    local, front = np.repeat(first, count) + step, np.repeat(front, count)
    own = local < width[front]
    li = np.where(own, F.column[front] + local, 0)
    li[~own] = F.rows[(F.start[front] + local - width[front])[~own]]
    place = np.empty(F.n, np.int64)
    place[F.order] = np.arange(F.n)
    return Triangles.from_cholesky(lp, li, values, place)
