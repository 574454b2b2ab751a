"""Numerical failure told in numbers rather than raised: `factorize_ex`, and what `solve_ex` shares."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ..derivatives import solve as rule
from ..derivatives.token import batch_of, there_of
from ..errors import NonFiniteError, code_of
from ..matrix import SparseMatrix
from ..matrix.plain import refuse_compiling
from ..planning import BatchFactored, Direct
from ..planning.on_device import DeviceBatch, Lone
from .contract import check_method, is_vector, read_matrix
from .factor import Factor, make_factor
from .fixed import read_fixed
from .system import nan_where, solve_system

__all__ = ["batch_behind", "factorize_ex", "info_of", "solve_inside"]

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


def batch_behind(F: Factor) -> BatchFactored | DeviceBatch | None:
    """The batch of a Factor, unless a transform or a copy hides it."""
    found = None if F._token is None or not F._token.ndim else batch_of(F._token)
    if found is not None:
        return found[0]
    there = None if F._token is None else there_of(F._token)
    return None if there is None or isinstance(there[0], Lone) else there[0]


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


def solve_inside(
    A: SparseMatrix, b: Tensor, how: str, fixed: tuple[Any, Tensor] | None, modes: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """(x, info) where tensors stand for others: in torch.func's transforms and compiled code."""
    tail = 1 if is_vector(A.shape, b.shape) else 2
    if torch.broadcast_shapes(A.shape[:-2], b.shape[:-tail]) != A.shape[:-2] and A.ndim > 2:
        raise ValueError(
            f"A has shape {tuple(A.shape)} and b has shape {tuple(b.shape)}; solve_ex reports per item "
            "of A, so b must not have more batch dimensions than A: expand A's values"
        )
    A = SparseMatrix(A.pattern, A.values)
    reading = None if fixed is None else read_fixed(A.pattern, fixed)
    inner = A if reading is None else reading[0].matrix(A)
    token, info = rule.factor_ex(inner.values, inner.pattern, how)
    x = solve_system(A, b, how, fixed=reading, token=token, **modes)
    x = nan_where(info != 0, x, A.shape, b.shape)
    if reading is not None:  # free unknowns in the numbering of all; n + 1; -1
        free, n = reading[0].free, A.shape[-1]
        ends = torch.tensor([0]), torch.tensor([n + 1, -1])
        info = torch.cat([ends[0], free + 1, ends[1]]).to(info)[info.long()]
    return x, info
