"""The compiled loops over blocks of eight matrices.

A block is a two-dimensional array of rows of eight numbers, one of each matrix: first A's nonzeros,
then L, then U (unless A = A^T), pivots and their reciprocals. Every loop runs over rows, so nothing
depends on which matrices share a block.
"""

from .entries import inverse, outer
from .factoring import factor
from .solving import solve, suspect

__all__ = ["factor", "inverse", "outer", "solve", "suspect"]
