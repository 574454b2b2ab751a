"""`SparseSolver`: the library's first entry point, as it was."""

from __future__ import annotations

from torch import Tensor

from ..matrix import SparseMatrix
from .solve import solve

__all__ = ["SparseSolver"]


class SparseSolver:
    """Solve A x = b through x = A^-1 b, keeping the factor for the backward pass.

    Kept so that programs written for the original work unchanged. `sparse_solver.solve` does the
    same and takes options.

    Examples
    --------
    >>> import torch, sparse_solver as ss
    >>> A = torch.sparse_coo_tensor([[0, 1], [0, 1]], [2.0, 4.0], (2, 2))
    >>> ss.SparseSolver.apply(A, torch.ones(2))
    tensor([0.5000, 0.2500])
    """

    @staticmethod
    def apply(A: Tensor | SparseMatrix, b: Tensor) -> Tensor:
        """x with A x = b, for A sparse of any layout, or dense.

        Parameters
        ----------
        A : Tensor or SparseMatrix, shape (n, n)
        b : Tensor, shape (n,) or (n, k)

        Returns
        -------
        Tensor
            x, of b's shape. Gradients go to A, in its own layout and on its own nonzeros, and to b.
        """
        return solve(A, b)
