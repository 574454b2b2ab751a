"""`logdet` and `slogdet`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..derivatives import slogdet as rule
from ..derivatives.items import explicit_factor
from ..matrix import SparseMatrix
from ..planning import Direct
from .contract import check_method, read_matrix

__all__ = ["SlogdetResult", "logdet", "logdet_of", "slogdet", "slogdet_of"]

_DIRECT = Direct()


class SlogdetResult(NamedTuple):
    """The determinant as ``sign * exp(logabsdet)``, as `torch.linalg.slogdet` returns it."""

    sign: Tensor
    logabsdet: Tensor


def slogdet(
    A: Tensor | SparseMatrix, *, assume: str = "auto", method: Direct = _DIRECT
) -> SlogdetResult:
    r"""Sign and logarithm of the absolute value of det A, differentiably.

    Exact: from the pivots of a factorisation, as a sum of logarithms, so it neither overflows nor
    underflows. Its engine also gives the gradient, so value and gradient cost one factorisation, which
    `solve` uses as well for equal values.

    Parameters
    ----------
    A : Tensor or SparseMatrix, shape (*B, n, n)
    assume, method
        As in `solve`.

    Returns
    -------
    (sign, logabsdet)
        Of shape ``(*B)``. The sign is -1, 0 or 1, for complex A a complex number of absolute value one
        or 0; `logabsdet` is real. A singular matrix has (0, -inf).

    Raises
    ------
    ValueError, TypeError, NotPositiveDefiniteError, InaccurateSolveError
        As `solve`. A singular matrix raises only when a derivative of its determinant is asked for.

    Notes
    -----
    For a change :math:`dA` the change is :math:`d \log \det A = \operatorname{tr}(A^{-1} dA)`, so the
    gradient at nonzero (i, j) is the conjugate of :math:`(A^{-1})_{ji}`: entries of the inverse at the
    transposed nonzeros of A and nowhere else, which triangular factors give without further fill.
    The gradient is that of an unstructured matrix, whatever `assume` says. See docs/determinants.md.

    References
    ----------
    A. M. Erisman and W. F. Tinney, On computing certain elements of the inverse of a sparse matrix,
    CACM 18 (1975) 177-179.

    Examples
    --------
    >>> import torch, sparse_solver as ss
    >>> ss.slogdet(torch.tensor([[0.0, 2.0], [3.0, 1.0]]))
    SlogdetResult(sign=tensor(-1.), logabsdet=tensor(1.7918))
    """
    how = check_method(assume, method)
    return slogdet_of(read_matrix(A), how, None)


def logdet(A: Tensor | SparseMatrix, *, assume: str = "auto", method: Direct = _DIRECT) -> Tensor:
    r"""Logarithm of det A, differentiably; nan where a real determinant is negative.

    Parameters
    ----------
    A : Tensor or SparseMatrix, shape (*B, n, n)
    assume, method
        As in `solve`.

    Returns
    -------
    Tensor, shape (*B)
        -inf for a singular matrix. For complex A a complex number, its imaginary part in (-pi, pi].

    Raises
    ------
    ValueError, TypeError, NotPositiveDefiniteError, InaccurateSolveError
        As `slogdet`.

    Notes
    -----
    See `slogdet`. The second derivative is :math:`-\operatorname{tr}(A^{-1} dA A^{-1} dA)`, exact like
    the first, and so on.

    Examples
    --------
    >>> import torch, sparse_solver as ss
    >>> P = ss.Pattern([0, 0, 1, 1], [0, 1, 0, 1], (2, 2))
    >>> w = torch.tensor([2.0, 1.0, 1.0, 3.0], requires_grad=True)
    >>> loss = ss.logdet(P.assemble(w))
    >>> loss.detach()
    tensor(1.6094)
    >>> loss.backward()
    >>> w.grad
    tensor([ 0.6000, -0.2000, -0.2000,  0.4000])
    """
    how = check_method(assume, method)
    return logdet_of(read_matrix(A), how, None)


def _logarithm(A: SparseMatrix, how: str, token: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(log, values, token); of a transposed view through the matrix it views."""
    conj = A._conjugate and A._base is not None
    if A._base is not None:
        A = A._base
    pattern, values = A.pattern, A.values
    if token is None:
        token = explicit_factor(values, pattern, how)
    log = rule.log_determinant(values, token, pattern.handle, how)
    return (log.conj() if conj else log), values, token


def slogdet_of(A: SparseMatrix, how: str, token: Tensor | None) -> SlogdetResult:
    """For checked arguments; `token` is that of A, if there is one."""
    log, values, token = _logarithm(A, how, token)
    if not values.is_complex():
        pattern = A.pattern if A._base is None else A._base.pattern
        return SlogdetResult(rule.sign(values, token, pattern.handle, how), log)
    logabs, phase = log.real, log.imag
    unit = torch.polar(torch.ones_like(phase), phase)
    return SlogdetResult(torch.where(logabs > -torch.inf, unit, torch.zeros_like(unit)), logabs)


def logdet_of(A: SparseMatrix, how: str, token: Tensor | None) -> Tensor:
    """For checked arguments; `token` is that of A, if there is one."""
    log, values, token = _logarithm(A, how, token)
    if values.is_complex():
        return log
    pattern = A.pattern if A._base is None else A._base.pattern
    negative = rule.sign(values, token, pattern.handle, how) < 0
    return torch.where(negative, torch.full_like(log, torch.nan), log)
