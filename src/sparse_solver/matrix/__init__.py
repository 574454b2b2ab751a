"""What a matrix is: a structure (`Pattern`) and numbers on it (`SparseMatrix`)."""

from .pattern import Pattern
from .sparse_matrix import SparseMatrix

__all__ = ["Pattern", "SparseMatrix"]
