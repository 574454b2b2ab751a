"""Families of matrices `A(w)` on one sparsity structure, what the parametrised problems return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ..matrix import Pattern, SparseMatrix


@dataclass(frozen=True, eq=False)
class MatrixFamily(ABC):
    """Matrices `A(w)` that share one `Pattern`; the base class of the parametrised problems.

    Attributes
    ----------
    indices : Tensor
        Rows and columns of the triplets, int64 of shape `(2, t)`, duplicates included, in the order
        of `values`; what `torch.sparse_coo_tensor` takes.
    pattern : Pattern
        The structure of these triplets, of shape `(n, n)`.
    """

    indices: Tensor
    pattern: Pattern

    @property
    def n(self) -> int:
        """Number of unknowns."""
        return self.pattern.shape[0]

    @property
    @abstractmethod
    def num_weights(self) -> int:
        """Number of weights m."""

    @abstractmethod
    def _values(self, weights: Tensor) -> Tensor:
        """Triplet values of weights whose shape is known to be `(*B, m)`."""

    def values(self, weights: Tensor) -> Tensor:
        """Map weights to triplet values, differentiably.

        Parameters
        ----------
        weights : Tensor
            Of shape `(*B, m)` with `m = num_weights`.

        Returns
        -------
        Tensor
            Of shape `(*B, t)`, one value for each column of `indices`; for `pattern.assemble`.

        Raises
        ------
        ValueError
            If the last dimension of `weights` is not `m`.
        """
        if weights.ndim == 0 or weights.shape[-1] != self.num_weights:
            raise ValueError(
                f"weights has shape {tuple(weights.shape)}, expected (*B, {self.num_weights}): "
                f"this {type(self).__name__} has {self.num_weights} weights"
            )
        return self._values(weights)

    def assemble(self, weights: Tensor) -> SparseMatrix:
        """Return `A(weights)`, short for `pattern.assemble(values(weights))`."""
        return self.pattern.assemble(self.values(weights))


def triplet_pattern(indices: Tensor, n: int) -> Pattern:
    """Return the square pattern of triplets `(2, t)`."""
    return Pattern(indices[0], indices[1], (n, n))


def square_from_triplets(indices: Tensor, values: Tensor, n: int) -> SparseMatrix:
    """Return the n x n matrix of triplets `(2, t)` and values `(t,)`, duplicates summed."""
    return triplet_pattern(indices, n).assemble(values)


def grid_numbering(shape: tuple[int, ...]) -> Tensor:
    """Number the points of a grid in row-major (C) order; int64 of the grid's shape."""
    if len(shape) == 0 or any(int(s) < 1 for s in shape):
        raise ValueError(
            f"shape is {shape!r}, expected at least one positive length per axis, as in (30, 30)"
        )
    return torch.arange(int(torch.tensor(shape).prod())).reshape(shape)


def grid_edges(shape: tuple[int, ...]) -> Tensor:
    """Return the nearest-neighbour edges of a grid, int64 of shape `(m, 2)`, axis after axis."""
    point = grid_numbering(shape)
    pairs = [
        torch.stack([point.narrow(axis, 0, s - 1), point.narrow(axis, 1, s - 1)], -1).reshape(-1, 2)
        for axis, s in enumerate(shape)
    ]
    return torch.cat(pairs)
