"""The way of a tensor through a solve: one path for every verb.

read and check -> [prescribed unknowns] -> token of the factor -> x, with its derivative
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..derivatives import solve as rule
from ..matrix import SparseMatrix
from ..matrix.plain import conjugate
from .contract import REAL, check_system, common_batch, is_vector
from .fixed import Reduction

__all__ = ["nan_where", "orient", "solve_system"]


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


def nan_where(failed: Tensor, x: Tensor, A_shape: torch.Size, b_shape: torch.Size) -> Tensor:
    """x with NaN for failed items (*B); constants, so their gradients are zero."""
    tail = 1 if is_vector(A_shape, b_shape) else 2
    ones = (1,) * (x.ndim - len(torch.broadcast_shapes(A_shape[:-2], b_shape[:-tail])))
    return x.masked_fill(failed.reshape(*failed.shape, *ones), math.nan)


def _solve_oriented(
    A: SparseMatrix, b: Tensor, how: str, trans: bool, conj: bool, token: Tensor | None
) -> Tensor:
    pattern, values = A.pattern, A.values
    if token is None:
        token = rule.factor(values, pattern, how)
    rows, cols = pattern.indices(values.device)

    def rule_for(values: Tensor, b: Tensor, token: Tensor) -> Tensor:
        return rule.solve(values, b, token, rows, cols, pattern.handle, how, trans)

    if b.ndim > 2 or values.ndim > 1:
        return _solve_batch(A, b, token, rule_for, conj)
    return _in_field_of(values, b, conj, lambda b: rule_for(values, b, token), b.ndim == 1)


def _in_field_of(
    values: Tensor, b: Tensor, conj: bool, solve: Callable[[Tensor], Tensor], vector: bool
) -> Tensor:
    """Solve for b real or complex, whatever A is, and with A conjugated if `conj`."""
    if values.is_complex():
        b = b if b.is_complex() else b.to(values.dtype)
        # conj(A) x = b  <=>  A conj(x) = conj(b)
        return conjugate(solve(conjugate(b))) if conj else solve(b)
    if not b.is_complex():
        return solve(b)
    # A real matrix acts on real and imaginary parts alike: two columns, one real factor.
    parts = torch.view_as_real(b.resolve_conj())
    if vector:
        return torch.view_as_complex(solve(parts).contiguous())
    x = solve(parts.flatten(-2)).unflatten(-1, (-1, 2))
    return torch.view_as_complex(x.contiguous())


def _solve_batch(
    A: SparseMatrix,
    b: Tensor,
    token: Tensor,
    rule_for: Callable[[Tensor, Tensor, Tensor], Tensor],
    conj: bool,
) -> Tensor:
    """Items over matrices; batch dimensions in which A is one matrix become columns of one solve."""
    values, vector = A.values, is_vector(A.shape, b.shape)
    b = b.unsqueeze(-1) if vector else b  # (*B, n, k)
    batch = common_batch(values.shape[:-1], b.shape[:-2])
    if values.ndim == 1:
        k = b.shape[-1]
        columns = b.movedim(-2, 0).flatten(1)  # (n, prod(B) k)
        x = _in_field_of(values, columns, conj, lambda b: rule_for(values, b, token), False)
        x = x.unflatten(1, (*batch, k)).movedim(0, -2)
    else:

        def solve(b: Tensor) -> Tensor:  # which is repeated last of all, so that nothing copies it
            return _solve_items(values, b.expand(*batch, *b.shape[-2:]), token, rule_for)

        x = _in_field_of(values, b, conj, solve, False)
    return x.squeeze(-1) if vector else x


def _solve_items(
    values: Tensor,
    b: Tensor,
    token: Tensor,
    rule_for: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """x for values (*A, nnz) and b (*B, n, k), of which A broadcasts to B.

    Neither is copied to fit the other: where b repeats, its strides are zero.
    """
    batch = b.shape[:-2]
    own = (1,) * (len(batch) - values.ndim + 1) + tuple(values.shape[:-1])
    lone = [d for d, (one, all_) in enumerate(zip(own, batch, strict=True)) if one == 1 != all_]
    if not lone and len(own) == values.ndim - 1:
        return rule_for(values, b, token)
    kept = [d for d in range(len(batch)) if d not in lone]
    sizes = [own[d] for d in kept] or [1]
    order = [*kept, len(batch), *lone, len(batch) + 1]
    columns = b.permute(order).reshape(*sizes, b.shape[-2], -1)
    values, token = values.reshape(*sizes, values.shape[-1]), token.reshape(sizes)
    x = rule_for(values, columns, token).reshape([b.shape[d] for d in order])
    return x.permute([order.index(d) for d in range(len(order))])


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
