"""What a `Factor` answers besides solves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..matrix import SparseMatrix
from .determinant import SlogdetResult, logdet_of, slogdet_of
from .gaussian import draws_of
from .inverse import inverse_diagonal_of, selected_inverse_of

if TYPE_CHECKING:
    from .fixed import Reduction

__all__ = ["Answers"]


class Answers:
    """Methods of `Factor`: determinants, entries of the inverse, draws.

    Where unknowns were fixed, determinants and entries of the inverse are those of the matrix that
    remains, A_ff, in the order of the free unknowns.
    """

    matrix: SparseMatrix
    _how: str
    _token: Tensor | None
    _fixed: tuple[Reduction, Tensor] | None
    _notes: dict[str, Any]
    _failed: Tensor | None

    def _inner(self) -> tuple[SparseMatrix, str, Tensor | None]:
        A = self.matrix if self._fixed is None else self._fixed[0].matrix(self.matrix)
        return A, self._how, self._token

    def _numbering(self) -> AbstractContextManager[None]:
        return nullcontext() if self._fixed is None else self._fixed[0].own_numbering()

    def logdet(self) -> Tensor:
        """Logarithm of det A, (*B); see `sparse_solver.logdet`.

        If the engine that factored only solves, another one factors A once more, at the first call.

        Examples
        --------
        >>> import torch, sparse_solver as ss
        >>> ss.factorize(torch.eye(2) * 2).logdet()
        tensor(1.3863)
        """
        with self._numbering():
            return logdet_of(*self._inner())

    def slogdet(self) -> SlogdetResult:
        """Sign of det A and logarithm of its absolute value, (*B) each; see `sparse_solver.slogdet`."""
        with self._numbering():
            return slogdet_of(*self._inner())

    def selected_inverse(self) -> SparseMatrix:
        r"""Entries of the inverse at A's nonzeros, exact and differentiable.

        Returns
        -------
        SparseMatrix
            S on A's pattern (stored zeros count), :math:`S_{ij} = (A^{-1})_{ij}` where A has a nonzero
            (i, j).

        Notes
        -----
        By Takahashi's recursion, in the time of about one factorisation. Of an unsymmetric pattern
        it needs the factors of A on the pattern of A + A^T, made at the first call. First derivatives
        are as quick; each higher one takes n solves. See docs/determinants.md.

        References
        ----------
        K. Takahashi, J. Fagan and M.-S. Chin, Formation of a sparse bus impedance matrix (1973).

        Examples
        --------
        >>> import torch, sparse_solver as ss
        >>> A = torch.tensor([[2.0, 1.0, 0.0], [1.0, 2.0, 1.0], [0.0, 1.0, 2.0]])
        >>> ss.factorize(A).selected_inverse().to_dense()
        tensor([[ 0.7500, -0.5000,  0.0000],
                [-0.5000,  1.0000, -0.5000],
                [ 0.0000, -0.5000,  0.7500]])
        """
        with self._numbering():
            S = selected_inverse_of(*self._inner(), self._notes, self._failed)
        return SparseMatrix(S.pattern, self._without_failed(S.values))

    def inverse_diagonal(self) -> Tensor:
        """The diagonal of A^-1, (*B, n), exact and differentiable; see `selected_inverse`.

        For a precision matrix these are the marginal variances.

        Examples
        --------
        >>> import torch, sparse_solver as ss
        >>> ss.factorize(torch.tensor([[2.0, 1.0], [1.0, 2.0]])).inverse_diagonal()
        tensor([0.6667, 0.6667])
        """
        with self._numbering():
            return self._without_failed(inverse_diagonal_of(*self._inner(), self._notes, self._failed))

    def _without_failed(self, t: Tensor) -> Tensor:
        """NaN for items without a factor; constants, so that no gradient comes from there."""
        return t if self._failed is None else t.masked_fill(self._failed.unsqueeze(-1), math.nan)

    @torch.no_grad()
    def sample(
        self,
        shape: Sequence[int] | int = (),
        mean: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws from N(mean, A^-1), without derivatives; see `rsample`."""
        return self.rsample(shape, mean, generator)

    def rsample(
        self,
        shape: Sequence[int] | int = (),
        mean: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        r"""Draws from the normal distribution N(mean, A^-1), differentiable in A and mean.

        Parameters
        ----------
        shape : int or sequence of int
            How many draws, and in what shape.
        mean : Tensor, shape (*B, n), optional
            Zero if not given.
        generator : torch.Generator, optional

        Returns
        -------
        Tensor, shape (*shape, *B, n)
            Where unknowns were fixed, draws from the distribution given their values.

        Raises
        ------
        ValueError
            If A is not Hermitian, or `mean` is not of that shape.
        NotPositiveDefiniteError
            If A is not positive definite.

        Notes
        -----
        With the Cholesky factorisation :math:`A = P^T L L^H P` a draw is :math:`x = P^T L^{-H} z` for
        standard normal z. The derivative is that of this very map, for fixed z, so it agrees with
        finite differences under one generator state. First derivatives cost about as much as a
        factorisation, however many draws; second ones form n x n matrices. See docs/determinants.md.

        For complex A the draws are circular: :math:`E[x x^H] = A^{-1}`, :math:`E[x x^T] = 0`.

        References
        ----------
        H. Rue, Fast sampling of Gaussian Markov random fields, J. R. Stat. Soc. B 63 (2001) 325-338.

        Examples
        --------
        >>> import torch, sparse_solver as ss
        >>> F = ss.factorize(torch.eye(3) * 4)
        >>> F.rsample((2, 5)).shape
        torch.Size([2, 5, 3])
        """
        *batch, n, _ = self.matrix.shape
        if mean is not None and (mean.ndim == 0 or mean.shape[-1] != n):
            raise ValueError(
                f"A has shape {tuple(self.matrix.shape)} and mean {tuple(mean.shape)}; expected mean "
                f"of shape ({n},) or (*B, {n})"
            )
        with self._numbering():
            x = draws_of(*self._inner(), shape, generator)
        if self._fixed is None:
            return x if mean is None else x + mean
        return self._conditional(x, mean)

    def _conditional(self, x_f: Tensor, mean: Tensor | None) -> Tensor:
        """Draws of all unknowns given the prescribed ones, from draws of N(0, A_ff^-1)."""
        assert self._fixed is not None
        reduction, x_c = self._fixed
        if x_c.ndim != 1:
            raise ValueError(
                f"the values of fixed have shape {tuple(x_c.shape)}; draws are made for one set of "
                f"them, of shape ({x_c.shape[0]},)"
            )
        A = self.matrix
        # Solving A x = A m with x given at c is the conditional mean, m_f - A_ff^-1 A_fc (x_c - m_c).
        b = A.values.new_zeros(A.shape[:-1]) if mean is None else A @ mean.expand(A.shape[:-1])
        center = self.solve(b)  # type: ignore[attr-defined]
        none = torch.zeros_like(x_c, dtype=x_f.dtype).expand(*x_f.shape[:-1], -1)
        return center + reduction.place(x_f.unsqueeze(-1), none.unsqueeze(-1)).squeeze(-1)
