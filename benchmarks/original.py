"""The algorithm of the original sparse_solver 0.1, written anew as the yardstick.

By Alec Jacobson and Aravind Ramakrishnan, https://github.com/alecjacobson/pytorch-sparse-solve.
The same operations in the same order: a cholespy factorisation from COO, analysed again whenever
an index or a value differs from the last call's, and a gradient by the product of two sparse
diagonal matrices with the pattern of A between them. It is for one vector b and positive definite
A, as the original was.
"""

from __future__ import annotations

from typing import Any

import torch
from cholespy import CholeskySolverD, MatrixType


class OriginalSparseSolver(torch.autograd.Function):
    """x = A^-1 b with the last factorisation kept on the class."""

    factor: CholeskySolverD | None = None
    indices: torch.Tensor | None = None
    values: torch.Tensor | None = None
    factorizations = 0

    @staticmethod
    def forward(ctx: Any, A: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Factor A unless it equals the last one, then solve."""
        if A.layout != torch.sparse_coo:
            A = A.to_sparse_coo()
        factor = OriginalSparseSolver._factorize(A)
        x = torch.zeros_like(b, dtype=torch.float64)
        factor.solve(b, x)
        ctx.save_for_backward(b, A.indices(), x)
        return x

    @staticmethod
    def _factorize(A: torch.Tensor) -> CholeskySolverD:
        cls = OriginalSparseSolver
        indices, values = A.indices(), A.values()
        unchanged = (
            cls.factor is not None
            and torch.equal(cls.indices, indices)
            and torch.equal(cls.values, values)
        )
        if not unchanged:
            cls.indices, cls.values = indices, values
            cls.factor = CholeskySolverD(A.shape[0], indices[0], indices[1], values, MatrixType.COO)
            cls.factorizations += 1
        return cls.factor

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Solve with whatever was factored last: A is taken to be symmetric and unchanged."""
        b, indices, x = ctx.saved_tensors
        grad_A = grad_b = None
        if ctx.needs_input_grad[0]:
            # dL/dA = -diag(A^-1 g) S diag(x) with S the zero-one pattern of A
            n = len(b)
            ones = torch.ones(indices.shape[1])
            S = torch.sparse_coo_tensor(indices, ones, (n, n), dtype=torch.float64)
            left = _diagonal(OriginalSparseSolver._adjoint(g, b))
            grad_A = -left @ S @ _diagonal(x)
        if ctx.needs_input_grad[1]:
            grad_b = OriginalSparseSolver._adjoint(g, b)
        return grad_A, grad_b

    @staticmethod
    def _adjoint(g: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        y = torch.zeros_like(b, dtype=torch.float64)
        OriginalSparseSolver.factor.solve(g.clone().detach().double(), y)
        return y


def _diagonal(d: torch.Tensor) -> torch.Tensor:
    nodes = torch.arange(len(d))
    return torch.sparse_coo_tensor(torch.stack([nodes, nodes]), d, dtype=torch.float64)


def original_solve(A: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Solve A x = b for a coalesced COO matrix A (n, n) and a vector b (n,)."""
    return OriginalSparseSolver.apply(A, b)


def forget() -> None:
    """Drop the kept factorisation."""
    OriginalSparseSolver.factor = None
    OriginalSparseSolver.indices = OriginalSparseSolver.values = None
