"""A repeated small solve, in plain eager mode: one compiled call there and one back.

The rule is that of `solve` for real A: x = A^-1 b, lambda = A^-T g, b_bar = lambda, A_bar_ij =
-lambda_i x_j. What is saved is the factor itself, a tensor. Where anything is unusual, forward leaves
to the general path, and backward goes on as the general rule does, with a token made of that tensor.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..engines.simplicial import KEPT, SOLVED
from ..matrix import SparseMatrix
from ..matrix.plain import are_ordinary
from ..planning import Direct, touch
from .solve import adjoint
from .token import token_of

__all__ = ["quick"]

_is_compiling = torch.compiler.is_compiling
_hooked = torch._C._autograd._top_saved_tensors_default_hooks


class _Unusual(Exception):
    """This step is for the general path."""


def quick(A: SparseMatrix | Tensor, b: Tensor, assume: str, method: Direct) -> Tensor | None:
    """x with A x = b by a compiled step, or None where there is none for it."""
    if _is_compiling() or type(A) is not SparseMatrix or A._pattern is None:
        return None
    slot = A._pattern.recent()
    step = None if slot is None else slot.step
    if step is None or assume != step.assume or method.key != step.key:
        return None
    values = A._values
    if not (
        isinstance(b, Tensor)
        and values.dtype is b.dtype is step.dtype  # type: ignore[union-attr]
        and b.dim() == values.dim() == 1  # type: ignore[union-attr]
        and b.numel() == step.n
        and values.numel() == step.nnz  # type: ignore[union-attr]
        and are_ordinary(values, b)  # type: ignore[arg-type]
        and values.is_contiguous()  # type: ignore[union-attr]
        and b.is_contiguous()
        and _hooked(False) is None  # checkpoints expect to see what they saw the first time
    ):
        return None
    touch(A._pattern)
    try:
        return _apply(values, b, slot, step)
    except _Unusual:
        return None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, b, slot, step):  # type: ignore[no-untyped-def]
        verdict, store, x = step.forward(values, b, slot.store)
        if verdict < 0:
            slot.step = None
            raise _Unusual
        if not verdict & KEPT:
            slot.factored, slot.store = None, store
        if not verdict & SOLVED:
            raise _Unusual
        ctx.save_for_backward(values, x, store)
        ctx.step = step
        return x

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        values, x, store = ctx.saved_tensors
        step = ctx.step
        if not torch.is_grad_enabled() and are_ordinary(g, x):
            found = step.backward(store, g.contiguous(), x)
            if found is not None:
                return *found, None, None
        token, P = token_of([step.factored(store)], ()), step.planner.pattern
        system = P.rows, P.cols, P.handle, step.assume + step.key, False
        return *adjoint(g, values, x, token, *system, ctx.needs_input_grad[0]), None, None


# Without what torch does for transforms, which are never active here.
_apply: Callable[..., Tensor] = super(torch.autograd.Function, _Step).apply  # type: ignore[misc]
