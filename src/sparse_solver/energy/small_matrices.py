"""Determinants, inverses and products of small matrices by their formulas, while a local function runs.

torch's own go through factorisations made for large matrices. Mapped over elements they are slow, and
their second derivatives are wrong in places: those of `torch.linalg.det` are NaN at the identity - the
state of rest of an elastic body - and plainly false under vmap of forward over reverse mode (torch
2.13). A formula has neither trouble, and with the element innermost in memory it is faster.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["SmallMatrices"]

_LARGEST = 3  # rows of matrices that formulas serve
_PRODUCT = 64  # terms of a product


class SmallMatrices(TorchFunctionMode):
    """While active, small matrices are worked on entry by entry."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The formula where there is one, else what torch does."""
        formula = _FORMULAS.get(func)
        if formula is not None and not kwargs:
            out = formula(*args)
            if out is not NotImplemented:
                return out
        return func(*args, **(kwargs or {}))


def _is_small(A: Any) -> bool:
    if not isinstance(A, Tensor) or A.ndim < 2 or not A.is_floating_point():
        return False
    n, m = A.shape[-2:]
    return n == m and 1 <= n <= _LARGEST


def _entries(A: Tensor) -> list[list[Tensor]]:
    return [list(row.unbind(-1)) for row in A.unbind(-2)]


def _determinant(a: list[list[Tensor]]) -> Tensor:
    if len(a) == 1:
        return a[0][0]
    if len(a) == 2:
        return a[0][0] * a[1][1] - a[0][1] * a[1][0]
    first = a[0][0] * (a[1][1] * a[2][2] - a[1][2] * a[2][1])
    second = a[0][1] * (a[1][0] * a[2][2] - a[1][2] * a[2][0])
    return first - second + a[0][2] * (a[1][0] * a[2][1] - a[1][1] * a[2][0])


def _det(A: Tensor) -> Any:
    return _determinant(_entries(A)) if _is_small(A) else NotImplemented


def _logdet(A: Tensor) -> Any:
    return _determinant(_entries(A)).log() if _is_small(A) else NotImplemented


def _slogdet(A: Tensor) -> Any:
    if not _is_small(A):
        return NotImplemented
    det = _determinant(_entries(A))
    return det.sign(), det.abs().log()


def _inverse(A: Tensor) -> Any:
    if not _is_small(A):
        return NotImplemented
    a, n = _entries(A), A.shape[-1]
    det = _determinant(a)
    if n == 1:
        cofactors = [[torch.ones_like(det)]]
    elif n == 2:
        cofactors = [[a[1][1], -a[0][1]], [-a[1][0], a[0][0]]]
    else:

        def minor(i: int, j: int) -> Tensor:  # of row j and column i, signed by the cyclic order
            r, s, p, q = (j + 1) % 3, (j + 2) % 3, (i + 1) % 3, (i + 2) % 3
            return a[r][p] * a[s][q] - a[r][q] * a[s][p]

        cofactors = [[minor(i, j) for j in range(3)] for i in range(3)]
    return torch.stack([torch.stack(row, -1) for row in cofactors], -2) / det[..., None, None]


def _matmul(A: Tensor, B: Tensor) -> Any:
    if not isinstance(A, Tensor) or not isinstance(B, Tensor) or A.dtype != B.dtype:
        return NotImplemented
    if A.ndim < 2 or B.ndim < 2 or A.shape[-1] != B.shape[-2]:
        return NotImplemented  # errors are torch's to make
    if A.shape[-2] * A.shape[-1] * B.shape[-1] > _PRODUCT or A.ndim > 2 or B.ndim > 2:
        return NotImplemented
    return (A.unsqueeze(-1) * B.unsqueeze(-3)).sum(-2)


_FORMULAS: dict[Any, Callable[..., Any]] = {
    torch.linalg.det: _det,
    torch.det: _det,
    Tensor.det: _det,
    torch.logdet: _logdet,
    Tensor.logdet: _logdet,
    torch.linalg.slogdet: _slogdet,
    torch.slogdet: _slogdet,
    Tensor.slogdet: _slogdet,
    torch.linalg.inv: _inverse,
    torch.inverse: _inverse,
    Tensor.inverse: _inverse,
    torch.matmul: _matmul,
    torch.mm: _matmul,
    Tensor.matmul: _matmul,
    Tensor.mm: _matmul,
    Tensor.__matmul__: _matmul,
}
