"""The way of a tensor through a solve: one path for every verb.

read and check -> [prescribed unknowns] -> token of the factor -> x, with its derivative
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..derivatives import solve as rule
from ..matrix import SparseMatrix
from ..matrix.plain import conjugate
from .contract import REAL, check_system, is_vector
from .fixed import Reduction

__all__ = ["orient", "solve_system"]


def orient(A: SparseMatrix, adjoint: bool, transpose: bool) -> tuple[SparseMatrix, bool, bool]:
    """(B, trans, conj): the asked-for system is B x = b, or B^T x = b if `trans`, with B conjugated
    if `conj`. Transposed views fall back on the matrix they view, whose factor they share.
    """
    if adjoint and transpose:
        raise ValueError("adjoint=True and transpose=True exclude each other; choose A^H or A^T")
    trans, conj = adjoint or transpose, adjoint and A.dtype.is_complex
    if A._base is not None:
        trans, conj, A = not trans, conj != A._conjugate, A._base
    return A, trans, conj


def solve_system(
    A: SparseMatrix,
    b: Tensor,
    how: str,
    *,
    adjoint: bool = False,
    transpose: bool = False,
    fixed: tuple[Reduction, Tensor] | None = None,
    token: Tensor | None = None,
) -> Tensor:
    """x for checked options; `token` is that of A, or of A_ff where unknowns are fixed."""
    check_system(A, b)
    A, trans, conj = orient(A, adjoint, transpose)
    if fixed is not None:
        return _solve_fixed(A, b, how, trans, conj, *fixed, token)
    return _solve_oriented(A, b, how, trans, conj, token)


def _solve_oriented(
    A: SparseMatrix, b: Tensor, how: str, trans: bool, conj: bool, token: Tensor | None
) -> Tensor:
    pattern, values = A.pattern, A.values
    if b.is_complex() != values.is_complex():
        if not b.is_complex():
            b = b.to(values.dtype)
        else:  # a real matrix acts on real and imaginary parts alike: two columns, one real factor
            parts = torch.view_as_real(b)
            if is_vector(A.shape, b.shape):
                return torch.view_as_complex(
                    _solve_oriented(A, parts, how, trans, False, token).contiguous()
                )
            columns = _solve_oriented(A, parts.flatten(-2), how, trans, False, token)
            return torch.view_as_complex(columns.unflatten(-1, (-1, 2)).contiguous())
    if b.ndim > 2 or values.ndim > 1:
        values, b = _broadcast(values, b, A.shape)
        if token is not None:
            token = token.expand(values.shape[:-1])
    if token is None:
        token = rule.factor(values, pattern, how)
    rows, cols = pattern.indices(values.device)
    if conj:  # conj(A) x = b  <=>  A conj(x) = conj(b)
        b = conjugate(b)
        return conjugate(rule.solve(values, b, token, rows, cols, pattern.handle, how, trans))
    return rule.solve(values, b, token, rows, cols, pattern.handle, how, trans)


def _broadcast(values: Tensor, b: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    vector = is_vector(shape, b.shape)
    tail = 1 if vector else 2
    batch = torch.broadcast_shapes(values.shape[:-1], b.shape[:-tail])
    return values.expand(*batch, values.shape[-1]), b.expand(*batch, *b.shape[-tail:])


def _solve_fixed(
    A: SparseMatrix,
    b: Tensor,
    how: str,
    trans: bool,
    conj: bool,
    reduction: Reduction,
    x_c: Tensor,
    token: Tensor | None,
) -> Tensor:
    if REAL.get(x_c.dtype) != REAL[A.dtype]:
        raise TypeError(
            f"A has dtype {A.dtype} and the values of fixed {x_c.dtype}; write values.to({A.dtype})"
        )
    vector = is_vector(A.shape, b.shape)
    columns = b.unsqueeze(-1) if vector else b
    prescribed = x_c.unsqueeze(-1) if x_c.ndim == 1 else x_c
    try:
        k = torch.broadcast_shapes(columns.shape[-1:], prescribed.shape[-1:])
    except RuntimeError:
        raise ValueError(
            f"b has shape {tuple(b.shape)} and the values of fixed {tuple(x_c.shape)}; expected the "
            f"same number of columns, {columns.shape[-1]}, or none"
        ) from None
    batch = torch.broadcast_shapes(columns.shape[:-2], A.shape[:-2])
    dtype = torch.promote_types(torch.promote_types(A.dtype, b.dtype), x_c.dtype)
    columns = columns.expand(*batch, columns.shape[-2], *k).to(dtype)
    prescribed = prescribed.expand(*batch, prescribed.shape[-2], *k).to(dtype)
    rhs = reduction.right_hand_side(A, columns, prescribed, trans, conj)
    A_ff = reduction.matrix(A)
    with reduction.own_numbering():
        if rhs.shape[-1] == 1 and not batch:
            x_f = _solve_oriented(A_ff, rhs.squeeze(-1), how, trans, conj, token).unsqueeze(-1)
        else:
            x_f = _solve_oriented(A_ff, rhs, how, trans, conj, token)
    x = reduction.place(x_f, prescribed)
    return x.squeeze(-1) if vector and x_c.ndim == 1 else x
