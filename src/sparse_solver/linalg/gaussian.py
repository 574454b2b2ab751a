"""Gaussian Markov random fields: densities, draws and a distribution, given a sparse precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from ..derivatives.half import half_solve
from ..derivatives.items import explicit_factor
from ..matrix import SparseMatrix
from ..matrix.products import product
from ..planning import Direct
from .contract import check_method, read_matrix
from .determinant import logdet_of
from .inverse import inverse_diagonal_of

__all__ = ["GaussianMarkovRandomField", "draws_of", "gaussian_log_prob"]

_DIRECT = Direct()


def gaussian_log_prob(
    A: Tensor | SparseMatrix,
    x: Tensor,
    mean: Tensor | None = None,
    *,
    assume: str = "spd",
    method: Direct = _DIRECT,
) -> Tensor:
    r"""Logarithm of the density of N(mean, A^-1) at x, differentiably, for a sparse precision A.

    Parameters
    ----------
    A : Tensor or SparseMatrix, shape (*B, n, n)
        The precision: Hermitian positive definite, which is verified.
    x : Tensor, shape (..., n)
        Its leading dimensions broadcast against ``*B``.
    mean : Tensor, shape (..., n), optional
        Zero if not given.
    assume, method
        As in `solve`.

    Returns
    -------
    Tensor
        Real, of the shape that ``x.shape[:-1]`` and ``*B`` broadcast to. For complex A the density is
        that of the circular normal distribution.

    Raises
    ------
    ValueError
        Shapes that do not fit, or A not Hermitian.
    NotPositiveDefiniteError
        If A is not positive definite.

    Notes
    -----
    .. math:: \tfrac12 \log\det A - \tfrac n2 \log 2\pi - \tfrac12 (x - m)^T A (x - m)

    One factorisation gives the determinant and its gradient; the quadratic form needs none.

    References
    ----------
    H. Rue and L. Held, Gaussian Markov Random Fields (2005), section 2.3.

    Examples
    --------
    >>> import torch, sparse_solver as ss
    >>> ss.gaussian_log_prob(torch.diag(torch.tensor([1.0, 4.0])), torch.tensor([0.0, 1.0]))
    tensor(-3.1447)
    """
    A, how = read_matrix(A), check_method(assume, method)
    return _log_prob(A, how, None, x, mean)


def _log_prob(
    A: SparseMatrix, how: str, token: Tensor | None, x: Tensor, mean: Tensor | None
) -> Tensor:
    n, batch = A.shape[-1], A.shape[:-2]
    for name, t in (("x", x), ("mean", mean)):
        if t is not None and (not isinstance(t, Tensor) or t.ndim == 0 or t.shape[-1] != n):
            shape = tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__
            raise ValueError(f"A has shape {tuple(A.shape)} and {name} {shape}; expected (..., {n})")
    if x.dtype != A.dtype:
        raise TypeError(f"A has dtype {A.dtype} and x {x.dtype}; write x.to({A.dtype})")
    r = x if mean is None else x - mean
    try:
        shape = torch.broadcast_shapes(r.shape[:-1], batch)
    except RuntimeError:
        raise ValueError(
            f"A has shape {tuple(A.shape)} and x {tuple(x.shape)}; their batch dimensions "
            f"{tuple(batch)} and {tuple(r.shape[:-1])} do not broadcast"
        ) from None
    # Dimensions of x alone become columns of one product.
    own = shape[: len(shape) - len(batch)]
    r = r.expand(*shape, n).reshape(math.prod(own), *shape[len(own) :], n).movedim(0, -1)
    rows, cols = A.pattern.indices(A.device)
    values = A.values.expand(*shape[len(own) :], A.nnz)
    square = (r.conj() * product(values, r, rows, cols, n, vector=False)).sum(-2)
    square = square.movedim(-1, 0).reshape(shape)
    log = logdet_of(A, how, token)
    if A.dtype.is_complex:
        return log.real - n * math.log(math.pi) - square.real
    return (log - n * math.log(2 * math.pi) - square) / 2


def draws_of(
    A: SparseMatrix,
    how: str,
    token: Tensor | None,
    shape: Sequence[int] | int,
    generator: torch.Generator | None,
) -> Tensor:
    """Draws (*shape, *B, n) from N(0, A^-1), differentiable in A: x = W^H z with A^-1 = W^H W."""
    shape = torch.Size((shape,) if isinstance(shape, int) else shape)
    *batch, n, _ = A.shape
    if token is None:
        token = explicit_factor(A.values, A.pattern, how)
    kind: dict[str, Any] = {"dtype": A.dtype, "device": A.device}
    z = torch.randn((*batch, n, shape.numel()), generator=generator, **kind)
    x = half_solve(A.values, z, token, A.pattern.handle, how, True)
    return x.movedim(-1, 0).reshape(*shape, *batch, n)


class GaussianMarkovRandomField(Distribution):
    """The multivariate normal distribution with a sparse precision matrix, N(mean, A^-1).

    In the manner of `torch.distributions.MultivariateNormal`. All methods share one factorisation,
    made when first needed.

    Parameters
    ----------
    precision : Tensor or SparseMatrix, shape (*B, n, n)
        A, symmetric positive definite, which is verified.
    mean : Tensor, shape (n,) or (*B, n), optional
        Zero if not given.
    method : Direct
        As in `solve`.
    validate_args : bool, optional
        As for any distribution of torch.

    Notes
    -----
    `rsample` is differentiable in A and mean, `log_prob` in all three; see `Factor.rsample`.

    Examples
    --------
    >>> import torch, sparse_solver as ss
    >>> A = torch.tensor([[2.0, -1.0], [-1.0, 2.0]])
    >>> field = ss.GaussianMarkovRandomField(A)
    >>> field.variance, field.log_prob(torch.zeros(2))
    (tensor([0.6667, 0.6667]), tensor(-1.2886))
    >>> field.rsample((5,)).shape
    torch.Size([5, 2])
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        precision: Tensor | SparseMatrix,
        mean: Tensor | None = None,
        *,
        method: Direct = _DIRECT,
        validate_args: bool | None = None,
    ) -> None:
        self.precision, self._how = read_matrix(precision), check_method("spd", method)
        if self.precision.dtype.is_complex:
            raise TypeError(f"precision has dtype {self.precision.dtype}; expected a real one")
        *batch, n, _ = self.precision.shape
        if mean is not None and mean.shape[-1:] != (n,):
            raise ValueError(
                f"precision has shape {tuple(self.precision.shape)} and mean {tuple(mean.shape)}; "
                f"expected mean of shape ({n},) or (*B, {n})"
            )
        self._mean = mean
        full = torch.Size(batch) if mean is None else torch.broadcast_shapes(batch, mean.shape[:-1])
        # Values of its own: later edits of the caller's reach neither these nor their factor.
        self._matrix = SparseMatrix(self.precision.pattern, self.precision.values.clone())
        self._token = explicit_factor(self._matrix.values, self._matrix.pattern, self._how)
        super().__init__(torch.Size(full), torch.Size((n,)), validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """The mean, (*B, n)."""
        like = self.precision.values
        if self._mean is None:
            return like.new_zeros((*self.batch_shape, *self.event_shape))
        return self._mean.expand(*self.batch_shape, *self.event_shape)

    @property
    def mode(self) -> Tensor:
        """The mode, which is the mean."""
        return self.mean

    @property
    def variance(self) -> Tensor:
        """The marginal variances, the diagonal of A^-1: (*B, n)."""
        v = inverse_diagonal_of(self._matrix, self._how, self._token, {})
        return v.expand(*self.batch_shape, *self.event_shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:  # type: ignore[override]
        """Draws (*sample_shape, *B, n), differentiable in precision and mean."""
        own = len(self.batch_shape) - len(self._matrix.shape[:-2])
        if self.batch_shape[own:] != self._matrix.shape[:-2]:
            raise NotImplementedError(
                f"precision has batch dimensions {tuple(self._matrix.shape[:-2])} and mean broadcasts "
                f"them to {tuple(self.batch_shape)}: expand precision's values"
            )
        # Batch dimensions of the mean alone ask for draws of their own.
        shape = (*sample_shape, *self.batch_shape[:own])
        x = draws_of(self._matrix, self._how, self._token, shape, None)
        return x if self._mean is None else x + self._mean

    def log_prob(self, value: Tensor) -> Tensor:
        """Logarithm of the density at value (..., n)."""
        if self._validate_args:
            self._validate_sample(value)
        return _log_prob(self._matrix, self._how, self._token, value, self._mean)

    def entropy(self) -> Tensor:
        """(n (1 + log 2 pi) - log det A) / 2, of shape (*B)."""
        (n,) = self.event_shape
        log = logdet_of(self._matrix, self._how, self._token).expand(self.batch_shape)
        return (n * (1 + math.log(2 * math.pi)) - log) / 2
