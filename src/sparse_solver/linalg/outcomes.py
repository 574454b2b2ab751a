"""Numerical failure told in numbers rather than raised: `factorize_ex`, and what `solve_ex` shares."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ..derivatives.token import batch_of
from ..errors import InaccurateSolveError, NonFiniteError, NotConvergedError
from ..matrix import SparseMatrix
from ..matrix.plain import refuse_compiling
from ..planning import BatchFactored, Direct
from .contract import check_method, read_matrix
from .factor import Factor, make_factor

__all__ = ["batch_behind", "code_of", "factorize_ex", "info_of"]

_DIRECT = Direct()


def factorize_ex(
    A: Tensor | SparseMatrix,
    *,
    assume: str = "auto",
    method: Direct = _DIRECT,
    fixed: tuple[Any, Tensor] | None = None,
) -> tuple[Factor | None, Tensor]:
    """Factor A and report numerical failure instead of raising it.

    Parameters
    ----------
    A, assume, method, fixed
        As in `factorize`.

    Returns
    -------
    (F, info)
        `info` as in `solve_ex`. Of a batch, F serves the items whose info is 0; its answers to the
        others are NaN, and send no gradient anywhere. Of a single matrix, F is None if info is not 0.

    Examples
    --------
    >>> import torch, sparse_solver as ss
    >>> F, info = ss.factorize_ex(torch.tensor([[0.0, 1.0], [0.0, 2.0]]))
    >>> F is None, int(info)
    (True, 1)
    >>> P = ss.Pattern([0, 1], [0, 1], (2, 2))
    >>> A = ss.SparseMatrix(P, torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    >>> F, info = ss.factorize_ex(A)
    >>> info, F.solve(torch.ones(2))
    (tensor([0, 1], dtype=torch.int32), tensor([[1.0000, 0.5000], [   nan,    nan]]))
    """
    refuse_compiling("factorize_ex was called")
    how, A = check_method(assume, method), read_matrix(A)
    if len(A.shape) > 2:
        F = make_factor(A, how, fixed, reuse=False, tolerant=True)
        info = info_of(F)
        F._failed = info != 0 if bool(info.any()) else None
        return F, info
    try:
        return make_factor(A, how, fixed, reuse=False), _number(0, A)
    except (torch.linalg.LinAlgError, NonFiniteError) as error:
        return None, _number(code_of(error, A.shape[-1]), A)


def _number(code: int, A: SparseMatrix) -> Tensor:
    return torch.tensor(code, dtype=torch.int32, device=A.device)


def batch_behind(F: Factor) -> BatchFactored | None:
    """The batch of a Factor, unless a transform or a copy hides it."""
    found = None if F._token is None or not F._token.ndim else batch_of(F._token)
    return None if found is None else found[0]


def info_of(F: Factor) -> Tensor:
    """The failures kept by the batch behind F, as `info` numbers (*B)."""
    batch, shape = batch_behind(F), F.shape[:-2]
    info = torch.zeros(shape, dtype=torch.int32)
    for item, error in (batch.errors if batch else {}).items():
        try:
            with nullcontext() if F._fixed is None else F._fixed[0].own_numbering():
                raise copy.copy(error)  # its numbering is changed on the way
        except (torch.linalg.LinAlgError, NonFiniteError) as named:
            info.view(-1)[item] = code_of(named, F.shape[-1])
            named.__traceback__ = None  # its frames would keep F
    return info.to(F.matrix.device)


def code_of(error: Exception, n: int) -> int:
    """A failure as torch.linalg's `info` numbers tell it."""
    if isinstance(error, NonFiniteError):
        return n + 1
    if isinstance(error, (InaccurateSolveError, NotConvergedError)):
        return -1
    index = getattr(error, "index", None)
    return -1 if index is None else index + 1
